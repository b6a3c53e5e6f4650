"""What a server asks of the system it runs on, where the usual is made for smaller programs."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys

if sys.platform != "win32":
    import resource

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
