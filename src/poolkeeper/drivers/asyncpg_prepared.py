"""Prepared statements and cursors of a borrower, made to count as running while they run.

Those of asyncpg report to nobody, so a peer that fell silent under them would not be noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from asyncpg.cursor import Cursor, CursorFactory, CursorIterator
from asyncpg.prepared_stmt import PreparedStatement

from poolkeeper.drivers.asyncpg_cached import running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator


class PooledPreparedStatement(PreparedStatement):  # type: ignore[misc]
    """``asyncpg.prepared_stmt.PreparedStatement`` as its users know it."""

    __slots__ = ()

    async def _PreparedStatement__do_execute(  # noqa: N802 - the one place asyncpg runs them all
        self, executor: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        return await running(self._connection, super()._PreparedStatement__do_execute(executor))

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return watched_cursor(super().cursor(*args, **kwargs))


class PooledCursorFactory(CursorFactory):  # type: ignore[misc]
    """What ``connection.cursor()`` returns: to be awaited or iterated over."""

    __slots__ = ()

    def __aiter__(self) -> PooledCursorIterator:
        iterator = super().__aiter__()
        iterator.__class__ = PooledCursorIterator
        return iterator  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, PooledCursor]:
        return self._open(super().__await__()).__await__()

    async def _open(self, opening: Generator[Any, None, Any]) -> PooledCursor:
        cursor = await running(self._connection, _Awaitable(opening))
        cursor.__class__ = PooledCursor
        return cursor  # type: ignore[no-any-return]


class PooledCursorIterator(CursorIterator):  # type: ignore[misc]
    """``asyncpg.cursor.CursorIterator`` as its users know it."""

    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await running(self._connection, super().__anext__())


class PooledCursor(Cursor):  # type: ignore[misc]
    """``asyncpg.cursor.Cursor`` as its users know it."""

    __slots__ = ()

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await running(self._connection, super().fetch(*args, **kwargs))

    async def fetchrow(self, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await running(self._connection, super().fetchrow(**kwargs))

    async def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await running(self._connection, super().forward(*args, **kwargs))


def watched_statement(statement: Any) -> Any:
    """Make a statement asyncpg prepared count; a subclass of the user's stays what it is."""
    if type(statement) is PreparedStatement:
        statement.__class__ = PooledPreparedStatement
    return statement


def watched_cursor(factory: Any) -> Any:
    """Make what asyncpg's ``cursor()`` returned count."""
    if type(factory) is CursorFactory:
        factory.__class__ = PooledCursorFactory
    return factory


class _Awaitable:
    """What ``__await__`` returned, to be awaited in the middle of a coroutine."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Generator[Any, None, Any]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, None, Any]:
        return self._steps
