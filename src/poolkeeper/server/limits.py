"""Keeps one client from starving the rest: limits of a token, and turns between tokens."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poolkeeper.exceptions import PoolExhaustedError, PoolTimeoutError
from poolkeeper.server.departure import WhileWanted
from poolkeeper.server.turned_away import RateLimitedError, TooManyRequestsError
from poolkeeper.snapshot import PoolSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.server.access import Access
    from poolkeeper.server.settings import Token

_AT_ONCE: AbstractAsyncContextManager[None] = nullcontext()


@dataclass(slots=True)
class _Use:
    """What one token makes of its limits at the moment."""

    open_requests: int = 0
    credit: float = 0.0
    counted_at: float | None = None


class Limits:
    """For the requests of one server. Belongs to one event loop.

    Args:
        pool: Where the requests get their connections.
        access: Knows whether there are several tokens.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        pool: ConnectionPoolManager,
        access: Access,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._access = access
        self._clock = clock
        self._uses: dict[str, _Use] = {}
        self._turns = Turns(lambda: pool.get_max_size() + _AHEAD)

    @property
    def waiting(self) -> int:
        """How many requests wait for the turn of their token, outside the pool's queue."""
        return self._turns.waiting

    def oldest_wait(self) -> float:
        """Seconds that the one of them waits which came first; 0 without any."""
        began = self._turns.waiting_since()
        return 0.0 if began is None else asyncio.get_running_loop().time() - began

    def admit(self, token: Token | None) -> Stay | None:
        """Count a request of ``token`` until its `Stay.end`; None where it need not be counted.

        Raises:
            RateLimitedError: It comes too soon after the others; it is not counted.
            TooManyRequestsError: There are as many as there may be at once.
        """
        if token is None or (token.rate is None and token.max_concurrency is None):
            return None
        use = self._uses.setdefault(token.name, _Use())
        if token.max_concurrency is not None and use.open_requests >= token.max_concurrency:
            raise TooManyRequestsError(
                f"The token {token.name!r} has {use.open_requests} requests waiting or running, "
                "which is all it may have at once. "
                "Suggestion: send the request again when one of them is answered."
            )
        if token.rate is not None:
            self._spend(use, token, token.rate)
        return Stay(use)

    def turn(
        self, token: Token | None, timeout: float, leaving: asyncio.Future[None]
    ) -> AbstractAsyncContextManager[None]:
        """Wait until ``token`` may ask the pool for a connection; it has one at most to the end.

        With one token or none there is nobody to take turns with, and no wait. Otherwise a
        connection that comes free goes to the token that has the fewest, and among equals to the
        one that has waited longest for its turn. So however many requests one token sends, another
        gets the next connection that comes back, until both have equally many.

        Raises:
            PoolTimeoutError: The turn did not come within ``timeout`` seconds.
            PoolExhaustedError: The pool's ``max_waiting`` requests wait already, and no other token
                has more of them; or that was so later, when one of another token came.
            ClientGoneError: ``leaving`` was done before.
        """
        if token is None or not self._access.has_several_tokens:
            return _AT_ONCE
        return _Turn(self, token.name, timeout, leaving)

    def begin_at_once(self, name: str) -> bool:
        """Whether there is nothing to wait for; then `end_turn` must follow."""
        return self._turns.begin_at_once(name)

    async def begin_turn(self, name: str, timeout: float) -> None:
        """Wait as `turn` says; `end_turn` must follow."""
        turns = self._turns
        limit = self._pool.config.max_waiting
        if limit is not None and self._snapshot().waiting >= limit:
            refused = self._exhausted(limit)
            if not turns.displace(name, refused):
                raise refused
        began = self._clock()
        try:
            async with asyncio.timeout(timeout):
                await turns.begin(name)
        except TimeoutError as error:
            snapshot = self._snapshot()
            raise PoolTimeoutError(
                f"Connection acquisition timeout after {timeout:.1f}s. {turns.waiting_of(name)} "
                f"other requests of the token {name!r} wait for its turn. Pool state: "
                f"{snapshot.describe()}. Suggestion: send fewer requests at once, or increase "
                "POOL_MAX_SIZE.",
                timeout=timeout,
                waited=self._clock() - began,
                snapshot=snapshot,
            ) from error

    def end_turn(self, name: str) -> None:
        """The request needs no connection any more."""
        self._turns.end(name)

    def _exhausted(self, limit: int) -> PoolExhaustedError:
        snapshot = self._snapshot()
        return PoolExhaustedError(
            f"Too many requests are waiting for a connection (limit {limit}). Pool state: "
            f"{snapshot.describe()}. Suggestion: try again later, or increase POOL_MAX_SIZE "
            "or POOL_MAX_WAITING.",
            snapshot=snapshot,
            max_waiting=limit,
        )

    def _snapshot(self) -> PoolSnapshot:
        """The pool's sizes, with those who wait here counted among the waiting."""
        now = self._pool.get_statistics()
        return PoolSnapshot(
            total=now.total_connections,
            idle=now.idle_connections,
            active=now.active_connections,
            connecting=now.connecting_connections,
            validating=now.validating_connections,
            resetting=now.resetting_connections,
            closing=now.closing_connections,
            waiting=now.waiting_requests + self._turns.waiting,
            oldest_waiter_seconds=max(now.oldest_waiter_seconds, self.oldest_wait()),
            min_size=self._pool.get_min_size(),
            max_size=self._pool.get_max_size(),
        )

    def _spend(self, use: _Use, token: Token, rate: float) -> None:
        now = self._clock()
        if use.counted_at is None:
            use.credit = token.burst
        else:
            use.credit = min(token.burst, use.credit + (now - use.counted_at) * rate)
        use.counted_at = now
        if use.credit < 1:
            raise RateLimitedError(
                f"The token {token.name!r} sends more than its {rate:g} requests per second. "
                "Suggestion: send the request again after Retry-After, and fewer of them.",
                retry_after=(1 - use.credit) / rate,
            )
        use.credit -= 1


# Requests let through to the pool's own queue beyond its size. They tell the pool that somebody
# waits, and learn of its outages and its closing; their end lets those behind them learn.
_AHEAD = 1


class Stay:
    """One of the open requests of a token."""

    __slots__ = ("_use",)

    def __init__(self, use: _Use) -> None:
        self._use = use
        use.open_requests += 1

    def end(self) -> None:
        """It is answered."""
        self._use.open_requests -= 1


class _Turn:
    """A request's turn, from the wait for it to its end."""

    __slots__ = ("_leaving", "_limits", "_name", "_timeout")

    def __init__(
        self, limits: Limits, name: str, timeout: float, leaving: asyncio.Future[None]
    ) -> None:
        self._limits = limits
        self._leaving = leaving
        self._name = name
        self._timeout = timeout

    async def __aenter__(self) -> None:
        if not self._limits.begin_at_once(self._name):
            with WhileWanted(self._leaving):
                await self._limits.begin_turn(self._name, self._timeout)

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._limits.end_turn(self._name)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """One request in a line, since ``began`` in the event loop's time."""

    future: asyncio.Future[None]
    began: float


@dataclass(slots=True)
class _Line:
    """The requests of one token."""

    held: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque)


class Turns:
    """Divides places among names so that nobody who waits has fewer than somebody who gets one.

    Args:
        places: How many there are; asked each time, because a pool can be resized.
    """

    def __init__(self, places: Callable[[], int]) -> None:
        self._places = places
        self._held = 0
        # In the order in which they were served last; who holds and awaits nothing is not in it.
        self._lines: dict[str, _Line] = {}
        self.waiting = 0

    def waiting_of(self, name: str) -> int:
        """How many wait for a place of this name."""
        line = self._lines.get(name)
        return len(line.waiting) if line else 0

    def begin_at_once(self, name: str) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.waiting or self._held >= self._places():
            return False
        self._take(name)
        return True

    async def begin(self, name: str) -> None:
        """Wait for a place and take it; a cancellation leaves it to the next."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        line = self._lines.setdefault(name, _Line())
        line.waiting.append(_Waiter(future, loop.time()))
        self.waiting += 1
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                if future.exception() is None:
                    self.end(name)
            else:
                self._leave(name, line, future)
            raise

    def displace(self, name: str, refusal: BaseException) -> bool:
        """Make room in the queue for ``name``; the newest of the longest line gets ``refusal``.

        Nothing is done where no other name has a longer line: whoever came first stays.
        """
        own = self._lines.get(name)
        own_size = (len(own.waiting) + 1, own.held) if own else (1, 0)
        sizes = {
            other: (len(line.waiting), line.held)
            for other, line in self._lines.items()
            if line.waiting
        }
        longest = max(sizes, key=sizes.__getitem__, default=name)
        if longest == name or sizes[longest] <= own_size:
            return False
        line = self._lines[longest]
        waiter = line.waiting.pop()
        self.waiting -= 1
        if not waiter.future.done():
            waiter.future.set_exception(refusal)
        return True

    def waiting_since(self) -> float | None:
        """When the one who waits longest began to, in the event loop's time."""
        firsts = [line.waiting[0].began for line in self._lines.values() if line.waiting]
        return min(firsts, default=None)

    def _leave(self, name: str, line: _Line, future: asyncio.Future[None]) -> None:
        for waiter in line.waiting:
            if waiter.future is future:
                line.waiting.remove(waiter)
                self.waiting -= 1
                self._forget(name, line)
                return

    def end(self, name: str) -> None:
        """Give a place back; it goes to whoever is next."""
        line = self._lines[name]
        line.held -= 1
        self._held -= 1
        self._forget(name, line)
        while self.waiting and self._held < self._places():
            self._serve_next()

    def _serve_next(self) -> None:
        name = min(
            (name for name, line in self._lines.items() if line.waiting),
            key=lambda name: self._lines[name].held,
        )
        line = self._lines[name]
        future = line.waiting.popleft().future
        self.waiting -= 1
        if future.done():
            # Cancelled, but its task has not run since.
            self._forget(name, line)
            return
        self._take(name)
        future.set_result(None)

    def _take(self, name: str) -> None:
        # Taken out and put back in: the last served is the last in order.
        line = self._lines.pop(name, None) or _Line()
        line.held += 1
        self._held += 1
        self._lines[name] = line

    def _forget(self, name: str, line: _Line) -> None:
        if not line.held and not line.waiting and self._lines.get(name) is line:
            del self._lines[name]
