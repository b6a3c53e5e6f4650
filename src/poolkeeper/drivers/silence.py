"""How long a socket has been silent, as the kernel knows it."""

from __future__ import annotations

import socket
import struct
from typing import Any

TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
LAST_DATA_RECEIVED = struct.Struct("@52xI")
"""``tcpi_last_data_recv`` of Linux' ``struct tcp_info``, in milliseconds."""


def silent_for(sock: Any) -> float | None:
    """Seconds since bytes last arrived, read by somebody or not; None where nobody knows.

    The kernel's word, not the event loop's: what arrived while the loop was busy counts.
    """
    if TCP_INFO is None or sock is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, LAST_DATA_RECEIVED.size)
        (milliseconds,) = LAST_DATA_RECEIVED.unpack(info)
    except (OSError, struct.error):
        # Unix sockets, a closed one, a system whose structure ends earlier.
        return None
    return float(milliseconds) / 1000.0
