"""Life of a pool: NEW, OPEN, DRAINING, CLOSED; never back. Health is a different question."""

from __future__ import annotations

from enum import Enum

from poolkeeper.exceptions import InvariantViolated


class Phase(Enum):
    """Where a pool is in its life."""

    NEW = "new"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.OPEN, Phase.CLOSED}),
    Phase.OPEN: frozenset({Phase.DRAINING}),
    Phase.DRAINING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}


def advance(current: Phase, target: Phase) -> Phase:
    """Return ``target`` if life may go there from ``current``, or raise."""
    if target not in NEXT[current]:
        msg = f"a pool cannot go from {current.name} to {target.name}"
        raise InvariantViolated(msg)
    return target
