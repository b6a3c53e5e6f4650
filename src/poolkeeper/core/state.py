"""The pool's decisions: who gets which connection, what to open, what to close."""

from __future__ import annotations

from bisect import insort
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from poolkeeper.core import sizing
from poolkeeper.core.availability import Failure
from poolkeeper.core.census import take_snapshot
from poolkeeper.core.effects import (
    Close,
    Connect,
    Effect,
    Grant,
    Refusal,
    Refuse,
    Reset,
    Validate,
)
from poolkeeper.core.lifecycle import Phase, advance
from poolkeeper.core.outage import Outage
from poolkeeper.core.retirement import Retirement
from poolkeeper.core.sizing import Limits, connections_to_open
from poolkeeper.core.slots import (
    CLOSED,
    CLOSING,
    COMING,
    CONNECTED,
    CONNECTING,
    IDLE,
    IN_USE,
    RESETTING,
    VALIDATING,
    Slot,
)
from poolkeeper.core.waiters import Ticket, TicketState, Waiters
from poolkeeper.exceptions import InvariantViolated

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from poolkeeper.snapshot import PoolSnapshot

OPEN = Phase.OPEN
WAITING = TicketState.WAITING
GRANTED = TicketState.GRANTED
DONE = TicketState.DONE

OUTCAST = -1
"""The generation of a connection whose cohort is fine and that must not be used all the same."""

_idle_since = attrgetter("idle_since")
_alive_at = attrgetter("alive_at")


class PoolState:
    """Slots, waiters and generations of one pool.

    No method awaits and none calls back, so within one event loop each is atomic and no lock is
    needed. ``now`` is always the pool's clock in seconds. Methods that report an event return the
    effects to carry out, in order; ``take``, ``park`` and ``pass_on`` are the hot path and return
    what they did instead.

    ``len(slots) <= max_size`` is the only size; every other count is derived from slot states.
    """

    def __init__(self, limits: Limits, rng: Random) -> None:
        self.limits = limits
        self.phase = Phase.NEW
        self.paused = False
        self.generation = 0
        self.slots: dict[int, Slot] = {}
        self.idle: list[Slot] = []
        self.waiters = Waiters()
        self.outage = Outage(limits, rng)
        self.alive_at = 0.0
        self.mean_use = 0.0
        self._last_slot_id = 0
        self._retirement = Retirement(limits, rng)

    # Hot path ---------------------------------------------------------------------------------

    def take(self, now: float) -> Slot | None:
        """Take the most recently used idle connection if it can be trusted as it is.

        None means: make a ``request``. An idle slot implies an empty queue (or a pause), so
        nobody is overtaken.
        """
        if not self.idle or self.paused:
            return None
        slot = self.idle[-1]
        if now - slot.alive_at > self.limits.validation_bypass or now >= slot.retire_at:
            return None
        self.idle.pop()
        slot.state = IN_USE
        slot.taken_at = now
        slot.uses += 1
        return slot

    def pass_on(self, slot: Slot, now: float) -> Ticket | None:
        """Hand a sound released connection to whoever has waited longest; None if nobody may."""
        if (
            not self.waiters
            or slot.generation != self.generation
            or now >= slot.retire_at
            or not self._sound(slot)
            or self.paused
        ):
            return None
        self._note_use(slot, now)
        ticket, _ = self.waiters.popitem(last=False)
        # Changed when decided, not when the owner wakes: nobody can take the slot meanwhile.
        slot.taken_at = slot.alive_at = slot.idle_since = now
        slot.uses += 1
        ticket.slot = slot
        ticket.state = GRANTED
        return ticket

    def park(self, slot: Slot, now: float) -> bool:
        """Make a sound released connection idle; False means: use ``release``."""
        if (
            slot.generation != self.generation
            or now >= slot.retire_at
            or not self._sound(slot)
            or (self.waiters and not self.paused)
        ):
            return False
        if self.mean_use > sizing.NEGLIGIBLE_USE:
            self._note_use(slot, now)
        slot.state = IDLE
        slot.alive_at = slot.idle_since = now
        self.idle.append(slot)
        return True

    def _sound(self, slot: Slot) -> bool:
        """Whether a connection neither expired nor too old may simply be used again."""
        limits = self.limits
        return (
            self.phase is OPEN
            and not slot.lost
            and (limits.max_uses is None or slot.uses < limits.max_uses)
            and (len(self.slots) <= limits.max_size or not self._surplus())
        )

    def _surplus(self) -> int:
        """How many connections beyond ``max_size`` are not on their way out yet."""
        # Almost always the first comparison is enough; only a resize makes the second necessary.
        over = len(self.slots) - self.limits.max_size
        return 0 if over <= 0 else max(0, over - self._count(CLOSING))

    # Requests ---------------------------------------------------------------------------------

    def request(self, now: float, deadline: float, owner: Any) -> tuple[Ticket, list[Effect]]:
        """Ask for a connection. The ticket is granted or refused by this or a later effect."""
        ticket = Ticket(now, deadline, owner)
        if (
            self.phase is not OPEN
            or self.outage.down_since is not None
            or self.limits.max_waiting is not None
            or len(self.waiters) * self.mean_use > deadline - now
        ):
            # Only now is there anything to look at closely.
            why = self._turn_away(now, deadline)
            if why is not None:
                ticket.state = DONE
                return ticket, [Refuse(ticket, why, self.snapshot(now))]
        self.waiters[ticket] = None
        if not self.idle and len(self.slots) >= self.limits.max_size:
            # Nothing to serve it from and no room to open more: the common case under load.
            return ticket, []
        return ticket, self._progress(now)

    def _turn_away(self, now: float, deadline: float) -> Refusal | None:
        """Say why a new request cannot be queued, or None."""
        if self.phase is not OPEN:
            return Refusal.CLOSED
        if self.outage.down_since is not None:
            if now >= self.outage.patience_until():
                return Refusal.UNAVAILABLE
            if self.outage.next_attempt_at > deadline and not self._count(CONNECTING):
                return Refusal.UNAVAILABLE
        waiting = len(self.waiters)
        limit = self.limits.max_waiting
        if limit is not None and waiting >= limit and not self._servable(now):
            # Who is covered by a connection on its way, or by room for one, waits for nobody.
            covered = self._coming() + self.limits.max_size - len(self.slots)
            if waiting - covered >= limit:
                return Refusal.QUEUE_FULL
        if waiting >= self.limits.max_size:
            wait = sizing.expected_wait(
                ahead=waiting, max_size=self.limits.max_size, mean_use=self.mean_use
            )
            if wait > sizing.HOPELESS_FACTOR * (deadline - now):
                return Refusal.HOPELESS
        return None

    def _servable(self, now: float) -> bool:
        """Whether a newcomer would be granted at once or by a validation just for it."""
        return bool(self.idle) and not self.paused and now < self.idle[-1].retire_at

    def accept(self, ticket: Ticket) -> Slot:
        """The owner of a granted ticket picks its connection up."""
        if ticket.state is not GRANTED or ticket.slot is None:
            msg = f"a ticket in state {ticket.state.name} cannot be accepted"
            raise InvariantViolated(msg)
        ticket.state = DONE
        return ticket.slot

    def cancel(self, ticket: Ticket, now: float) -> list[Effect]:
        """The owner has gone, whatever had happened to its ticket.

        A connection already granted goes to the next in line.
        """
        if ticket.state is WAITING:
            ticket.state = DONE
            self.waiters.remove(ticket)
        elif ticket.state is GRANTED:
            slot = self.accept(ticket)
            if slot.state is CLOSED:
                return []  # cut off meanwhile
            # Never picked up, so never used: it counts neither as a use nor as a sign of life.
            slot.uses -= 1
            return self._return(slot, now)
        return []

    def release(self, slot: Slot, now: float, *, dirty: bool = False) -> list[Effect]:
        """A borrower gives its connection back; ``dirty`` asks for a cleaned session first.

        One that was cut off meanwhile has nothing left to give back.
        """
        if slot.state is CLOSED:
            return []
        if slot.state is not IN_USE:
            msg = f"slot {slot.id} was released in state {slot.state.name}"
            raise InvariantViolated(msg)
        self._note_use(slot, now)
        if not slot.lost:
            slot.alive_at = slot.idle_since = now
            if dirty and self._reason_to_close(slot, now) is None:
                slot.move(RESETTING)
                return [Reset(slot)]
        return self._return(slot, now)

    def discard(self, slot: Slot, reason: str) -> list[Effect]:
        """A borrower gives back a connection nobody else may have."""
        return [self._leave(slot, reason, abort=True)]

    def _note_use(self, slot: Slot, now: float) -> None:
        self.mean_use = sizing.smoothed_use(self.mean_use, now - slot.taken_at)

    def _return(self, slot: Slot, now: float) -> list[Effect]:
        """Bring a connection nobody is at work on any more back into circulation, or close it."""
        reason = "connection_lost" if slot.lost else self._reason_to_close(slot, now)
        if reason is not None:
            return [self._leave(slot, reason, abort=slot.lost), *self._progress(now)]
        return self._settle(slot, now)

    def _reason_to_close(self, slot: Slot, now: float) -> str | None:
        """Why a healthy connection must not be used again, or None."""
        if self.phase is not OPEN:
            return "pool_closed"
        if slot.generation != self.generation:
            return "expired"
        if slot.retire_reason is not None and now >= slot.retire_at:
            return slot.retire_reason
        if self.limits.max_uses is not None and slot.uses >= self.limits.max_uses:
            return "max_uses"
        if self._surplus():
            return "resize"
        return None

    def _settle(self, slot: Slot, now: float) -> list[Effect]:
        """Make a connection idle and let the queue have it if it wants it."""
        slot.move(IDLE)
        # Ordered by last use: a probe must not make an unused connection look used, or surplus
        # connections would never be shed.
        insort(self.idle, slot, key=_idle_since)
        return self._progress(now)

    def _assign(self, ticket: Ticket, slot: Slot, now: float) -> None:
        slot.state = IN_USE
        slot.taken_at = now
        slot.uses += 1
        ticket.slot = slot
        ticket.state = GRANTED

    # Progress ---------------------------------------------------------------------------------

    def _progress(self, now: float) -> list[Effect]:
        """Serve the queue from idle connections, then open what is still missing."""
        effects: list[Effect] = []
        if self.phase is not OPEN:
            return effects
        if not self.paused:
            self._serve(now, effects)
        self._open_missing(now, effects)
        return effects

    def _serve(self, now: float, effects: list[Effect]) -> None:
        while self.waiters and self.idle:
            slot = self.idle[-1]
            if now - slot.alive_at > self.limits.validation_bypass:
                slot = max(self.idle, key=_alive_at)
            if now >= slot.retire_at and self._retirement.may_go(slot, now):
                self._replace(slot, now, effects)
            elif now - slot.alive_at <= self.limits.validation_bypass:
                self.idle.remove(slot)
                ticket = self.waiters.take()
                self._assign(ticket, slot, now)
                effects.append(Grant(ticket, slot))
            elif self._coming(VALIDATING, RESETTING) < len(self.waiters):
                self.idle.remove(slot)
                slot.move(VALIDATING)
                effects.append(Validate(slot))
            else:
                # Every waiter has a connection being prepared; the rest may sleep on.
                break

    def _open_missing(self, now: float, effects: list[Effect]) -> None:
        if len(self.slots) >= self.limits.max_size or now < self.outage.next_attempt_at:
            return
        connecting = self._count(CONNECTING)
        number = connections_to_open(
            min_size=self.limits.min_size,
            max_size=self.limits.max_size,
            total=len(self.slots),
            leaving=self._count(CLOSING),
            waiting=0 if self.paused else len(self.waiters),
            coming=self._coming(*COMING),
            connecting=connecting,
            window=self.outage.window,
        )
        if number == 0 and self.outage.down_since is not None and not connecting:
            # During an outage somebody has to keep asking, even with no floor and no queue.
            number = min(1, self.limits.max_size - len(self.slots))
        effects.extend(Connect(self._new_slot()) for _ in range(number))

    def _new_slot(self) -> Slot:
        self._last_slot_id += 1
        slot = Slot(self._last_slot_id, self.generation)
        self.slots[slot.id] = slot
        return slot

    def _coming(self, *states: object) -> int:
        """How many connections in these states will be usable if all goes well."""
        return sum(
            slot.state in states and slot.generation == self.generation and not slot.lost
            for slot in self.slots.values()
        )

    def _count(self, *states: object) -> int:
        return sum(slot.state in states for slot in self.slots.values())

    # Outcomes ---------------------------------------------------------------------------------

    def connected(self, slot: Slot, connection: Any, now: float) -> list[Effect]:
        """A dial succeeded."""
        slot.connection = connection
        slot.created_at = slot.alive_at = slot.idle_since = now
        slot.retire_at = self._retirement.time_for(now)
        if self.phase is not OPEN:
            return [self._leave(slot, "pool_closed")]
        effects = self._alive(now)
        # Only a dial that succeeds ends the backoff: while the server is full or refuses this
        # client, its open connections keep answering, and must not cause dial after dial.
        self.outage.forget_failures()
        if slot.generation != self.generation:
            return [*effects, self._leave(slot, "expired"), *self._progress(now)]
        predecessor, slot.replaces = slot.replaces, None
        if predecessor is not None:
            if predecessor.state is IDLE:
                self.idle.remove(predecessor)
                reason = predecessor.retire_reason or "max_lifetime"
                effects.append(self._leave(predecessor, reason))
            elif predecessor.state in CONNECTED:
                # At work; it closes when it comes back.
                predecessor.retire_at = now
        if self._surplus():
            return [*effects, self._leave(slot, "resize"), *self._progress(now)]
        self.outage.window = min(self.outage.window + 1, self.limits.max_size)
        return effects + self._settle(slot, now)

    def connect_failed(self, slot: Slot, failure: Failure, now: float) -> list[Effect]:
        """A dial failed, or was given up; its room is free again."""
        slot.move(CLOSED)
        del self.slots[slot.id]
        if self.phase is not OPEN:
            return self._finish_if_empty()
        self.outage.dial_failed(failure, now)
        if slot.replaces is not None:
            self._retirement.postpone(slot.replaces, now)
        effects: list[Effect] = []
        if failure is not Failure.BACKPRESSURE:
            self._note_if_down("connect_failed", now, now - self.last_heard(), effects)
        return effects + self.tick(now)

    def validated(self, slot: Slot, now: float) -> list[Effect]:
        """A probe came back in time."""
        slot.alive_at = now
        effects = self._alive(now)
        return effects + self._return(slot, now)

    def validation_failed(self, slot: Slot, now: float, took: float = 0.0) -> list[Effect]:
        """A probe failed, ``took`` seconds after it was sent.

        What broke this connection may have broken its whole cohort, unless another one was heard
        from while this one kept silent. Idle connections of a suspect cohort are dropped at once,
        which makes room to dial fresh in parallel; those in use close when they come back.
        """
        cohort = self.usable()
        self.outage.last_failure_at = now
        self.outage.window = 1
        effects: list[Effect] = [self._leave(slot, "validation_failed", abort=True)]
        if self.phase is not OPEN:
            return effects
        for ticket in self.waiters:
            ticket.saw_broken = True
        # Half of the time: a peer that fell silent just after the probe was sent is suspect, too.
        if slot.generation == self.generation and not self._heard_since(now - took / 2):
            self.outage.lost += cohort
            self.generation += 1
            effects.extend(self._drop_idle("validation_failed", abort=True))
            self._note_if_down("validation_failed", now, now - self.last_heard(), effects)
        return effects + self._progress(now)

    def _heard_since(self, moment: float) -> bool:
        return any(
            slot.state in CONNECTED
            and slot.generation == self.generation
            and not slot.lost
            and slot.alive_at > moment
            for slot in self.slots.values()
        )

    def evict(self, slots: Iterable[Slot], reason: str, now: float) -> list[Effect]:
        """These connections lead nowhere any more: drop them, also under whoever has them.

        What an errand of the pool's own is at work on is closed when that ends.
        """
        effects: list[Effect] = []
        for slot in slots:
            if slot.state in {VALIDATING, RESETTING}:
                slot.generation = OUTCAST
                continue
            if slot.state is IDLE:
                self.idle.remove(slot)
            elif slot.state is not IN_USE:
                continue
            if slot.generation == self.generation and not slot.lost:
                self.outage.lost += 1
            effects.append(self._leave(slot, reason, abort=True))
        if self.phase is OPEN:
            self._note_if_down(reason, now, now - self.last_heard(), effects)
            effects += self._progress(now)
        return effects

    def heard_aside(self, now: float) -> None:
        """The database answered on a connection that is not the pool's."""
        self.alive_at = max(self.alive_at, now)

    def reset_done(self, slot: Slot, now: float) -> list[Effect]:
        """A session was cleaned; that it answered is a sign of life."""
        return self.validated(slot, now)

    def reset_failed(self, slot: Slot, now: float) -> list[Effect]:
        """A session could not be cleaned in time, so nobody may have it."""
        effects: list[Effect] = [self._leave(slot, "reset_failed", abort=True)]
        return effects + self._progress(now)

    def lost(self, slot: Slot, now: float) -> list[Effect]:
        """The driver saw the connection die, in whatever state it was."""
        if slot.lost or slot.state in (CLOSING, CLOSED, CONNECTING):
            return []
        slot.lost = True
        self.outage.lost += 1
        self.outage.window = 1
        effects: list[Effect] = []
        if slot.state is IDLE:
            self.idle.remove(slot)
            effects.append(self._leave(slot, "connection_lost", abort=True))
        # In any other state somebody is at work on it, will fail, and will bring it back.
        if self.phase is OPEN:
            if slot.generation == self.generation:
                # The peer itself said so: there is no silence to speak of. Of an expired
                # connection nothing follows; its successors are only just being dialled.
                self._note_if_down("connection_lost", now, 0.0, effects)
            effects += self._progress(now)
        return effects

    def closed(self, slot: Slot, now: float) -> list[Effect]:
        """The connection is gone and its room is free."""
        slot.move(CLOSED)
        slot.connection = None
        del self.slots[slot.id]
        if self.phase is not OPEN:
            return self._finish_if_empty()
        return self._progress(now)

    def _leave(self, slot: Slot, reason: str, *, abort: bool = False) -> Close:
        slot.move(CLOSING)
        self.alive_at = max(self.alive_at, slot.alive_at)
        return Close(slot, reason, abort)

    def _drop_idle(self, reason: str, *, abort: bool) -> list[Effect]:
        stale = [slot for slot in self.idle if slot.generation != self.generation]
        self.idle = [slot for slot in self.idle if slot.generation == self.generation]
        return [self._leave(slot, reason, abort=abort) for slot in stale]

    # Availability -----------------------------------------------------------------------------

    def usable(self) -> int:
        """Open connections of the current generation not known to be dead.

        Statistics ask for it from threads of their own, hence the copy.
        """
        return sum(
            slot.state in CONNECTED and slot.generation == self.generation and not slot.lost
            for slot in list(self.slots.values())
        )

    def last_heard(self) -> float:
        """When any connection last gave a sign of life."""
        # The hot path notes it on the connection only.
        return max(self.alive_at, *(slot.alive_at for slot in list(self.slots.values())), 0.0)

    def _alive(self, now: float) -> list[Effect]:
        """Something was heard from the database."""
        self.alive_at = now
        ended = self.outage.heard(now)
        return [] if ended is None else [ended]

    def _note_if_down(
        self, reason: str, now: float, silent_for: float, effects: list[Effect]
    ) -> None:
        if self.outage.down_since is None and self.usable() == 0:
            effects.append(self.outage.begin(now, silent_for, reason))

    def sign_of_life(self, now: float) -> list[Effect]:
        """Something suggests the database is back: do not sit out the backoff."""
        self.outage.next_attempt_at = min(self.outage.next_attempt_at, now)
        return self._progress(now)

    # Time -------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Do what is due: refuse those whose time is up, dial if the backoff is over."""
        effects: list[Effect] = []
        hopeless = self.outage.down_since is not None and now >= self.outage.patience_until()
        snapshot: PoolSnapshot | None = None
        for ticket in list(self.waiters):
            if hopeless:
                why = Refusal.UNAVAILABLE
            elif now >= ticket.deadline:
                why = Refusal.VALIDATION if ticket.saw_broken else Refusal.TIMEOUT
            else:
                continue
            # One for all, taken while they still wait: the error counts its own request.
            snapshot = snapshot or self.snapshot(now)
            effects.append(self._refuse(ticket, why, snapshot))
        return effects + self._progress(now)

    def next_wakeup(self, now: float) -> float:
        """When ``tick`` should next be called; ``inf`` if nothing is scheduled."""
        due = min((ticket.deadline for ticket in self.waiters), default=inf)
        if self.waiters and self.outage.down_since is not None:
            due = min(due, self.outage.patience_until())
        if self.outage.next_attempt_at > now:
            due = min(due, self.outage.next_attempt_at)
        return due

    def _refuse(self, ticket: Ticket, why: Refusal, snapshot: PoolSnapshot) -> Refuse:
        self.waiters.remove(ticket)
        ticket.state = DONE
        return Refuse(ticket, why, snapshot)

    # Upkeep -----------------------------------------------------------------------------------

    def reserve_for_probe(self, now: float, unheard_for: float) -> Slot | None:
        """Take the idle connection not heard from for longest out of circulation for a probe.

        None if every idle connection gave a sign of life within ``unheard_for`` seconds.
        """
        slot = min(self.idle, key=lambda slot: slot.alive_at, default=None)
        if slot is None or now - slot.alive_at < unheard_for:
            return None
        self.idle.remove(slot)
        slot.move(VALIDATING)
        return slot

    def retire(self, now: float) -> list[Effect]:
        """Replace idle connections that are too old, close those idle for too long."""
        effects: list[Effect] = []
        if self.phase is not OPEN:
            return effects
        for slot in list(self.idle):
            if now >= slot.retire_at and self._retirement.may_go(slot, now):
                self._replace(slot, now, effects)
        self._shed_idle(now, effects)
        return effects + self._progress(now)

    def _replace(self, slot: Slot, now: float, effects: list[Effect]) -> None:
        """Open a successor first if there is room, so that the pool never gets smaller."""
        if now < self.outage.next_attempt_at or self._count(CONNECTING) >= self.outage.window:
            # No new connection can be had at present, so the old one is worth keeping.
            self._retirement.postpone(slot, now)
        elif len(self.slots) < self.limits.max_size:
            successor = self._new_slot()
            successor.replaces = slot
            slot.retire_at = inf
            effects.append(Connect(successor))
        else:
            self.idle.remove(slot)
            effects.append(self._leave(slot, slot.retire_reason or "max_lifetime"))

    def _shed_idle(self, now: float, effects: list[Effect]) -> None:
        if self.limits.max_idle is None:
            return
        # Only what is open counts: a dial under way may fail.
        surplus = self.usable() - self.limits.min_size
        for slot in self.idle[: max(0, surplus)]:
            if now - slot.idle_since >= self.limits.max_idle:
                self.idle.remove(slot)
                effects.append(self._leave(slot, "max_idle"))

    def expire(self, now: float) -> list[Effect]:
        """Replace every connection: idle ones now, those in use when they come back."""
        self.generation += 1
        return [*self._drop_idle("expired", abort=False), *self._progress(now)]

    def resize(self, min_size: int, max_size: int, now: float) -> list[Effect]:
        """Change the limits; surplus idle connections go now, surplus busy ones on return."""
        self.limits.min_size = min_size
        self.limits.max_size = max_size
        self.outage.window = max(1, min(self.outage.window, max_size))
        effects: list[Effect] = []
        if self.phase is not OPEN:
            return effects
        for slot in self.idle[: self._surplus()]:
            self.idle.remove(slot)
            effects.append(self._leave(slot, "resize"))
        return effects + self._progress(now)

    # Life cycle -------------------------------------------------------------------------------

    def open(self, now: float) -> list[Effect]:
        """Start serving; the floor is filled in the background."""
        self.phase = advance(self.phase, Phase.OPEN)
        self.alive_at = now
        return self._progress(now)

    def pause(self) -> None:
        """Stop granting connections. Those in use may finish; requests queue and keep their
        deadlines.
        """
        self.paused = True

    def resume(self, now: float) -> list[Effect]:
        """Grant connections again, to the queue first."""
        self.paused = False
        return self._progress(now)

    def drain(self, now: float) -> list[Effect]:
        """Refuse everybody in the queue, close what is idle, take nothing new."""
        self.phase = advance(self.phase, Phase.DRAINING)
        snapshot = self.snapshot(now)
        effects: list[Effect] = [
            self._refuse(ticket, Refusal.CLOSED, snapshot) for ticket in list(self.waiters)
        ]
        for slot in list(self.idle):
            self.idle.remove(slot)
            effects.append(self._leave(slot, "pool_closed"))
        return effects + self._finish_if_empty()

    def cut_off(self, slot: Slot) -> list[Effect]:
        """The connection was dropped without asking whoever is at work on it."""
        if slot.state is IDLE:
            self.idle.remove(slot)
        if slot.state is not CLOSING:
            slot.move(CLOSING)
        slot.move(CLOSED)
        del self.slots[slot.id]
        return self._finish_if_empty()

    def _finish_if_empty(self) -> list[Effect]:
        if self.phase is Phase.DRAINING and not self.slots:
            self.phase = advance(self.phase, Phase.CLOSED)
        return []

    def snapshot(self, now: float) -> PoolSnapshot:
        """The sizes at this instant; O(number of connections)."""
        return take_snapshot(self.slots, self.waiters, self.limits, now)
