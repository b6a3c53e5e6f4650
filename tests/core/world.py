"""Everything around a ``PoolState``, simulated and suspicious.

A ``World`` does what the pool and its keepers would do: it keeps the effects the core asks for as
pending work, finishes that work in whatever order it is told, delivers grants to their owners and
fires the timer. It keeps its own books, and compares the core with them after every report
(``promises.py``).
"""

from __future__ import annotations

from math import inf
from random import Random

from poolkeeper.core.availability import Failure
from poolkeeper.core.effects import (
    Close,
    Connect,
    Validate,
)
from poolkeeper.core.lifecycle import Phase
from poolkeeper.core.sizing import Limits
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
from poolkeeper.core.state import PoolState
from poolkeeper.core.waiters import Ticket, TicketState
from tests.core.promises import EPSILON, Promises, Work


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


class World(Promises):
    """One pool and its surroundings. Every method is something that can happen to a pool."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        seed: int = 0,
        state_class: type[PoolState] = WatchedPoolState,
        now: float = 1000.0,
    ) -> None:
        super().__init__(state_class(limits or Limits(), Random(seed)), now)
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
        was_down, planned = state.outage.down_since is not None, state.outage.next_attempt_at
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
            assert state.outage.next_attempt_at == planned, "an open connection ended the backoff"
        self._report(effects)
        self.alive_connections = self._count(*CONNECTED)

    def fail(self, work: Work, failure: Failure = Failure.UNAVAILABLE, took: float = 0.0) -> None:
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
            self.no_dial_before = state.outage.next_attempt_at
            assert slot.state is CLOSED
            assert slot.id not in state.slots, "a failed connect kept its room"
            self._check_dial_scheduled()
        elif isinstance(work, Validate):
            self.window = 1
            suspect = (
                state.phase is Phase.OPEN
                and slot.generation == generation
                and not self._others_heard_since(slot, now - took / 2)
            )
            self._report(state.validation_failed(slot, now, took), generations=int(suspect))
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
            assert self.now < state.outage.next_attempt_at, "no new attempt after a failed connect"
            assert self.wakeup <= state.outage.next_attempt_at

    def _others_heard_since(self, slot: Slot, moment: float) -> bool:
        return any(
            self.last_heard[other.id] > moment
            for other in self.state.slots.values()
            if other is not slot
            and other.state in CONNECTED
            and other.generation == self.state.generation
            and not other.lost
        )

    def evict(self, slots: list[Slot]) -> None:
        """Somebody found out that these lead nowhere; borrowers will meet a closed connection."""
        fate = [slot for slot in slots if slot.state in {IDLE, IN_USE}]
        self._report(self.state.evict(slots, "stalled", self.now))
        for work in [work for work in self.pending if work.slot in fate]:
            self.succeed(work)
        assert all(slot.state is CLOSED for slot in fate)

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
            elif self.waiting or state.usable() < floor or state.outage.down_since is not None:
                # Nobody is at work; only a planned attempt may stand between now and progress.
                assert self.now < state.outage.next_attempt_at, "the pool stalls"
                assert self.wakeup <= state.outage.next_attempt_at, "nobody wakes the pool up"
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
