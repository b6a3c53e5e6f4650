"""Counting slots: every size but the number of slots itself is derived here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.core.slots import CLOSING, CONNECTING, IDLE, IN_USE, RESETTING, VALIDATING
from poolkeeper.snapshot import PoolSnapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.core.sizing import Limits
    from poolkeeper.core.slots import Slot
    from poolkeeper.core.waiters import Waiters


def take_snapshot(
    slots: Mapping[int, Slot], waiters: Waiters, limits: Limits, now: float
) -> PoolSnapshot:
    """The sizes at this instant; O(number of connections)."""
    counts = dict.fromkeys((IDLE, IN_USE, CONNECTING, VALIDATING, RESETTING, CLOSING), 0)
    # A copy: exporters ask from threads of their own.
    for slot in list(slots.values()):
        # A slot may have closed since the copy; what has closed does not count.
        if slot.state in counts:
            counts[slot.state] += 1
    oldest = waiters.oldest()
    return PoolSnapshot(
        total=sum(counts.values()),
        idle=counts[IDLE],
        active=counts[IN_USE],
        connecting=counts[CONNECTING],
        validating=counts[VALIDATING],
        resetting=counts[RESETTING],
        closing=counts[CLOSING],
        waiting=len(waiters),
        oldest_waiter_seconds=0.0 if oldest is None else now - oldest.enqueued_at,
        min_size=limits.min_size,
        max_size=limits.max_size,
    )
