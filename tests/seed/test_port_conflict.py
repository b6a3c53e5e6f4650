"""``poolkeeper serve`` on a port that is taken."""

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


def processes_with(mark: str) -> list[psutil.Process]:
    """Every process that has ``mark`` in its environment, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ().values():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def taken_port():
    """A port with a listener of this process on it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def serve(port: int, data_dir: Path, mark: str) -> subprocess.CompletedProcess[str]:
    """Start the server as a user would; its database would live in ``data_dir``."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and not name.startswith(("POOL_", "POOLKEEPER_"))
    }
    command = [sys.executable, "-m", "poolkeeper", "serve"]
    return subprocess.run(
        [*command, "--port", str(port), "--data-dir", str(data_dir)],
        env=environment | {"STARTED_BY_TEST": mark},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_taken_port_gives_one_clear_message_and_leaves_nothing_running(
    taken_port: int, tmp_path: Path
) -> None:
    """The port, who holds it, what to do; no traceback, no database started, no process left."""
    mark = secrets.token_hex(16)
    done = serve(taken_port, tmp_path / "data", mark)
    assert done.returncode == 1
    assert done.stdout == ""
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"Cannot start server: port {taken_port} on 127.0.0.1 ")
    assert "is already in use" in message
    if sys.platform == "linux":
        assert f"pid {os.getpid()} " in message
    assert "Suggestion: " in message
    assert "--port" in message
    assert processes_with(mark) == []
    assert not (tmp_path / "data").exists()


def test_holder_of_the_port_is_not_disturbed(taken_port: int, tmp_path: Path) -> None:
    """Whoever listens there goes on accepting; nobody knocked."""
    with socket.create_connection(("127.0.0.1", taken_port)) as before:
        serve(taken_port, tmp_path / "data", secrets.token_hex(16))
        before.sendall(b"still here")
    with socket.create_connection(("127.0.0.1", taken_port)):
        pass
