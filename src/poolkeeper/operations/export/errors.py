"""What can go wrong with the files of an export."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from poolkeeper.operations.errors import NotHereError, OperationError


class ExportError(OperationError):
    """An export cannot begin or cannot go on; the chunks committed before stay in its files.

    Attributes:
        path: The file or directory it is about, if there is one.
        bytes_free: Bytes free on its file system, if that matters.
    """

    def __init__(
        self, message: str, *, path: Path | str | None = None, bytes_free: int | None = None
    ) -> None:
        super().__init__(message)
        self.path = None if path is None else Path(path)
        self.bytes_free = bytes_free


class ExportTargetExistsError(ExportError):
    """There are files where the export is to go, and it may not overwrite them."""


class ExportFileMissingError(ExportError, NotHereError):
    """An unfinished file of the export, or its directory, is not on this machine."""


class ExportFileDamagedError(ExportError):
    """A file of the export is not what was written to it: shorter, deleted, or somebody else's."""


_GO_ON = "What was committed is kept: retry the operation afterwards and it goes on from there."


def file_error(error: OSError, path: Path, doing: str) -> ExportError:
    """Say in words what the operating system refused.

    Args:
        error: What it raised.
        path: The file or directory.
        doing: What was tried, such as ``"write to"``.
    """
    free = bytes_free(path)
    reason = os.strerror(error.errno) if error.errno else str(error)
    problem = f"Cannot {doing} {path}: {reason}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        left = "" if free is None else f" ({free:,} bytes free)"
        advice = "make room on that file system, or raise the quota"
        return ExportError(
            f"{problem}{left}. Suggestion: {advice}. {_GO_ON}", path=path, bytes_free=free
        )
    if error.errno == errno.EFBIG:
        advice = "export to a directory, as part files, or raise the limit (ulimit -f)"
    elif error.errno in {errno.EACCES, errno.EPERM}:
        advice = f"let user {os.geteuid()} of this machine write to {path.parent}"
    elif error.errno == errno.EROFS:
        advice = "choose a directory on a file system that can be written to"
    elif error.errno == errno.ENOENT:
        return ExportFileMissingError(
            f"{problem}. Suggestion: create the directory, or mount the shared one, where the "
            f"worker runs. {_GO_ON}",
            path=path,
            bytes_free=free,
        )
    else:
        advice = "see to that disk"
    return ExportError(f"{problem}. Suggestion: {advice}. {_GO_ON}", path=path, bytes_free=free)


def bytes_free(path: Path) -> int | None:
    """Bytes an ordinary user can still write where ``path`` is or would be."""
    for place in (path, path.parent):
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        return found.f_bavail * found.f_frsize
    return None
