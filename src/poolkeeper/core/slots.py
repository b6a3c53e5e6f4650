"""One place for one connection: its states and the moves between them."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Any

from poolkeeper.exceptions import InvariantViolated


class SlotState(Enum):
    """Where a connection is. Every state but CLOSED counts towards ``max_size``."""

    CONNECTING = "connecting"
    IDLE = "idle"
    VALIDATING = "validating"
    IN_USE = "in_use"
    RESETTING = "resetting"
    CLOSING = "closing"
    CLOSED = "closed"

    # Enum hashes by name in Python; identity is as good and lets set look-ups stay in C.
    __hash__ = object.__hash__


CONNECTING = SlotState.CONNECTING
IDLE = SlotState.IDLE
VALIDATING = SlotState.VALIDATING
IN_USE = SlotState.IN_USE
RESETTING = SlotState.RESETTING
CLOSING = SlotState.CLOSING
CLOSED = SlotState.CLOSED

LEGAL: dict[SlotState, frozenset[SlotState]] = {
    CONNECTING: frozenset({IDLE, IN_USE, CLOSING, CLOSED}),
    IDLE: frozenset({IN_USE, VALIDATING, CLOSING}),
    VALIDATING: frozenset({IDLE, IN_USE, CLOSING}),
    # IN_USE to IN_USE is the direct hand-off from one borrower to the next.
    IN_USE: frozenset({IDLE, IN_USE, RESETTING, CLOSING}),
    RESETTING: frozenset({IDLE, IN_USE, CLOSING}),
    CLOSING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}

CONNECTED = frozenset({IDLE, VALIDATING, IN_USE, RESETTING})
"""States that hold an open session."""

COMING = frozenset({CONNECTING, VALIDATING, RESETTING})
"""States that end in a usable connection if all goes well."""


class Slot:
    """Room for one connection, and what is known about the connection in it.

    ``connection`` is opaque here; the pool puts the driver's object in and takes it out.
    Times are seconds on the pool's clock.
    """

    __slots__ = (
        "alive_at",
        "borrow",
        "connection",
        "created_at",
        "error",
        "generation",
        "id",
        "idle_since",
        "lost",
        "recipe",
        "replaces",
        "retire_at",
        "retire_reason",
        "state",
        "taken_at",
        "uses",
    )

    def __init__(self, slot_id: int, generation: int) -> None:
        self.id = slot_id
        # Taken before dialling: a connection opened while the pool is being expired must not
        # count as new.
        self.generation = generation
        self.state = CONNECTING
        self.connection: Any = None
        self.created_at = 0.0
        self.alive_at = 0.0
        self.idle_since = 0.0
        self.taken_at = 0.0
        self.retire_at = inf
        self.retire_reason: str | None = None
        self.uses = 0
        self.lost = False
        # Why the pool closes it, in words, where the reason alone does not say it.
        self.error: str | None = None
        # How to clean the session, set by the pool before it asks for a reset.
        self.recipe: str | None = None
        self.replaces: Slot | None = None
        # What the pool lent out for the current use; leak reports read it.
        self.borrow: Any = None

    def move(self, target: SlotState) -> None:
        """Enter ``target``, or raise if the table does not allow it."""
        if target not in LEGAL[self.state]:
            msg = f"slot {self.id} cannot go from {self.state.name} to {target.name}"
            raise InvariantViolated(msg)
        self.state = target

    def __repr__(self) -> str:
        return f"<Slot {self.id} {self.state.value} generation {self.generation}>"
