"""Errors of the server at which an operation ends, in words that help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poolkeeper.operations.errors import OperationFailedError
from poolkeeper.outcomes import is_driver_error
from poolkeeper.sqlstate import (
    DISK_FULL,
    INVALID_SCHEMA_NAME,
    OUT_OF_MEMORY,
    UNDEFINED_TABLE,
    sqlstate_of,
)

if TYPE_CHECKING:
    from poolkeeper.operations.model import OperationStatus

ADVICE: Final = {
    DISK_FULL: "free space on the server's disk",
    OUT_OF_MEMORY: "free memory on the server",
    UNDEFINED_TABLE: "create the table again if it was dropped, or cancel the operation",
    INVALID_SCHEMA_NAME: "create the schema again if it was dropped, or cancel the operation",
    "42501": "grant the role of this connection what it needs",
    "42703": "restore the column, or cancel the operation and begin one that fits the table",
    "57014": "look for who cancels it",
}
GENERAL: Final = "mend the reason"


def refusal(error: Exception, status: OperationStatus) -> OperationFailedError:
    """Why an operation ends at an error of the server or of a step of the user's.

    Notes on the error say where in the work it came up.
    """
    code = sqlstate_of(error) if is_driver_error(error) else None
    advice = ADVICE.get(code or "", GENERAL)
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    who = f"{type(error).__name__}: " if code is None else f"SQLSTATE {code}: "
    return OperationFailedError(
        f"{status.kind} {status.name!r} failed after {status.rows_done:,} rows, in chunk "
        f"{status.seq + 1}{where}: {who}{said}. What was committed stays. Suggestion: "
        f"{advice}, then `poolkeeper operations retry {status.name!r}`: it goes on where it "
        "stopped.",
        operation=status.name,
    )
