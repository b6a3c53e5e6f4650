"""When a returned connection is cleaned, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from poolkeeper.drivers.base import Condition
from poolkeeper.session_reset import StatementClassifier, cleaning_sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container

    from poolkeeper.drivers.base import Session

ROLLBACK_ONLY: Final = ""
"""A recipe that does no more than end an open transaction."""


_USABLE: Final = {
    "auto": (Condition.CLEAN, Condition.CLEANED),
    "always": (Condition.CLEANED,),
    "transaction": (Condition.CLEAN, Condition.CLEANED),
    "callable": (),
}


class StatementNotes:
    """What leases ask about statement texts when the mode is ``auto``."""

    def __init__(self) -> None:
        self._classifier = StatementClassifier()
        self.clean: Container[str] = self._classifier.clean

    def mark(self, query: Any) -> int:
        """See ``Notes``. A statement that is not a text, such as psycopg's, may be anything."""
        if not isinstance(query, str):
            return 3
        verdict = self._classifier.verdict(query)
        if verdict.clean:
            return 0
        return 3 if verdict.may_prepare else 1


class _Everything:
    def __contains__(self, item: object) -> bool:
        return True


class NoNotes:
    """The modes that do not depend on statement texts need none."""

    clean: Container[str] = _Everything()

    def mark(self, query: Any) -> int:
        """See ``Notes``: what the text says makes no difference."""
        del query
        return 0


class ResetPolicy:
    """One of ``auto``, ``always``, ``transaction`` or a callable of the user's.

    Args:
        mode: The value of the option ``reset``.
    """

    def __init__(self, mode: str | Callable[[Any], Awaitable[Any]]) -> None:
        self._mode = mode if isinstance(mode, str) else "callable"
        self._user = None if isinstance(mode, str) else mode
        self._full = cleaning_sql(may_prepare=True)
        self._without_prepared = cleaning_sql(may_prepare=False)
        self.usable: tuple[Condition, ...] = _USABLE[self._mode]
        """The conditions in which a connection is lent again as it is."""
        self.notes = StatementNotes() if self._mode == "auto" else NoNotes()

    def recipe(self, condition: Condition) -> str | None:
        """What to run on a connection in ``condition``; None means it can be used as it is."""
        if condition in self.usable:
            return None
        if self._mode == "always":
            return self._full
        if self._mode == "auto" and condition is Condition.PREPARED:
            return self._full
        if self._mode == "auto" and condition is Condition.DIRTY:
            return self._without_prepared
        return ROLLBACK_ONLY

    async def clean(self, session: Session, recipe: str) -> None:
        """Bring ``session`` back to the state of a new one, as far as the mode promises."""
        await session.clean(recipe)
        if self._user is not None:
            await self._user(session.connection)
