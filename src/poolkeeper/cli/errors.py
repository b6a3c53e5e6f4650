"""How a command fails: one readable message, an exit code, no traceback."""

from __future__ import annotations

RUNTIME_FAILURE = 1
USAGE_FAILURE = 2


class CommandError(Exception):
    """A command cannot do what was asked; the message says why and what to do next.

    Attributes:
        exit_code: 1 when the world is to blame, 2 when the call is.
    """

    def __init__(self, message: str, *, exit_code: int = RUNTIME_FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
