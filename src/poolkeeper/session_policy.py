"""When a returned connection is cleaned, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from poolkeeper.drivers.base import Condition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from poolkeeper.drivers.base import Session

ROLLBACK_ONLY: Final = ""
"""A recipe that does no more than end an open transaction."""


class ResetPolicy:
    """One of ``auto``, ``always``, ``transaction`` or a callable of the user's.

    Args:
        mode: The value of the option ``reset``.
        recipe: SQL that leaves nothing of a session's state but the driver's statements.
    """

    def __init__(
        self, mode: str | Callable[[Any], Awaitable[None]], recipe: str
    ) -> None:
        self._full = recipe
        self._mode = mode if isinstance(mode, str) else "callable"
        self._user = None if isinstance(mode, str) else mode
        self.always = self._mode in ("always", "callable")
        """Whether even a connection known to be clean is reset."""

    def recipe(self, condition: Condition) -> str | None:
        """What to run on a connection in ``condition``; None means it can be used as it is."""
        if self._mode == "always" or (self._mode == "auto" and condition is Condition.DIRTY):
            return self._full
        if condition is Condition.CLEAN and not self.always:
            return None
        return ROLLBACK_ONLY

    async def clean(self, session: Session, recipe: str) -> None:
        """Bring ``session`` back to the state of a new one, as far as the mode promises."""
        await session.clean(recipe)
        if self._user is not None:
            await self._user(session.connection)
