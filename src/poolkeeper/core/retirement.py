"""When connections are too old, and how many may go at a time."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from poolkeeper.core.sizing import Limits
    from poolkeeper.core.slots import Slot


class Retirement:
    """Gives each connection its time and lets at most one go per lifetime/size.

    Connections opened together would otherwise all end together, and their successors again.
    """

    def __init__(self, limits: Limits, rng: Random) -> None:
        self._limits = limits
        self._rng = rng
        self._last_at = -inf

    def time_for(self, now: float) -> float:
        """When a connection opened now shall retire: the lifetime less a random part of it."""
        if self._limits.max_lifetime is None:
            return inf
        jitter = self._limits.lifetime_jitter * self._rng.random()
        return now + self._limits.max_lifetime * (1.0 - jitter)

    def may_go(self, slot: Slot, now: float) -> bool:
        """Whether a connection past its lifetime may go now; if not, it has got a later turn."""
        due = self._last_at + self._interval()
        if now >= due:
            self._last_at = now
            slot.retire_reason = slot.retire_reason or "max_lifetime"
            return True
        slot.retire_at = due
        return False

    def postpone(self, slot: Slot, now: float) -> None:
        """Give a connection that still works another turn when the next retirement is due."""
        slot.retire_reason = None
        slot.retire_at = now + self._interval()

    def _interval(self) -> float:
        return (self._limits.max_lifetime or 0.0) / max(1, self._limits.max_size)
