"""One unfinished file: it only grows, and one process at a time has it.

Whoever has it open holds a lock on it (flock). A worker that was frozen and believed dead still
holds its lock, and may wake up in the middle of a write: its successor then goes on in a copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final, Self

from poolkeeper.operations.export.errors import (
    ExportFileDamagedError,
    ExportFileMissingError,
    file_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WRITE_BACK_BYTES: Final = 4 * 1024 * 1024
"""After so many bytes the kernel is asked to begin writing them to disk: waiting for all of a
chunk at its end would stall the stream."""

_COPY_BYTES: Final = 8 * 1024 * 1024


class GrowingFile:
    """A file being written.

    Attributes:
        path: Where it is now.
        size: Its length in bytes, those not on disk yet included.
    """

    def __init__(self, path: Path, descriptor: int, size: int, *, locked: bool) -> None:
        self.path = path
        self.size = size
        self._descriptor: int | None = descriptor
        self._locked = locked
        self._written_back = size

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new one.

        Raises:
            ExportError: It cannot be made.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise file_error(error, path, "create") from error
        return cls(path, descriptor, 0, locked=_lock(descriptor))

    @classmethod
    def reopen(cls, path: Path, size: int, *, copying: bool = False) -> Self:
        """Go on with one of which ``size`` bytes count; nothing is changed until `take`.

        Args:
            path: Where it is.
            size: How much of it counts.
            copying: Whether to go on in a copy in any case.

        Raises:
            ExportFileMissingError: It is not there.
            ExportFileDamagedError: It is shorter than that.
            ExportError: It cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ExportFileMissingError(
                f"The export cannot go on here: its unfinished file {path}, of which {size:,} "
                "bytes are committed, is missing. Suggestion: run the worker on the machine where "
                "the export began, or put the directory on storage that both share; if somebody "
                "has deleted the file, cancel the operation and export anew.",
                path=path,
            ) from error
        except OSError as error:
            raise file_error(error, path, "open") from error
        state = os.fstat(descriptor)
        found = state.st_size
        if found < size:
            os.close(descriptor)
            raise ExportFileDamagedError(
                f"The export cannot go on: {size:,} bytes of its unfinished file {path} are "
                f"committed, but it has only {found:,}. Somebody has cut it, or its disk has lost "
                "what it had acknowledged. Suggestion: restore the file, or cancel the operation "
                "and export anew.",
                path=path,
            )
        # one with another name has been published already, and must stay whole
        alone = not copying and state.st_nlink == 1
        return cls(path, descriptor, size, locked=alone and _lock(descriptor))

    def take(self, copy: Path) -> None:
        """Drop what is beyond `size`; go on in a copy if the file is not this process's alone.

        Only for whoever has made sure that no other attempt can commit anything any more.

        Args:
            copy: Where to; such a file must not exist.

        Raises:
            ExportError: It cannot be written.
        """
        try:
            if self._locked:
                os.ftruncate(self._fd, self.size)
                os.lseek(self._fd, self.size, os.SEEK_SET)
                return
            new = GrowingFile.create(copy)
            new._copy(self._fd, self.size)
        except OSError as error:
            raise file_error(error, self.path, "continue") from error
        os.close(self._fd)
        self.path, self._descriptor, self._locked = copy, new._fd, True
        self._written_back = self.size

    def write(self, buffers: Iterable[bytes]) -> int:
        """Append; how many bytes that were.

        Raises:
            ExportError: The disk is full, or anything else is wrong with it.
        """
        before = self.size
        try:
            for buffer in buffers:
                left = memoryview(buffer)
                while left:
                    done = os.write(self._fd, left)
                    self.size += done
                    left = left[done:]
            if self.size - self._written_back >= WRITE_BACK_BYTES:
                _start_write_back(self._fd, self._written_back, self.size - self._written_back)
                self._written_back = self.size
        except OSError as error:
            raise file_error(error, self.path, "write to") from error
        return self.size - before

    def sync(self) -> None:
        """Return when everything written is on disk.

        Raises:
            ExportFileDamagedError: Somebody has deleted the file.
            ExportError: The disk has failed.
        """
        try:
            _sync(self._fd)
            links = os.fstat(self._fd).st_nlink
        except OSError as error:
            raise file_error(error, self.path, "write to") from error
        if links == 0:
            raise ExportFileDamagedError(
                f"Somebody has deleted {self.path} while the export was writing to it. "
                "Suggestion: cancel the operation and export anew.",
                path=self.path,
            )

    def close(self) -> None:
        """Let go of it; what is not synced may be lost. Harmless when closed already."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def _fd(self) -> int:
        assert self._descriptor is not None, "the file is closed"
        return self._descriptor

    def _copy(self, source: int, size: int) -> None:
        """Become a copy of the first ``size`` bytes, on disk."""
        done = 0
        while done < size:
            copied = _copy(source, self._fd, done, size - done)
            if copied == 0:
                raise OSError("it became shorter while it was being copied")
            done += copied
        os.lseek(self._fd, size, os.SEEK_SET)
        _sync(self._fd)
        self.size = size


def sync_directory(directory: Path) -> None:
    """Return when the names in it are on disk.

    Raises:
        ExportError: That failed.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise file_error(error, directory, "sync") from error


def _sync(descriptor: int) -> None:
    # macOS has no fdatasync
    getattr(os, "fdatasync", os.fsync)(descriptor)


def _copy(source: int, target: int, offset: int, length: int) -> int:
    """Copy up to ``length`` bytes at ``offset``; how many that were, 0 at the end."""
    if hasattr(os, "copy_file_range"):
        # shares blocks instead of copying them where the file system can
        with contextlib.suppress(OSError):
            return os.copy_file_range(source, target, min(length, 1 << 30), offset, offset)
    data = os.pread(source, min(length, _COPY_BYTES), offset)
    return os.pwrite(target, data, offset)


def _lock(descriptor: int) -> bool:
    """Lock it if nobody else has; False as well where locks do not exist."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _start_write_back(descriptor: int, start: int, length: int) -> None:
    """Have the kernel begin to write a range to disk, without waiting."""
    # this advice is what starts the writing; macOS has none, and writes when it is synced
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)
