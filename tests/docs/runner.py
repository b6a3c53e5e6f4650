"""Run a script of the documentation as its reader would: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.markdown import ROOT


def run(*command: str | Path, cwd: Path, database_url: str | None = None) -> str:
    """Output of a Python command that must succeed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and not name.startswith(("POOL", "PYTEST"))
    }
    environment["PYTHONPATH"] = str(ROOT / "src")
    if database_url is not None:
        environment["DATABASE_URL"] = database_url
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
