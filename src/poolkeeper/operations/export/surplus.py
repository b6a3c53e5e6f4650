"""What an export leaves in its directory and has to take away at its end.

A worker that was frozen may wake up when its export is done and another, complete one is in the
same directory. So files are listed first; then the database must confirm that the export still is
this worker's; and then only files of that list are deleted, as they were when they were listed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from poolkeeper.operations.export.errors import file_error
from poolkeeper.operations.export.growing import sync_directory
from poolkeeper.operations.export.ownership import is_marked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from poolkeeper.operations.export.target import Target


class Surplus(NamedTuple):
    """A file to delete.

    Attributes:
        path: Where it is.
        inode: Which file that is; numbers of deleted files are used again.
        changed: When it was written last, in nanoseconds.
    """

    path: Path
    inode: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Surplus:
        """The file that is there now."""
        found = path.stat()
        return cls(path, found.st_ino, found.st_mtime_ns)


def list_surplus(target: Target, *, last: int, overwrite: bool) -> list[Surplus]:
    """What is left behind when the parts up to ``last`` have their names.

    That is part files of an earlier, longer export that was overwritten, or of this one from before
    a failover that lost their checkpoints, and unfinished files.

    Args:
        target: Where they are.
        last: The last part of this export.
        overwrite: Whether part files of others count.

    Raises:
        ExportError: The operating system refuses.
    """
    try:
        paths = [
            path
            for path, part in target.finished_files()
            if part > last and (overwrite or is_marked(path, target.export, part))
        ]
        paths += [file.path for file in target.unfinished_files()]
        return [Surplus.of(path) for path in paths]
    except OSError as error:
        raise file_error(error, target.directory, "read") from error


def remove_surplus(target: Target, listed: Sequence[Surplus]) -> None:
    """Delete listed files that have not been replaced since.

    Raises:
        ExportError: The operating system refuses.
    """
    try:
        for file in listed:
            with contextlib.suppress(FileNotFoundError):
                if Surplus.of(file.path) == file:
                    file.path.unlink()
    except OSError as error:
        raise file_error(error, target.directory, "delete files of") from error
    sync_directory(target.directory)
