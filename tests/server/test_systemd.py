"""What systemd hears, and the sockets it hands over."""

import os
import socket
import subprocess
import sys

import pytest

from poolkeeper.server.systemd import Notifier, inherited_sockets


class Listener:
    """Stands in systemd's place at the other end of NOTIFY_SOCKET."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(60)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.socket.close()

    def hear(self):
        return self.socket.recv(4096).decode().split("\n")

    def wait_for(self, line):
        while line not in (heard := self.hear()):
            pass
        return heard


@pytest.fixture(params=["path", "abstract"])
def address(request, tmp_path):
    return f"@poolkeeper-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")


def test_systemd_hears_what_it_waits_for(address):
    """In a socket with a path and in one without."""
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "PATH": "/bin"}
    with Listener(address) as systemd:
        notifier = Notifier.from_environment(environ)
        notifier.ready("serving")
        assert systemd.hear() == ["READY=1", "STATUS=serving"]
        notifier.status("paused\nREADY=1")
        assert systemd.hear() == ["STATUS=paused READY=1"]
        notifier.alive()
        assert systemd.hear() == ["WATCHDOG=1"]
        notifier.stopping(1.5)
        assert systemd.hear() == ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=1500000"]
    assert environ == {"PATH": "/bin"}
    assert notifier.watchdog_seconds == 3


def test_nobody_is_told_where_nobody_listens(tmp_path):
    """Neither without a socket nor with one whose owner is gone."""
    for notifier in (Notifier(None, 1.0), Notifier(str(tmp_path / "gone"), 1.0)):
        notifier.ready("serving")
        notifier.alive()
    assert not Notifier(None)


def test_a_watchdog_of_another_process_is_none_of_ours():
    """systemd says whose it is."""
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    assert Notifier.from_environment(environ).watchdog_seconds is None
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}
    assert Notifier.from_environment(environ).watchdog_seconds is None


def test_sockets_meant_for_another_process_are_left_alone():
    """And where none were passed, there are none."""
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "http"}
    assert inherited_sockets(environ) == []
    assert environ == {}
    assert inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}) == []


def test_what_is_not_a_listening_socket_is_refused():
    """With the words of the socket unit."""
    program = (
        "import os\n"
        "from poolkeeper.server.systemd import inherited_sockets\n"
        "os.dup2(os.pipe()[1], 3)\n"
        "inherited_sockets({'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "descriptor 3, passed in LISTEN_FDS, cannot be used" in done.stderr
    assert "Suggestion: use ListenStream= in the socket unit" in done.stderr
