"""Ask the kernel to notice a silent peer; it costs nothing and helps where no probe runs."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

OPTIONS = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 1),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 1),
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 3),
    # Keepalive does not run while data is unacknowledged; this bounds that case (milliseconds).
    ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, 4000),
)


def keep_alive(sock: Any) -> None:
    """Set keepalive (1 s, 1 s, 3 times) and TCP_USER_TIMEOUT (4 s) where the system has them."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for name, level, value in OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            # A refusal is not worth losing the connection for.
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)
