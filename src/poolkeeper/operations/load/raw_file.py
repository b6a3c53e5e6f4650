"""The file itself, which must stay as it is while it is read."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from poolkeeper.operations.load.errors import SourceChangedError, SourceError, SourceMissingError


class RawFile:
    """A regular file, which must not change while it is read.

    Attributes:
        path: Where it is.
        size: Bytes it had when it was opened.
        mtime_ns: When it was last written to before that.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # not to wait for the other end of a pipe that is about to be refused
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC)
        except OSError as error:
            raise cannot_open(path, error) from error
        self._handle: int | None = handle
        self._found = os.fstat(handle)
        if not stat.S_ISREG(self._found.st_mode):
            self.close()
            raise not_a_file(path, self._found.st_mode)
        self.size = self._found.st_size
        self.mtime_ns = self._found.st_mtime_ns
        self._position = 0

    def read(self, size: int) -> bytes:
        """Read on; a file that has become shorter is an error."""
        wanted = min(size, self.size - self._position)
        if wanted <= 0:
            return b""
        data = self._pread(wanted)
        if not data:
            self.check()
            raise SourceChangedError(
                f"{self.path} ends at byte {self._position:,}, before its size of {self.size:,} "
                "bytes: it has become shorter while it was read. Rows committed so far stay. "
                "Suggestion: restore the file and retry the operation.",
                path=self.path,
                offset=self._position,
            )
        self._position += len(data)
        return data

    def seek(self, offset: int) -> None:
        """Go to a byte of the file."""
        if offset > self.size:
            raise beyond_the_end(self.path, offset, self.size)
        self._position = offset

    @property
    def raw_position(self) -> int:
        """The next byte to read."""
        return self._position

    def check(self) -> None:
        """See that the file is still as long and as old as when it was opened; costs microseconds.

        Raises:
            SourceChangedError: Somebody writes to it, or has touched it.
        """
        if self._handle is None:
            return
        now = os.fstat(self._handle)
        if now.st_size != self._found.st_size:
            verb = "grown" if now.st_size > self._found.st_size else "shrunk"
            what = f"has {verb} from {self._found.st_size:,} to {now.st_size:,} bytes"
        elif now.st_mtime_ns != self._found.st_mtime_ns:
            what = "was written to or touched"
        else:
            return
        raise SourceChangedError(
            f"{self.path} {what} while it was read. Rows committed so far stay. Suggestion: let "
            "whoever writes the file finish first. If it is as it was, retry the operation; if it "
            "is another file now, load it under a new name.",
            path=self.path,
        )

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _pread(self, size: int) -> bytes:
        if self._handle is None:
            raise ValueError("the file is closed")
        try:
            return os.pread(self._handle, size, self._position)
        except OSError as error:
            raise SourceError(
                f"{self.path} cannot be read at byte {self._position:,}: {error.strerror}. Rows "
                "committed so far stay. Suggestion: check the disk or the network share the file "
                "is on, then retry the operation.",
                path=self.path,
                offset=self._position,
            ) from error


_HERE_ONLY: Final = {errno.EACCES, errno.EPERM, errno.ESTALE, errno.EIO}
"""What says more of this machine, its user and its mounts than of the file."""


def cannot_open(path: str, error: OSError) -> SourceError:
    """Say why a file cannot be opened."""
    if error.errno == errno.ENOENT:
        return SourceMissingError(
            f"{path} does not exist. Suggestion: check the name; an operation reads its file on "
            "the machine and under the path it was created with.",
            path=path,
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        text = "may not be read by this user"
        advice = "chmod the file, or run as a user who may read it"
    else:
        text = f"cannot be opened: {error.strerror}"
        advice = "check the disk or the network share the file is on"
    message = f"{path} {text}. Suggestion: {advice}."
    if error.errno in _HERE_ONLY:
        return SourceMissingError(message, path=path)
    return SourceError(message, path=path)


def not_a_file(path: str, mode: int) -> SourceError:
    """Say that something other than a file cannot be read more than once."""
    if stat.S_ISDIR(mode):
        return SourceError(
            f"{path} is a directory. Suggestion: name a file in it; each is an operation of its "
            "own.",
            path=path,
        )
    return SourceError(
        f"{path} is a pipe or a device, which can be read only once, but an operation may have to "
        "read again. Suggestion: pass the rows on standard input (file name '-'), which is kept "
        "in a file until all is loaded.",
        path=path,
    )


def beyond_the_end(path: str, offset: int, size: int) -> SourceChangedError:
    """Say that a file is shorter than what was loaded of it."""
    return SourceChangedError(
        f"{path} has {size:,} bytes of data, but the operation has already loaded up to byte "
        f"{offset:,}: the file was replaced or cut off. Suggestion: restore the file and retry, or "
        "load this one under a new name.",
        path=path,
        offset=offset,
    )
