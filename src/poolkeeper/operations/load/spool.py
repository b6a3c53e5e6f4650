"""Keeping what comes from a pipe: an operation must be able to read its source again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from poolkeeper.operations.load.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK: Final = 1 << 20
SUFFIX: Final = ".spool"


class Readable(Protocol):
    """A stream of bytes, such as ``sys.stdin.buffer``."""

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; none at the end."""


def spool_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where such files are kept; this user's own."""
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "poolkeeper" / "spool"


def spool(source: Readable, name: str, directory: Path | None = None) -> Path:
    """Copy a stream into a file that only this user can read.

    The file appears under its name once it is complete and on disk; nothing is left of one that
    was interrupted.

    Args:
        source: Where to read from.
        name: What the file is called after; may hold any characters.
        directory: Where to put it.

    Returns:
        The file; `remove` it when its operation is done.

    Raises:
        SourceError: There is no room, or no permission.
    """
    directory = spool_dir() if directory is None else directory
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _copy(source, directory, _file_name(name))
    except OSError as error:
        raise SourceError(
            f"What came on standard input could not be kept in {directory}: {error.strerror}. "
            "Suggestion: make room there, or let XDG_STATE_HOME name another directory.",
            path=str(directory),
        ) from error


def remove(path: Path | str, directory: Path | None = None) -> bool:
    """Delete a spooled file, and never any other one.

    Returns:
        Whether it was one.
    """
    path = Path(path)
    directory = spool_dir() if directory is None else directory
    if path.parent != directory or path.suffix != SUFFIX:
        return False
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return True


def _copy(source: Readable, directory: Path, name: str) -> Path:
    # mkstemp makes it with mode 0600
    handle, temporary = tempfile.mkstemp(prefix=".incomplete-", dir=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            _pour(source, file)
            file.flush()
            os.fsync(file.fileno())
        target = directory / f"{name}-{Path(temporary).name.rpartition('-')[2]}{SUFFIX}"
        Path(temporary).rename(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(directory)
    return target


def _pour(source: Readable, file: BinaryIO) -> None:
    while block := source.read(BLOCK):
        file.write(block)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file_name(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return kept.lstrip(".")[:80] or "stdin"
