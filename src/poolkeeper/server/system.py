"""What a server asks of the system it runs on, where the usual is made for smaller programs."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

if sys.platform != "win32":
    import fcntl
    import resource
    import termios

_log = logging.getLogger("poolkeeper.server")

# Libraries, logs, listening sockets, and whatever else a process has open.
_OTHER_FILES = 128

# malloc.h of glibc
_M_MMAP_THRESHOLD = -3
_LARGE = 1024 * 1024


def make_room_for(connections: int) -> None:
    """Raise the limit of open files as far as the process may; warn if that is not enough."""
    if sys.platform == "win32":  # it has no such limit
        return
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted:
        _log.warning(
            "too_few_open_files",
            extra={
                "limit": limit,
                "wanted": wanted,
                "suggestion": "raise it (ulimit -n, LimitNOFILE=) or lower --max-connections",
            },
        )


def give_memory_back() -> None:
    """Have large answers return their memory as soon as they are sent.

    Left to itself glibc learns from the first large block to keep the memory of all that follow,
    and what lies between small blocks never goes back. Does nothing with other libraries.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def bytes_in_flight(sock: socket.socket | None) -> int:
    """What the system has taken for a peer and the peer has not confirmed; 0 if it does not say."""
    if sys.platform == "win32" or sock is None:
        return 0
    with contextlib.suppress(OSError):
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)
    return 0
