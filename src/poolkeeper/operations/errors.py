"""What can go wrong with an operation, as one tree below the pool's own errors."""

from __future__ import annotations

from poolkeeper.exceptions import ConnectionPoolError


class OperationError(ConnectionPoolError):
    """An operation cannot be created or cannot go on; what was committed stays.

    Attributes:
        operation: Name of the operation, if it has one by now.
    """

    def __init__(self, message: str, *, operation: str | None = None) -> None:
        super().__init__(message)
        self.operation = operation


class OperationNotFoundError(OperationError):
    """There is no operation with that name or id."""


class OperationConflictError(OperationError):
    """An operation of that name exists and does something else, or is in the wrong state."""


class OperationFailedError(OperationError):
    """The operation has failed; its message says why. It can be retried."""


class OperationStoppedError(OperationError):
    """Somebody paused or cancelled the operation while it was being waited for.

    Attributes:
        state: ``paused`` or ``cancelled``.
    """

    def __init__(self, message: str, *, operation: str | None = None, state: str = "") -> None:
        super().__init__(message, operation=operation)
        self.state = state


class NotHereError(OperationError):
    """This process cannot do it (a file or a function is missing here); another one may."""


class OperationsUnavailableError(OperationError):
    """The tables of operations are missing and cannot be made. Nothing was changed."""
