"""The life of a pool inside the life of an application."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from poolkeeper.manager import ConnectionPoolManager

Lifespan: TypeAlias = "Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]"


def lifespan(
    pool: ConnectionPoolManager | Callable[[], ConnectionPoolManager],
    *,
    then: Lifespan | None = None,
    require_database: bool = True,
    close_timeout: float | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Make a lifespan that opens a pool and closes it: ``FastAPI(lifespan=lifespan(pool))``.

    The pool is ``request.state.pool`` and ``app.state.pool``. At shutdown whoever waits for a
    connection is turned away, and those who have one may finish, see ``close()``.

    Args:
        pool: The pool, or a function that makes one. A pool can be opened once; with a function the
            application can be started again, as test clients do.
        then: A lifespan of the application's own, which begins when the pool is open and ends
            before it is closed. What it yields is in ``request.state`` as well.
        require_database: Fail to start when the database cannot be reached; it is tried for as long
            as the pool's options say. False: start at once; until the database is there, requests
            fail as in an outage, and ``/readyz`` says no.
        close_timeout: Seconds those who have a connection get; None means the pool's option.

    Raises:
        PoolInitializationError: At start, with ``require_database``.
    """

    @asynccontextmanager
    async def context(app: Any) -> AsyncIterator[dict[str, Any]]:
        opened = pool() if callable(pool) else pool
        await _open(opened, require_database=require_database)
        try:
            state = getattr(app, "state", None)
            if state is not None:
                state.pool = opened
            if then is None:
                yield {"pool": opened}
            else:
                async with then(app) as more:
                    yield {"pool": opened, **(more or {})}
        finally:
            await opened.close(close_timeout)

    return context


async def _open(pool: ConnectionPoolManager, *, require_database: bool) -> None:
    if require_database:
        await pool.initialize()
        return
    # Without a floor nothing is dialled and nothing can fail; raising it again starts the dialling.
    floor = pool.get_min_size()
    pool.resize(min_size=0)
    await pool.initialize()
    pool.resize(min_size=floor)
