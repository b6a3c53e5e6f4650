"""What a pool promises, checked after every single report to its core."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import NamedTuple

from poolkeeper.core.availability import Failure
from poolkeeper.core.effects import (
    Close,
    Connect,
    Effect,
    Grant,
    OutageBegan,
    OutageEnded,
    Refusal,
    Refuse,
    Reset,
    Validate,
)
from poolkeeper.core.lifecycle import Phase
from poolkeeper.core.sizing import HOPELESS_FACTOR, expected_wait
from poolkeeper.core.slots import (
    CLOSED,
    CLOSING,
    CONNECTING,
    IDLE,
    IN_USE,
    RESETTING,
    VALIDATING,
    Slot,
    SlotState,
)
from poolkeeper.core.state import PoolState
from poolkeeper.core.waiters import Ticket, TicketState

Work = Connect | Validate | Reset | Close
WORKED_ON = {CONNECTING: Connect, VALIDATING: Validate, RESETTING: Reset, CLOSING: Close}
ABORTED = {
    "connection_lost",
    "validation_failed",
    "reset_failed",
    "released_while_busy",
    "stalled",
}
EPSILON = 1e-6


class Before(NamedTuple):
    """What the next report is compared with."""

    size: int
    connecting: int
    generation: int
    down: bool


class Promises:
    """The books about one pool, and the comparison of the core with them."""

    def __init__(self, state: PoolState, now: float) -> None:
        self.now = now
        self.state = state
        self.limits = state.limits
        self.pending: list[Work] = []
        self.waiting: list[Ticket] = []
        self.granted: list[Ticket] = []
        self.held: list[Slot] = []
        self.endings: Counter[Ticket] = Counter()
        self.refusals: list[Refusal] = []
        self.closes: list[Close] = []
        self.outages: list[OutageBegan | OutageEnded] = []
        self.all_slots: list[Slot] = []
        self.wakeup = inf
        # The world's own record of each connection, by slot id.
        self.last_used: dict[int, float] = {}
        self.last_heard: dict[int, float] = {}
        self.replaced: set[int] = set()
        self.heard = now
        self.alive_connections = 0
        self.longest_use = 0.0
        self.window = 1
        self.no_dial_before = -inf
        self.last_retirement = -inf
        self.last_failure: Failure | None = None
        self.before = self._measure()

    # Effects ----------------------------------------------------------------------------------

    def _report(self, effects: list[Effect], *, generations: int = 0, rearm: bool = True) -> None:
        expected = self.before.generation + generations
        assert self.state.generation == expected, "a cohort is given up exactly once"
        for effect in effects:
            self._perform(effect)
        closes = [effect for effect in effects if isinstance(effect, Close)]
        self._check_sizes_after(closes)
        if rearm:
            # Until it fires, a timer is only ever moved forward.
            self.wakeup = min(self.wakeup, self.state.next_wakeup(self.now))
        self.check()
        self.before = self._measure()

    def _measure(self) -> Before:
        state = self.state
        down = state.outage.down_since is not None
        return Before(len(state.slots), self._count(CONNECTING), state.generation, down)

    def _count(self, *states: SlotState) -> int:
        return sum(slot.state in states for slot in self.state.slots.values())

    def _perform(self, effect: Effect) -> None:
        state = self.state
        match effect:
            case Connect(slot):
                assert state.phase is Phase.OPEN, "a closing pool dials"
                assert self.now >= self.no_dial_before, "dialled during the backoff"
                if slot.replaces is not None:
                    self._note_retirement(slot.replaces)
                self.all_slots.append(slot)
                self.pending.append(effect)
            case Validate() | Reset():
                self.pending.append(effect)
            case Close(slot):
                self._check_reason(effect)
                self.replaced.discard(slot.id)
                self.closes.append(effect)
                self.pending.append(effect)
            case Grant(ticket, slot):
                self._hand_over(ticket, slot)
            case Refuse(ticket, why, snapshot):
                assert snapshot.max_size == self.limits.max_size
                self._check_refusal(ticket, why)
                self.waiting.remove(ticket)
                self.endings[ticket] += 1
                self.refusals.append(why)
            case OutageBegan():
                assert not self.outages or isinstance(self.outages[-1], OutageEnded)
                assert effect.connections_lost <= self.alive_connections, "counted losses twice"
                silent_for = self.now - self.heard
                assert effect.silent_for <= silent_for + EPSILON, "somebody was heard since"
                self.outages.append(effect)
            case OutageEnded():
                assert isinstance(self.outages[-1], OutageBegan)
                self.outages.append(effect)

    def _hand_over(self, ticket: Ticket, slot: Slot) -> None:
        assert self.waiting, "nobody waits for this grant"
        assert ticket is self.waiting[0], "the queue is served out of order"
        assert ticket.slot is slot
        assert ticket.state is TicketState.GRANTED
        assert not self.state.paused, "granted while paused"
        self._check_handed_out(slot)
        self.waiting.pop(0)
        self.granted.append(ticket)

    def _check_handed_out(self, slot: Slot) -> None:
        state = self.state
        assert state.phase is Phase.OPEN, "granted while draining"
        assert slot.state is IN_USE
        assert slot.generation == state.generation, "an older generation was granted"
        assert not slot.lost, "a dead connection was granted"
        unheard = self.now - self.last_heard[slot.id]
        assert unheard <= self.limits.validation_bypass, "granted unvalidated"

    def _note_retirement(self, slot: Slot) -> None:
        lifetime = self.limits.max_lifetime
        assert lifetime is not None
        spread = lifetime / self.limits.max_size
        assert self.now - self.last_retirement >= spread - EPSILON, "retirements in a herd"
        age = self.now - slot.created_at
        assert age >= lifetime * (1 - self.limits.lifetime_jitter) - EPSILON, "retired too young"
        self.last_retirement = self.now

    def _check_reason(self, close: Close) -> None:
        slot, state = close.slot, self.state
        assert close.abort == (close.reason in ABORTED)
        match close.reason:
            case "pool_closed":
                assert state.phase is not Phase.OPEN
            case "expired":
                assert slot.generation < state.generation
            case "validation_failed" | "stalled":
                pass
            case "connection_lost":
                assert slot.lost
            case "max_uses":
                assert self.limits.max_uses is not None
                assert slot.uses >= self.limits.max_uses
            case "max_idle":
                assert self.limits.max_idle is not None
                unused = self.now - self.last_used[slot.id]
                assert unused >= self.limits.max_idle - EPSILON, "a used connection was shed"
            case "max_lifetime":
                if slot.id not in self.replaced:
                    assert self.before.size >= self.limits.max_size, "broken before made"
                    self._note_retirement(slot)
            case reason:
                assert reason in {"resize", "reset_failed", "released_while_busy"}

    def _check_sizes_after(self, closes: list[Close]) -> None:
        state, limits = self.state, self.limits
        reasons = {close.reason for close in closes}
        if "resize" in reasons:
            staying = len(state.slots) - self._count(CLOSING)
            assert staying >= limits.max_size, "resizing closed more than the surplus"
        if "max_idle" in reasons:
            assert state.usable() >= limits.min_size, "shedding went below the floor"
        size, connecting = len(state.slots), self._count(CONNECTING)
        assert size <= max(limits.max_size, self.before.size), "more connections than max_size"
        if connecting > self.before.connecting:
            assert size <= limits.max_size, "grew beyond max_size"
            assert connecting <= self.window, "more dials at once than slow start allows"
            assert connecting == 1 or state.outage.down_since is None, (
                "a herd of dials in an outage"
            )

    def _check_refusal(self, ticket: Ticket, why: Refusal) -> None:
        state, now, limits = self.state, self.now, self.limits
        ahead = self.waiting.index(ticket)
        match why:
            case Refusal.TIMEOUT:
                assert now >= ticket.deadline, "timed out early"
            case Refusal.VALIDATION:
                assert now >= ticket.deadline
                assert ticket.saw_broken
            case Refusal.CLOSED:
                assert state.phase is not Phase.OPEN
            case Refusal.QUEUE_FULL:
                assert limits.max_waiting is not None
                assert ahead >= limits.max_waiting
            case Refusal.HOPELESS:
                wait = expected_wait(
                    ahead=ahead, max_size=limits.max_size, mean_use=self.longest_use
                )
                assert ahead >= limits.max_size
                assert wait > HOPELESS_FACTOR * (ticket.deadline - now), "there was hope"
            case Refusal.UNAVAILABLE:
                assert state.outage.down_since is not None, "the database is there"
                too_late = state.outage.next_attempt_at > ticket.deadline
                misconfigured = self.last_failure is Failure.MISCONFIGURED
                patience_over = (
                    now >= state.outage.down_since + limits.outage_patience
                    and self.last_failure not in {Failure.STARTING, Failure.BACKPRESSURE}
                )
                assert too_late or misconfigured or patience_over, "the outage is young"

    # Always -----------------------------------------------------------------------------------

    def check(self) -> None:
        """What must be true at every instant."""
        state = self.state
        self._check_slots()
        assert list(state.waiters) == self.waiting, "the queue is not who waits"
        assert all(ticket.state is TicketState.WAITING for ticket in self.waiting)
        assert all(ticket.state is TicketState.GRANTED for ticket in self.granted)
        if state.phase is not Phase.OPEN:
            assert not self.waiting
        elif self.waiting and not state.paused:
            prepared = self._count(VALIDATING, RESETTING)
            assert not state.idle or prepared >= len(self.waiting), "a waiter beside an idle slot"
            self._check_somebody_wakes_the_waiters()
        if state.outage.down_since is not None:
            assert not state.usable()
        snapshot = state.snapshot(self.now)
        parts = (snapshot.idle, snapshot.active, snapshot.connecting)
        more = (snapshot.validating, snapshot.resetting, snapshot.closing)
        assert snapshot.total == sum(parts) + sum(more) == len(state.slots)
        assert snapshot.waiting == len(self.waiting)
        oldest = self.waiting[0].enqueued_at if self.waiting else self.now
        assert snapshot.oldest_waiter_seconds == self.now - oldest

    def _check_slots(self) -> None:
        state = self.state
        working = {(type(work), work.slot.id) for work in self.pending}
        assert len(working) == len(self.pending)
        busy = {
            (WORKED_ON[slot.state], slot.id)
            for slot in state.slots.values()
            if slot.state in WORKED_ON
        }
        assert busy == working, "capacity held by a slot nobody works on"
        # Owners of connections that were cut off will find out.
        lent = [*self.held, *(ticket.slot for ticket in self.granted if ticket.slot)]
        owners = Counter(slot.id for slot in lent if slot.state not in {CLOSING, CLOSED})
        assert set(owners.values()) <= {1}, "one connection, two owners"
        in_use = {slot.id for slot in state.slots.values() if slot.state is IN_USE}
        assert owners.keys() == in_use, "a connection in use that nobody has"
        idle = [slot.id for slot in state.idle]
        assert len(idle) == len(set(idle))
        assert set(idle) == {slot.id for slot in state.slots.values() if slot.state is IDLE}
        times = [slot.idle_since for slot in state.idle]
        assert times == sorted(times)
        for slot in state.idle:
            assert slot.idle_since == self.last_used[slot.id], "idle time is not time unused"
            assert slot.alive_at == self.last_heard[slot.id]
            assert slot.generation == state.generation, "an older generation lies idle"
            assert not slot.lost, "a dead connection lies idle"

    def _check_somebody_wakes_the_waiters(self) -> None:
        state = self.state
        if any(slot.state is not IDLE for slot in state.slots.values()):
            return
        timer_is_due = self.wakeup <= self.now
        attempt_is_planned = self.now < state.outage.next_attempt_at and (
            self.wakeup <= state.outage.next_attempt_at
        )
        assert timer_is_due or attempt_is_planned, "nobody will wake the waiters"
