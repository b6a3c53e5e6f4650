"""``pool.acquire()``: something to await, or to enter with ``async with``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolkeeper.exceptions import PoolUsageError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from types import TracebackType

    from poolkeeper.pool import Pool


class AcquireContext:
    """A request for one connection; nothing happens before it is awaited or entered.

    Entered, it yields the connection and releases it at the end of the block, whatever ends it;
    awaited, it yields the connection and releasing is the caller's. What it raises is listed at
    ``ConnectionPoolManager.acquire``.

    Cancelling it while it waits leaves no trace: its place in the queue is given up, and a
    connection already granted goes to the next in line.
    """

    __slots__ = ("_entered", "_lease", "_pool", "_timeout")

    def __init__(self, pool: Pool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._lease: Any = None
        self._entered = False

    def __aenter__(self) -> Coroutine[Any, Any, Any]:
        if self._entered:
            msg = (
                "a connection is already acquired. Suggestion: call pool.acquire() anew for each "
                "connection."
            )
            raise PoolUsageError(msg)
        self._entered = True
        # A busy pool's requests are many: each saves the way through a coroutine in between.
        pool = self._pool
        return self._enter() if pool.state.idle else pool.wait(self._timeout, self)

    async def _enter(self) -> Any:
        lease = self._pool.acquire_nowait()
        if lease is None:
            lease = await self._pool.wait(self._timeout, depth=3)
        self._lease = lease
        return lease

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease, self._lease = self._lease, None
        self._pool.release(lease)

    def __await__(self) -> Generator[Any, None, Any]:
        lease = self._pool.acquire_nowait()
        if lease is not None:
            return lease
        return (yield from self._pool.wait(self._timeout, depth=3).__await__())
