"""Exports: the rows of a query or a table as files, exactly once each."""

from poolkeeper.operations.export.errors import (
    ExportError,
    ExportFileDamagedError,
    ExportFileMissingError,
    ExportTargetExistsError,
)
from poolkeeper.operations.export.kind import ExportKind

__all__ = [
    "ExportError",
    "ExportFileDamagedError",
    "ExportFileMissingError",
    "ExportKind",
    "ExportTargetExistsError",
]
