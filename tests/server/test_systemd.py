"""What systemd hears, and the sockets it hands over."""

import os
import socket
import subprocess
import sys

import httpx
import pytest

from poolkeeper.server.systemd import Notifier, inherited_sockets
from tests.server.processes import ServerProcess, until


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


def test_a_server_tells_systemd_how_it_is(postgres, tmp_path):
    """Ready once it serves, alive while it does, and how long the end may take."""
    address = str(tmp_path / "notify")
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
    with (
        Listener(address) as systemd,
        ServerProcess(
            *("--port=0", "--drain-delay=0.5", "--drain-timeout=3"),
            database_url=postgres.url,
            env=env,
        ) as server,
    ):
        systemd.wait_for("READY=1")
        server.start()
        for _ in range(3):
            systemd.wait_for("WATCHDOG=1")
        server.client.post(f"{server.url}/admin/pause")
        systemd.wait_for("STATUS=paused")
        server.client.post(f"{server.url}/admin/resume")
        systemd.wait_for("STATUS=serving")
        server.signal()
        heard = systemd.wait_for("STOPPING=1")
        assert heard == ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=7500000"]
        # The loop goes on turning to the end.
        systemd.wait_for("WATCHDOG=1")
        assert server.end()[0] == 0


def test_a_server_takes_over_the_socket_that_systemd_holds(postgres):
    """A client that came before it started is served; the port is systemd's, not the option's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        early = socket.create_connection(listening.getsockname(), timeout=60)
        early.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        # As systemd does it: the socket is descriptor 3, and the variables name this process.
        program = (
            "import os, sys\n"
            f"os.dup2({listening.fileno()}, 3)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'poolkeeper', 'serve', '--port=1'])"
        )
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("POOL")}
        with subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=[listening.fileno()],
            env={**inherited, "DATABASE_URL": postgres.url},
            stderr=subprocess.PIPE,
        ) as process:
            with early, early.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
            until(lambda: httpx.get(f"{url}/readyz", timeout=60).status_code == 200)
            process.terminate()
            _, log = process.communicate(timeout=60)
        assert process.returncode == 0
        assert url in log.decode()
