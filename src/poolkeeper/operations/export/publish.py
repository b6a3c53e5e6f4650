"""Give finished files their final names.

It comes after the checkpoint that says they are finished and before the one that forgets them, so
it may be done twice, by two processes, or by one that was believed dead: the second time there is
nothing left to do.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
from typing import TYPE_CHECKING

from poolkeeper.operations.export.errors import (
    ExportFileDamagedError,
    ExportFileMissingError,
    ExportTargetExistsError,
    file_error,
)
from poolkeeper.operations.export.growing import sync_directory
from poolkeeper.operations.export.ownership import is_marked, mark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from poolkeeper.operations.export.position import Finished
    from poolkeeper.operations.export.target import Target


def publish(
    target: Target,
    finished: Sequence[Finished],
    *,
    attempt: int,
    overwrite: bool,
    convert: Callable[[Path, Path], None] | None = None,
) -> None:
    """Give the files their names; returns when those are on disk.

    Args:
        target: Where they are.
        finished: Which ones; those that have their names already are passed over.
        attempt: The present one.
        overwrite: Whether files of those names may be replaced. This export's own always may.
        convert: Makes the file that is published of the one that was written. Of the same input it
            makes the same output.

    Raises:
        ExportTargetExistsError: Meanwhile somebody else has put a file there.
        ExportFileMissingError: A file is neither under its old name nor under its new one.
        ExportFileDamagedError: A file is shorter than what was written to it.
        ExportError: The operating system refuses.
    """
    for file in finished:
        written = target.unfinished(file.part, file.attempt)
        final = target.final(file.part)
        try:
            if not written.exists():
                _must_be_published(written, final, None if convert else file.size)
                continue
            ready = written
            _cut(written, file.size)
            if convert is not None:
                ready = target.unfinished(file.part, attempt, ".converted")
                convert(written, ready)
            _seal(ready, target.export, file.part)
            ours = is_marked(final, target.export, file.part)
            _rename(ready, final, overwrite=overwrite or ours)
        except FileNotFoundError:
            # another process was faster
            _must_be_published(written, final, None)
        except OSError as error:
            raise file_error(error, final, "create") from error
    sync_directory(target.directory)
    if convert is not None:
        for file in finished:
            target.unfinished(file.part, file.attempt).unlink(missing_ok=True)


def refuse_to_overwrite(target: Target) -> None:
    """See that nothing is in the way but what this export has published itself.

    Raises:
        ExportTargetExistsError: Something is.
        ExportError: The directory cannot be read.
    """
    try:
        others = (
            path
            for path, part in target.finished_files()
            if not is_marked(path, target.export, part)
        )
        path = min(others, default=None)
    except OSError as error:
        raise file_error(error, target.directory, "read") from error
    if path is not None:
        raise _exists(path)


def _cut(path: Path, size: int) -> None:
    """Drop rows of an attempt whose checkpoint never came."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor).st_size
        if found < size:
            raise _damaged(path, found, size)
        if found > size:
            os.ftruncate(descriptor, size)
            # or the file might come back longer after a power failure, under its final name
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(path: Path, export: str, part: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        mark(descriptor, export, part)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(source: Path, final: Path, *, overwrite: bool) -> None:
    if overwrite:
        source.replace(final)
        return
    try:
        # unlike a renaming, this never replaces a file
        os.link(source, final)
    except FileExistsError:
        if not final.samefile(source) and not filecmp.cmp(source, final, shallow=False):
            raise _exists(final) from None
    except OSError:
        # a file system without hard links
        if final.exists():
            raise _exists(final) from None
        source.replace(final)
        return
    with contextlib.suppress(FileNotFoundError):
        source.unlink()


def _must_be_published(written: Path, final: Path, size: int | None) -> None:
    try:
        found = final.stat().st_size
    except FileNotFoundError as error:
        raise ExportFileMissingError(
            f"A finished file of the export is gone: it is neither at {written} nor at {final}. "
            "Suggestion: run the worker where the export's directory is; if somebody has moved or "
            "deleted the file, put it back, or cancel the operation and export anew.",
            path=final,
        ) from error
    if size is not None and found != size:
        raise _damaged(final, found, size)


def _damaged(path: Path, found: int, size: int) -> ExportFileDamagedError:
    return ExportFileDamagedError(
        f"{path} has {found:,} bytes instead of the {size:,} the export has written. "
        "Suggestion: restore it, or cancel the operation and export anew.",
        path=path,
    )


def _exists(path: Path) -> ExportTargetExistsError:
    return ExportTargetExistsError(
        f"{path} exists. Suggestion: export to another place, delete it, or pass overwrite "
        "(then it is replaced when its successor is complete).",
        path=path,
    )
