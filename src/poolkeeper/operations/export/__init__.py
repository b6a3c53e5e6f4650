"""Exports: the rows of a query or a table as files, exactly once each."""

from poolkeeper.operations.export.errors import (
    ExportError,
    ExportFileDamagedError,
    ExportFileMissingError,
    ExportTargetExistsError,
)
from poolkeeper.operations.export.kind import ExportKind
from poolkeeper.operations.export.prepare import unfinished_of

__all__ = [
    "ExportError",
    "ExportFileDamagedError",
    "ExportFileMissingError",
    "ExportKind",
    "ExportTargetExistsError",
    "unfinished_of",
]
