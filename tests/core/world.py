"""Everything around a ``PoolState``, simulated and suspicious.

A ``World`` does what the pool and its keepers would do: it keeps the effects the core asks for as
pending work, finishes that work in whatever order it is told, delivers grants to their owners and
fires the timer. It keeps its own books, and after every single report to the core it compares the
two and checks what must always be true.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from random import Random
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
from poolkeeper.core.sizing import Limits, expected_wait
from poolkeeper.core.slots import (
    CLOSED,
    CLOSING,
    CONNECTED,
    CONNECTING,
    IDLE,
    IN_USE,
    LEGAL,
    RESETTING,
    VALIDATING,
    Slot,
    SlotState,
)
from poolkeeper.core.state import HOPELESS_FACTOR, PoolState
from poolkeeper.core.waiters import Ticket, TicketState

Work = Connect | Validate | Reset | Close
WORKED_ON = {CONNECTING: Connect, VALIDATING: Validate, RESETTING: Reset, CLOSING: Close}
ABORTED = {"connection_lost", "validation_failed", "reset_failed", "released_while_busy"}
EPSILON = 1e-6


class WatchedSlot(Slot):
    """A slot that checks every change of state, also the ones the hot path assigns directly."""

    __slots__ = ("_state",)

    @property
    def state(self) -> SlotState:
        return self._state

    @state.setter
    def state(self, target: SlotState) -> None:
        current = getattr(self, "_state", None)
        assert current is None or target in LEGAL[current], f"illegal move {current} -> {target}"
        self._state = target


class WatchedPoolState(PoolState):
    """The state under test, with watched slots."""

    def _new_slot(self) -> Slot:
        plain = super()._new_slot()
        self.slots[plain.id] = watched = WatchedSlot(plain.id, plain.generation)
        return watched


class Before(NamedTuple):
    """What the next report is compared with."""

    size: int
    connecting: int
    generation: int
    down: bool


class World:
    """One pool and its surroundings. Every method is something that can happen to a pool."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        seed: int = 0,
        state_class: type[PoolState] = WatchedPoolState,
        now: float = 1000.0,
    ) -> None:
        self.limits = limits or Limits()
        self.now = now
        self.state = state_class(self.limits, Random(seed))
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
        self._report(self.state.open(now))

    # Clients ----------------------------------------------------------------------------------

    def arrive(self, patience: float = 30.0) -> Ticket | Slot:
        """A client wants a connection: at once if one is at hand, else it queues."""
        slot = self.state.take(self.now)
        if slot is not None:
            assert not self.waiting, "a newcomer overtook the queue"
            assert not self.state.paused, "a paused pool gave a connection away"
            self._check_handed_out(slot)
            self.held.append(slot)
            self._report([], rearm=False)
            return slot
        ticket, effects = self.state.request(self.now, self.now + patience, None)
        self.waiting.append(ticket)
        self._report(effects)
        return ticket

    def pick_up(self, ticket: Ticket) -> Slot:
        """The owner of a granted ticket wakes up and takes its connection."""
        slot = self.state.accept(ticket)
        self.granted.remove(ticket)
        self.endings[ticket] += 1
        self.held.append(slot)
        self._report([], rearm=False)
        return slot

    def give_up(self, ticket: Ticket) -> None:
        """The owner of a ticket is cancelled, whatever state the ticket is in."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            self.endings[ticket] += 1
        elif ticket in self.granted:
            self.granted.remove(ticket)
            self.endings[ticket] += 1
        self._report(self.state.cancel(ticket, self.now))
        assert ticket.state is TicketState.DONE

    def give_back(self, slot: Slot, *, dirty: bool = False) -> None:
        """A borrower releases, the way the pool does it: the cheapest way that is allowed."""
        state, now = self.state, self.now
        healthy = self._healthy(slot)
        seen = len(self.closes)
        self.held.remove(slot)
        if slot.state is CLOSED:
            assert state.release(slot, now) == [], "there is nothing left of it"
            return
        self.longest_use = max(self.longest_use, now - slot.taken_at)
        if not slot.lost:
            self.last_used[slot.id] = self.last_heard[slot.id] = self.heard = now
        if dirty:
            self._report(state.release(slot, now, dirty=True))
        elif (ticket := state.pass_on(slot, now)) is not None:
            self._hand_over(ticket, slot)
            self._report([], rearm=False)
        elif state.park(slot, now):
            self._report([], rearm=False)
        else:
            self._report(state.release(slot, now))
        if healthy:
            assert len(self.closes) == seen, "a healthy release below all limits closed something"
            assert slot.state in {IDLE, IN_USE, RESETTING}

    def throw_away(self, slot: Slot) -> None:
        """A borrower gives back a connection nobody else may have."""
        self.held.remove(slot)
        if slot.state is not CLOSED:
            self._report(self.state.discard(slot, "released_while_busy"))

    def _healthy(self, slot: Slot) -> bool:
        state = self.state
        leaving = sum(other.state is CLOSING for other in state.slots.values())
        return (
            state.phase is Phase.OPEN
            and slot.state is IN_USE
            and not slot.lost
            and slot.generation == state.generation
            and (self.limits.max_uses is None or slot.uses < self.limits.max_uses)
            and self.now < slot.retire_at
            and len(state.slots) - leaving <= self.limits.max_size
        )

    # Work -------------------------------------------------------------------------------------

    def succeed(self, work: Work) -> None:
        """One piece of pending work ends well."""
        state, slot, now = self.state, work.slot, self.now
        self.pending.remove(work)
        if isinstance(work, Close):
            self._report(state.closed(slot, now))
            assert slot.id not in state.slots
            return
        self.last_heard[slot.id] = self.heard = now
        was_down, planned = state.down_since is not None, state.next_attempt_at
        if isinstance(work, Connect):
            self.last_used[slot.id] = now
            self.window += 1
            self.no_dial_before = -inf
            self.last_failure = None
            if slot.replaces is not None:
                self.replaced.add(slot.replaces.id)
            effects = state.connected(slot, object(), now)
        elif isinstance(work, Validate):
            effects = state.validated(slot, now)
        else:
            effects = state.reset_done(slot, now)
        if was_down:
            self.no_dial_before = -inf
            self.last_failure = None
        elif not isinstance(work, Connect):
            assert state.next_attempt_at == planned, "an open connection ended the backoff"
        self._report(effects)
        self.alive_connections = self._count(*CONNECTED)

    def fail(self, work: Work, failure: Failure = Failure.UNAVAILABLE) -> None:
        """One piece of pending work fails. Closing cannot: the transport is dropped."""
        state, slot, now = self.state, work.slot, self.now
        if isinstance(work, Close):
            self.succeed(work)
            return
        self.pending.remove(work)
        generation = state.generation
        if isinstance(work, Connect):
            if state.phase is Phase.OPEN:
                self.window = 1
                self.last_failure = failure
            # Not before the next attempt is due, and never in the same breath.
            self.no_dial_before = inf
            self._report(state.connect_failed(slot, failure, now))
            self.no_dial_before = state.next_attempt_at
            assert slot.state is CLOSED
            assert slot.id not in state.slots, "a failed connect kept its room"
            self._check_dial_scheduled()
        elif isinstance(work, Validate):
            self.window = 1
            cohort = state.phase is Phase.OPEN and slot.generation == generation
            self._report(state.validation_failed(slot, now), generations=int(cohort))
        else:
            self._report(state.reset_failed(slot, now))

    def _check_dial_scheduled(self) -> None:
        state = self.state
        unserved = len(self.waiting) - self._count(CONNECTING, VALIDATING, RESETTING)
        if (
            state.phase is Phase.OPEN
            and not state.paused
            and unserved > 0
            and len(state.slots) < self.limits.max_size
            and not self._count(CONNECTING)
        ):
            assert self.now < state.next_attempt_at, "no new attempt after a failed connect"
            assert self.wakeup <= state.next_attempt_at

    def lose(self, slot: Slot) -> None:
        """The driver reports that a connection died; late reports about closed ones included."""
        if slot.state in CONNECTED and not slot.lost:
            self.window = 1
        self._report(self.state.lost(slot, self.now))

    # Time and keepers -------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Time passes, and the timer may be late."""
        self.now += seconds

    def fire_timer(self) -> None:
        """The timer the core asked for fires, at its time or later."""
        self.now = max(self.now, self.wakeup)
        self.wakeup = inf
        self._report(self.state.tick(self.now))
        assert self.wakeup > self.now, "the timer would spin"
        assert all(ticket.deadline > self.now for ticket in self.waiting), "kept past its deadline"

    def probe(self, unheard_for: float) -> Slot | None:
        """The liveness keeper takes an idle connection out to probe it."""
        slot = self.state.reserve_for_probe(self.now, unheard_for)
        if slot is not None:
            assert self.now - self.last_heard[slot.id] >= unheard_for - EPSILON
            self.pending.append(Validate(slot))
        self._report([])
        return slot

    def retire(self) -> None:
        """The retirement keeper comes by."""
        self._report(self.state.retire(self.now))

    def expire(self) -> None:
        """The user asks for new connections."""
        self._report(self.state.expire(self.now), generations=1)

    def resize(self, min_size: int, max_size: int) -> None:
        """The user changes the limits."""
        self._report(self.state.resize(min_size, max_size, self.now))

    def pause(self) -> None:
        """The user stops the handing out of connections."""
        self.state.pause()
        self._report([], rearm=False)

    def resume(self) -> None:
        """The user lets connections out again."""
        self._report(self.state.resume(self.now))

    def hear(self) -> None:
        """Something says the database is back."""
        self.no_dial_before = min(self.no_dial_before, self.now)
        self._report(self.state.sign_of_life(self.now))

    def drain(self) -> None:
        """The user closes the pool."""
        self._report(self.state.drain(self.now))
        assert not self.waiting, "a waiter was left behind by the drain"

    def terminate(self) -> None:
        """The user cuts every connection off, those in use as well."""
        if self.state.phase is Phase.OPEN:
            self.drain()
        for slot in list(self.state.slots.values()):
            if slot.state is CONNECTING:
                dial = next(work for work in self.pending if work.slot is slot)
                self.fail(dial)
                continue
            self.pending = [work for work in self.pending if work.slot is not slot]
            self._report(self.state.cut_off(slot))
        assert self.state.phase is Phase.CLOSED

    # Coming to rest ---------------------------------------------------------------------------

    def catch_up(self) -> None:
        """All work under way ends well, and every owner picks up what it was granted."""
        while self.pending or self.granted:
            if self.granted:
                self.pick_up(self.granted[0])
            else:
                self.succeed(self.pending[0])

    def settle(self) -> None:
        """All goes well from here on: everybody must be served, and the floor be reached."""
        state = self.state
        for _ in range(100 + 20 * (len(self.waiting) + len(self.state.slots))):
            floor = min(self.limits.min_size, self.limits.max_size)
            if self.granted:
                self.pick_up(self.granted[0])
            elif self.held:
                self.give_back(self.held[0])
            elif self.pending:
                self.succeed(self.pending[0])
            elif state.phase is not Phase.OPEN:
                return
            elif state.paused:
                self.resume()
            elif self.wakeup <= self.now:
                self.fire_timer()
            elif self.waiting or state.usable() < floor or state.down_since is not None:
                # Nobody is at work; only a planned attempt may stand between now and progress.
                assert self.now < state.next_attempt_at, "the pool stalls"
                assert self.wakeup <= state.next_attempt_at, "nobody wakes the pool up"
                self.fire_timer()
            else:
                assert len(state.slots) <= self.limits.max_size
                return
        raise AssertionError("the pool does not come to rest")

    def settle_closed(self) -> None:
        """The pool is closed and everything comes back: nothing may remain."""
        if self.state.phase is Phase.OPEN:
            self.drain()
        self.settle()
        assert self.state.phase is Phase.CLOSED
        assert not self.state.slots
        assert not self.state.idle
        assert not len(self.state.waiters)
        assert set(self.endings.values()) <= {1}, "a request ended more than once"

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
        down = state.down_since is not None
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
            case "validation_failed":
                assert slot.generation < state.generation or state.phase is not Phase.OPEN
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
            assert connecting == 1 or state.down_since is None, "a herd of dials in an outage"

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
                assert state.down_since is not None, "the database is there"
                too_late = state.next_attempt_at > ticket.deadline
                misconfigured = self.last_failure is Failure.MISCONFIGURED
                patience_over = (
                    now >= state.down_since + limits.outage_patience
                    and self.last_failure is not Failure.STARTING
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
        if state.down_since is not None:
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
        owners = Counter(slot.id for slot in lent if slot.state is not CLOSED)
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
        attempt_is_planned = self.now < state.next_attempt_at and (
            self.wakeup <= state.next_attempt_at
        )
        assert timer_is_due or attempt_is_planned, "nobody will wake the waiters"
