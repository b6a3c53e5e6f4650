"""Listening, and the reasons why it may not be possible."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from poolkeeper.port_holder import find_port_holder
from poolkeeper.server.listener import ListenError, bind, is_loopback


def close(sockets):
    for sock in sockets:
        sock.close()


def test_the_port_is_held_from_the_first_moment():
    """Clients can connect before anybody accepts."""
    sockets = bind("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(ListenError):
            bind("127.0.0.1", port)
    finally:
        close(sockets)
    close(bind("127.0.0.1", port))


def test_a_port_held_by_another_process_names_it():
    """Pid and name, and what to do."""
    program = "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
    program += "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        port = int(holder.stdout.readline())
        with pytest.raises(ListenError) as refusal:
            bind("127.0.0.1", port)
        name = psutil.Process(holder.pid).name()
        assert f"port {port} on 127.0.0.1 is already in use by pid {holder.pid} ({name})" in str(
            refusal.value
        )
        assert "Suggestion: stop that process or choose another port with --port." in str(
            refusal.value
        )
        assert refusal.value.holder_pid == holder.pid
        assert refusal.value.__cause__.errno == errno.EADDRINUSE
        holder.stdin.close()


def test_nobody_holds_a_free_port():
    """Closed sockets are not listeners."""
    sockets = bind("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    assert find_port_holder(port).pid == os.getpid()
    close(sockets)
    assert find_port_holder(port) is None


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
def test_ipv6_is_listened_on_by_itself():
    """Without taking the IPv4 port of the same number."""
    sockets = bind("::1", 0)
    port = sockets[0].getsockname()[1]
    try:
        assert is_loopback(sockets)
        socket.create_connection(("::1", port)).close()
        close(bind("127.0.0.1", port))
        with pytest.raises(ListenError, match="pid"):
            bind("::1", port)
    finally:
        close(sockets)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no.such.host.invalid", "not an address or a known host name"),
        ("x" * 300, "not an address or a known host name"),
        ("203.0.113.7", "not an address of this machine"),
    ],
)
def test_a_host_that_is_not_ours_is_refused_with_a_suggestion(host, words):
    """Whatever is wrong with it."""
    with pytest.raises(ListenError, match=words) as refusal:
        bind(host, 0)
    assert "Suggestion: use --host 127.0.0.1" in str(refusal.value)


@pytest.mark.skipif(
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip() == "0",
    reason="this machine has no privileged ports",
)
def test_a_privileged_port_is_refused_with_a_suggestion():
    """For users that may not have it; in a child process, which gives up its rights first."""
    program = (
        "import os\n"
        "from poolkeeper.server.listener import bind\n"
        "bind('localhost', 0)  # loads what other users may not be able to read\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "bind('127.0.0.1', 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "ports below 1024 are reserved. Suggestion: choose a higher port" in done.stderr


def test_loopback_is_told_from_the_rest():
    """Every address of several counts."""
    inside, everywhere = bind("127.0.0.1", 0), bind("0.0.0.0", 0)
    try:
        assert is_loopback(inside)
        assert not is_loopback(everywhere)
        assert not is_loopback(inside + everywhere)
    finally:
        close(inside + everywhere)
