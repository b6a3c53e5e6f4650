"""Many deadlines of which nearly none is reached, on one timer of the event loop."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# All open timers are looked at when one is due, so not for each one by itself.
_AT_MOST_EVERY = 0.01


class Timers:
    """``call_at`` and ``call_later`` as event loops have them, at a quarter of their price.

    A request sets several and is answered long before any of them. Calls come 10 ms late at most.
    Belongs to the event loop it is first used in.
    """

    __slots__ = ("_due", "_loop", "_open", "_ring")

    def __init__(self) -> None:
        self._open: dict[Timer, None] = {}
        self._due = inf
        self._ring: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call after that many seconds, unless cancelled before."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return self.call_at(loop.time() + seconds, call)

    def call_at(self, when: float, call: Callable[[], object]) -> Timer:
        """Call when the event loop's time is ``when``, unless cancelled before."""
        timer = Timer(when, call, self._open)
        if when < self._due:
            self._arm(when)
        return timer

    def _arm(self, when: float) -> None:
        if self._ring is not None:
            self._ring.cancel()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._due = when
        self._ring = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        self._ring = None
        earliest = inf
        for timer in self._open:
            if timer.when > now:
                earliest = min(earliest, timer.when)
            else:
                # By itself, so that the error of one call does not keep the others from coming.
                self._loop.call_soon(timer.ring)
        self._due = inf
        if earliest < inf:
            self._arm(max(earliest, now + _AT_MOST_EVERY))


class Timer:
    """One call to come."""

    __slots__ = ("_call", "_open", "when")

    def __init__(self, when: float, call: Callable[[], object], among: dict[Timer, None]) -> None:
        self.when = when
        self._call = call
        self._open = among
        among[self] = None

    def ring(self) -> None:
        """Call now, if not cancelled meanwhile."""
        if self in self._open:
            self.cancel()
            self._call()

    def cancel(self) -> None:
        """Do not call; does nothing afterwards."""
        self._open.pop(self, None)
