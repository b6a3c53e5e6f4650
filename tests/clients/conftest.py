"""Node, the packages of this folder, and a server for its programs."""

import fcntl
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.clients.node import HERE, Node
from tests.server.processes import ServerProcess

_LOCK_FILE = HERE / "package-lock.json"


def _missing(what: str) -> None:
    """Skip on a developer's machine; in CI these tests have to run."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def node() -> Node:
    """Node with the locked packages; installs them once for all workers."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            _missing(f"{program} is not installed. Suggestion: apt-get install nodejs npm")
    wanted = hashlib.sha256(_LOCK_FILE.read_bytes()).hexdigest()
    stamp = HERE / "node_modules" / ".installed"
    place = hashlib.sha256(str(HERE).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"poolkeeper-npm-{place}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            install = subprocess.run(
                ["npm", "ci", "--no-progress"],
                cwd=HERE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=100,
                check=False,
            )
            if install.returncode:
                _missing(f"npm ci failed in {HERE.name}: {install.stdout[-2000:]}")
            stamp.write_text(wanted)
    return Node()


@pytest.fixture(scope="module")
def server(postgres_server):
    """A running server on a database of its own, for all programs of a file."""
    name = f"clients_{secrets.token_hex(6)}"
    url = postgres_server.create_database(name)
    options = ("--port=0", "--max-size=4", "--statement-timeout=0", "--request-timeout=90")
    with ServerProcess(*options, database_url=url) as process:
        process.database_url = url
        yield process.start()
