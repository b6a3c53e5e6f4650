"""Long pieces of work that resume: nothing lost, nothing doubled, no start from zero."""

from poolkeeper.operations.custom import DONE, Step, custom
from poolkeeper.operations.errors import (
    NotHereError,
    OperationConflictError,
    OperationError,
    OperationFailedError,
    OperationNotFoundError,
    OperationStoppedError,
    OperationsUnavailableError,
)
from poolkeeper.operations.facade import Operations
from poolkeeper.operations.model import OperationState, OperationStatus
from poolkeeper.operations.operation import Operation
from poolkeeper.operations.runner import Report

__all__ = [
    "DONE",
    "NotHereError",
    "Operation",
    "OperationConflictError",
    "OperationError",
    "OperationFailedError",
    "OperationNotFoundError",
    "OperationState",
    "OperationStatus",
    "OperationStoppedError",
    "Operations",
    "OperationsUnavailableError",
    "Report",
    "Step",
    "custom",
]
