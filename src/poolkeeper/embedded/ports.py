"""Which TCP port the embedded server listens on."""

from __future__ import annotations

import random
import socket
from pathlib import Path

FIRST = 15_432


def is_free(host: str, port: int) -> bool:
    """Whether a server could bind the port at this instant."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # as PostgreSQL binds: connections of a previous server in TIME_WAIT are no obstacle
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick(host: str) -> int:
    """A free port below those the kernel gives to outgoing connections.

    A client that keeps dialling a stopped server on an ephemeral port is sooner or later given
    that very port as its own, connects to itself, and the server cannot come back.
    """
    candidates = random.sample(range(FIRST, _first_ephemeral()), 100)
    return next(port for port in candidates if is_free(host, port))


def _first_ephemeral() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    except OSError:
        return 32_768
    return max(int(text.split()[0]), FIRST + 1_000)
