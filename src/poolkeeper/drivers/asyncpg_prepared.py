"""Prepared statements of a borrower, made to report to the pool what they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncpg.prepared_stmt import PreparedStatement

from poolkeeper.drivers.asyncpg_cached import guarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class PooledPreparedStatement(PreparedStatement):  # type: ignore[misc]
    """``asyncpg.prepared_stmt.PreparedStatement`` whose statements count as running."""

    __slots__ = ()

    async def _PreparedStatement__do_execute(  # noqa: N802 - the one place asyncpg runs them all
        self, executor: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        con = self._connection
        lease = con._proxy
        work = guarded(con, super()._PreparedStatement__do_execute(executor))
        if lease is None:
            # Used after the release; asyncpg says so itself.
            return await work
        lease._running += 1
        try:
            return await work
        finally:
            lease._running -= 1
