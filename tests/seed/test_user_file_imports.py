"""The names a test file of the user's imports are ours."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import poolkeeper.config
import poolkeeper.exceptions
import poolkeeper.manager


def test_imports_from_src_connection_pool_are_our_classes() -> None:
    """The same classes, not copies: ``except`` and ``isinstance`` work across both names."""
    # as in the user's file; a static import would not resolve for the type checker
    config = importlib.import_module("src.connection_pool.config")
    exceptions = importlib.import_module("src.connection_pool.exceptions")
    manager = importlib.import_module("src.connection_pool.manager")
    assert config.PoolConfig is poolkeeper.config.PoolConfig
    assert manager.ConnectionPoolManager is poolkeeper.manager.ConnectionPoolManager
    for name in (
        "ConnectionPoolError",
        "ConnectionValidationError",
        "PoolClosedError",
        "PoolConfigurationError",
        "PoolInitializationError",
        "PoolTimeoutError",
    ):
        assert getattr(exceptions, name) is getattr(poolkeeper.exceptions, name)


USERS_FILE = """
import pytest
from src.connection_pool.config import PoolConfig
from src.connection_pool.exceptions import ConnectionPoolError, PoolTimeoutError
from src.connection_pool.manager import ConnectionPoolManager


@pytest.mark.asyncio
async def test_timeout() -> None:
    PoolConfig(
        database_url="postgresql+asyncpg://test@localhost/test_db",
        min_size=2,
        max_size=5,
        timeout=5.0,
    )
    with pytest.raises(PoolTimeoutError):
        raise PoolTimeoutError("Connection acquisition timeout after 1.0s.")
"""


def test_a_file_dropped_into_tests_is_collected_and_run(tmp_path: Path) -> None:
    """As ``tests/test_resilience.py``, with this project's conftest and pytest options."""
    project = Path(__file__).parents[2]
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_resilience.py").write_text(USERS_FILE)
    shutil.copy(project / "tests" / "conftest.py", tmp_path / "tests")
    shutil.copy(project / "pyproject.toml", tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(project / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
