"""How an export knows a published file for its own, when its checkpoints do not.

A database may lose checkpoints in a failover, and goes back; files do not. Then there are files
under final names that no checkpoint tells of. Their names are the user's and their bytes the
reader's, so the fraction of a second in their time of modification tells whose they are: whoever
writes to such a file, or puts another one in its place, changes it.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_SECOND: Final = 1_000_000_000
_GRAIN: Final = 100
"""Nanoseconds: some file systems keep no finer times. On one that keeps coarser ones no file is
known for one's own, which only matters after such a failover."""


def mark(descriptor: int, export: str, part: int) -> None:
    """Mark a file as that part of that export; on disk when the file is synced next."""
    seconds = os.fstat(descriptor).st_mtime_ns // _SECOND
    time = seconds * _SECOND + _fraction(export, part)
    # only the owner of a file may set its times, and it may have been another user's worker
    with contextlib.suppress(OSError):
        os.utime(descriptor, ns=(time, time))


def is_marked(path: Path, export: str, part: int) -> bool:
    """Whether the file is that part of that export, as it was published."""
    try:
        return path.stat().st_mtime_ns % _SECOND == _fraction(export, part)
    except FileNotFoundError:
        return False


def _fraction(export: str, part: int) -> int:
    return zlib.crc32(f"{export} {part}".encode()) % (_SECOND // _GRAIN) * _GRAIN
