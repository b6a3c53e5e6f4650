"""The user's own test file, as it is: what of it passes, and what fails by its own fault."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]

# both fail whatever is tested: the one uses a name it never imports, the other asks for `5 in "5"`
OWN_DEFECTS = {
    "test_connection_pool_graceful_shutdown": "NameError: name 'PoolClosedError' is not defined",
    "test_port_conflict_error_handling": "TypeError: 'in <string>' requires string",
}
SOUND = {
    "test_connection_pool_exhaustion_handling",
    "test_connection_pool_initialization_failure",
    "test_database_connection_validation_failure",
    "test_database_reconnection_after_failure",
}


def test_users_file_is_collected_and_fails_only_by_its_own_defects(tmp_path: Path) -> None:
    """Dropped into ``tests/`` unchanged, its imports resolve and its sound tests pass."""
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(HERE / "user_test_resilience.txt", tests / "test_resilience.py")
    shutil.copy(PROJECT / "tests" / "conftest.py", tests)
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    report = tmp_path / "report.xml"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={report}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    failures = {
        str(case.get("name")): None if failure is None else str(failure.get("message"))
        for case in ET.parse(report).iter("testcase")
        for failure in [case.find("failure")]
    }
    assert {name for name, message in failures.items() if message is None} == SOUND
    failed = {name: message for name, message in failures.items() if message is not None}
    assert failed.keys() == OWN_DEFECTS.keys()
    for name, message in failed.items():
        assert message.startswith(OWN_DEFECTS[name])
