"""The queue: first come, first served, and a cancelled request leaves no trace."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolkeeper.core.slots import Slot


class TicketState(Enum):
    """A request waits, holds a connection it has not picked up yet, or is over."""

    WAITING = "waiting"
    GRANTED = "granted"
    DONE = "done"


WAITING = TicketState.WAITING


class Ticket:
    """One request for a connection. ``owner`` is opaque: the pool puts its future there."""

    __slots__ = ("deadline", "enqueued_at", "owner", "saw_broken", "slot", "state")

    def __init__(self, enqueued_at: float, deadline: float, owner: Any) -> None:
        self.enqueued_at = enqueued_at
        self.deadline = deadline
        self.owner = owner
        self.state = WAITING
        self.slot: Slot | None = None
        # A connection meant for this request failed its validation.
        self.saw_broken = False


class Waiters(OrderedDict[Ticket, None]):
    """FIFO of tickets with removal from the middle in constant time.

    An ``OrderedDict`` and not a deque with tombstones: cancelled requests must neither pile up
    nor count towards ``max_waiting``.
    """

    __slots__ = ()

    def take(self) -> Ticket:
        """Take the ticket that has waited longest."""
        return self.popitem(last=False)[0]

    def remove(self, ticket: Ticket) -> None:
        """Take ``ticket`` out, wherever it stands."""
        del self[ticket]

    def oldest(self) -> Ticket | None:
        """The ticket that has waited longest, or None. May be asked from any thread."""
        while True:
            try:
                return next(iter(self), None)
            except RuntimeError:
                # The pool's own thread changed the queue between the two steps.
                continue
