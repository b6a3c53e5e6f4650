"""The state machine is worth something only if it finds bugs: here it has to, one by one.

Each class below is the core with one bug, most of them shaped like one a published pool once had.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from poolkeeper.core import lifecycle
from poolkeeper.core.effects import Refuse
from poolkeeper.core.waiters import TicketState
from tests.core.machine import PoolMachine
from tests.core.world import WatchedPoolState


class LosesTheGrantOfACancelledOwner(WatchedPoolState):
    def cancel(self, ticket, now):
        if ticket.state is TicketState.GRANTED:
            self.accept(ticket)
            return []
        return super().cancel(ticket, now)


class LeavesACancelledWaiterInTheQueue(WatchedPoolState):
    def cancel(self, ticket, now):
        if ticket.state is TicketState.WAITING:
            ticket.state = TicketState.DONE
            return []
        return super().cancel(ticket, now)


class LeaksTheRoomOfAFailedConnect(WatchedPoolState):
    def connect_failed(self, slot, failure, now):
        effects = super().connect_failed(slot, failure, now)
        self._new_slot()
        return effects


class HandsOnAnOlderGeneration(WatchedPoolState):
    def pass_on(self, slot, now):
        generation, slot.generation = slot.generation, self.generation
        ticket = super().pass_on(slot, now)
        slot.generation = generation
        return ticket


class HandsOnADeadConnection(WatchedPoolState):
    def pass_on(self, slot, now):
        lost, slot.lost = slot.lost, False
        ticket = super().pass_on(slot, now)
        slot.lost = lost
        return ticket


class ParksBesideAWaiter(WatchedPoolState):
    def park(self, slot, now):
        # A paused pool may.
        paused, self.paused = self.paused, True
        parked = super().park(slot, now)
        self.paused = paused
        return parked

    def pass_on(self, slot, now):
        return None


class ServesTheNewestFirst(WatchedPoolState):
    def request(self, now, deadline, owner):
        ticket, effects = super().request(now, deadline, owner)
        if ticket.state is TicketState.WAITING:
            self.waiters.move_to_end(ticket, last=False)
        return ticket, effects


class ClosesAHealthyConnection(WatchedPoolState):
    def _reason_to_close(self, slot, now):
        # Everything that is not in use looks superfluous, the way httpcore once counted.
        if len(self.slots) > max(1, self.limits.min_size):
            return "max_idle"
        return super()._reason_to_close(slot, now)


class CountsLeavingConnectionsAsSurplus(WatchedPoolState):
    def _surplus(self):
        return max(0, len(self.slots) - self.limits.max_size)


class DialsAHerd(WatchedPoolState):
    def _open_missing(self, now, effects):
        self.outage.window = self.limits.max_size
        super()._open_missing(now, effects)


class DialsAgainAtOnce(WatchedPoolState):
    def connect_failed(self, slot, failure, now):
        effects = super().connect_failed(slot, failure, now)
        return effects + self.sign_of_life(now)


class ForgetsTheBackoffWheneverAnyoneAnswers(WatchedPoolState):
    def _alive(self, now):
        effects = super()._alive(now)
        self.outage.forget_failures()
        return effects


class ForgetsToPlanTheNextAttempt(WatchedPoolState):
    def next_wakeup(self, now):
        return min((ticket.deadline for ticket in self.waiters), default=float("inf"))


class TakesAProbeForAUse(WatchedPoolState):
    def validated(self, slot, now):
        slot.idle_since = now
        return super().validated(slot, now)


class TrustsAConnectionUnheardOf(WatchedPoolState):
    def _serve(self, now, effects):
        for slot in self.idle:
            slot.alive_at = now
        super()._serve(now, effects)


class GivesTheCohortUpOncePerProbe(WatchedPoolState):
    def validation_failed(self, slot, now, took=0.0):
        slot.generation = self.generation
        return super().validation_failed(slot, now, took)


class EvictsBehindTheQueuesBack(WatchedPoolState):
    def evict(self, slots, reason, now):
        progress, self._progress = self._progress, lambda now: []
        effects = super().evict(slots, reason, now)
        self._progress = progress
        return effects


class RetiresAllAtOnce(WatchedPoolState):
    def __init__(self, limits, rng):
        super().__init__(limits, rng)
        self._retirement.may_go = self.everybody_may_go

    def everybody_may_go(self, slot, now):
        slot.retire_reason = "max_lifetime"
        return True


class BreaksBeforeItMakes(WatchedPoolState):
    def _replace(self, slot, now, effects):
        self.idle.remove(slot)
        effects.append(self._leave(slot, "max_lifetime"))


class ShedsBelowTheFloor(WatchedPoolState):
    def _shed_idle(self, now, effects):
        floor, self.limits.min_size = self.limits.min_size, 0
        super()._shed_idle(now, effects)
        self.limits.min_size = floor


class GrantsWhileDraining(WatchedPoolState):
    def drain(self, now):
        queue = list(self.waiters)
        effects = super().drain(now)
        for ticket in queue:
            ticket.state = TicketState.WAITING
            self.waiters[ticket] = None
        return [effect for effect in effects if not isinstance(effect, Refuse)]

    def pass_on(self, slot, now):
        phase, self.phase = self.phase, lifecycle.Phase.OPEN
        ticket = super().pass_on(slot, now)
        self.phase = phase
        return ticket


class GrantsWhilePaused(WatchedPoolState):
    def _progress(self, now):
        paused, self.paused = self.paused, False
        effects = super()._progress(now)
        self.paused = paused
        return effects


class NeverClosesForGood(WatchedPoolState):
    def _finish_if_empty(self):
        return []


HUNT = settings(
    max_examples=1500,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    deadline=None,
    # To be found is enough; nobody reads the smallest example of a planted bug.
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mutant", WatchedPoolState.__subclasses__(), ids=lambda m: m.__name__)
def test_a_planted_bug_is_found(mutant):
    """The machine that passes the core fails each core with a bug."""

    class Machine(PoolMachine):
        state_class = mutant

    # InvariantViolated, when the core notices by itself, is an AssertionError too.
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=HUNT)
