"""How long a socket has been silent, as the kernel knows it."""

from __future__ import annotations

import socket
import struct
from typing import Any

from poolkeeper.drivers.base import Silence

TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
LAST_DATA = struct.Struct("@44xI4xI")
"""``tcpi_last_data_sent`` and ``tcpi_last_data_recv`` of Linux' ``tcp_info``, in milliseconds."""


def silence_of(sock: Any) -> Silence | None:
    """What the kernel knows of a connected socket; None where nobody knows.

    Its word, not the event loop's: what arrived while the loop was busy counts.
    """
    if TCP_INFO is None or sock is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, LAST_DATA.size)
        sent, received = LAST_DATA.unpack(info)
    except (OSError, struct.error):
        # Unix sockets, a closed one, a system whose structure ends earlier.
        return None
    return Silence(heard=float(received) / 1000.0, said=float(sent) / 1000.0)
