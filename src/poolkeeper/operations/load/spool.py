"""Keeping what comes from a pipe: an operation must be able to read its source again.

What is kept is named after what it holds, so the same bytes once more are the same file: the
operation made of them is found again, be it unfinished or done, as that of any file is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from poolkeeper.operations.load.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BLOCK: Final = 1 << 20
SUFFIX: Final = ".spool"
INCOMPLETE: Final = ".incomplete-"
LOCK: Final = ".lock"

_held: dict[Path, int] = {}
"""Locked files this process is going to load: another process that loads the same bytes, into
another database, must not delete them when it is done."""


class Readable(Protocol):
    """A stream of bytes, such as ``sys.stdin.buffer``."""

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """A stream that was kept.

    Attributes:
        path: The file.
        is_new: Whether it was not there before.
    """

    path: Path
    is_new: bool


def spool_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where such files are kept; this user's own."""
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "poolkeeper" / "spool"


def spool(source: Readable, name: str, directory: Path | None = None) -> Spooled:
    """Copy a stream into a file that only this user can read.

    The file appears under its name once it is complete and on disk; nothing is left of one that
    was interrupted, and what killed processes have left of theirs is removed. It stays locked
    until this process removes it or ends.

    Args:
        source: Where to read from.
        name: What it is loaded as; may hold any characters. The same bytes under the same name are
            the same file.
        directory: Where to put it.

    Returns:
        The file; `remove` it when its operation is done, or could not be created.

    Raises:
        SourceError: There is no room, or no permission.
    """
    directory = spool_dir() if directory is None else directory
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _copy(source, directory, name)
    except OSError as error:
        raise SourceError(
            f"What came on standard input could not be kept in {directory}: {error.strerror}. "
            "Suggestion: make room there, or let XDG_STATE_HOME name another directory.",
            path=str(directory),
        ) from error


def remove(path: Path | str, directory: Path | None = None) -> bool:
    """Delete a spooled file, and never any other one.

    It stays while another process has it locked: that one removes it.

    Returns:
        Whether it was one.
    """
    path = Path(path)
    directory = spool_dir() if directory is None else directory
    if path.parent != directory or path.suffix != SUFFIX:
        return False
    held = _held.pop(path, None)
    if held is not None:
        os.close(held)
    # What it was kept for is over: that must not fail for a file that is in the way.
    with contextlib.suppress(OSError), _locked(directory):
        _unlink_unless_locked(path)
    return True


def _copy(source: Readable, directory: Path, name: str) -> Spooled:
    # Known before it is there: an interrupt may come at any line.
    temporary = directory / f"{INCOMPLETE}{secrets.token_hex(8)}"
    handle = -1
    try:
        with _locked(directory):
            for left in directory.glob(f"{INCOMPLETE}*"):
                _unlink_unless_locked(left)
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_SH)
        digest = _pour(source, handle, name)
        os.fsync(handle)
        target = directory / f"{_file_name(name)}-{digest}{SUFFIX}"
        with _locked(directory):
            before = _hold(target)
            if before is None:
                temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        if handle >= 0:
            os.close(handle)
        raise
    if before is not None:
        # Those who read it must not see it change.
        temporary.unlink()
        os.close(handle)
    else:
        _sync_directory(directory)
    earlier = _held.pop(target, None)
    if earlier is not None:
        os.close(earlier)
    _held[target] = handle if before is None else before
    return Spooled(target, is_new=before is None)


def _pour(source: Readable, handle: int, name: str) -> str:
    """Write all of it; return what tells it from others."""
    key = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=32).digest()
    digest = hashlib.blake2b(key=key, digest_size=20)
    with os.fdopen(handle, "wb", closefd=False) as file:
        while block := source.read(BLOCK):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _hold(path: Path) -> int | None:
    """Lock a file that is there; to be called with its directory locked."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def _unlink_unless_locked(path: Path) -> None:
    """Delete a file nobody holds; to be called with its directory locked."""
    try:
        # NFS locks exclusively only what may be written to
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let nobody else lock, publish or delete files of the directory; for moments only."""
    handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file_name(name: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return kept.lstrip(".")[:80] or "stdin"
