"""The rules by which hypothesis plays a ``World``: anything may happen at any time."""

from __future__ import annotations

from functools import wraps

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from poolkeeper.core.availability import Failure
from poolkeeper.core.lifecycle import Phase
from poolkeeper.core.sizing import Limits
from poolkeeper.core.state import PoolState
from tests.core.world import WatchedPoolState, World

which = st.integers(0, 59)
"""Picks one of however many there are."""

several = st.lists(which, min_size=1, max_size=4)

patience = st.sampled_from([0.05, 1.0, 5.0, 30.0, 1000.0])
pauses = st.sampled_from([0.0, 0.01, 0.2, 0.6, 2.0, 11.0, 31.0, 61.0])
sizes = st.tuples(st.integers(0, 3), st.integers(1, 4)).map(lambda two: (min(two), two[1]))


def step(**strategies):
    """A rule that marks the world as broken while it runs, so that nobody goes on after it."""

    def decorate(function):
        @wraps(function)
        def run(self, **drawn):
            self.broken = True
            function(self, **drawn)
            self.broken = False

        return rule(**strategies)(run)

    return decorate


def given_some(name):
    """Only if the world has some of these."""
    return precondition(lambda self: getattr(self.world, name))


LONG_ENOUGH = 12
"""A pool that has served fewer requests is not closed yet: the rest of the run would be lost."""

is_open = precondition(lambda self: self.world.state.phase is Phase.OPEN)


class PoolMachine(RuleBasedStateMachine):
    """One pool, any number of clients, a database that may do anything."""

    state_class: type[PoolState] = WatchedPoolState

    def __init__(self) -> None:
        super().__init__()
        self.broken = True
        self.world: World

    @initialize(
        size=sizes,
        max_waiting=st.sampled_from([None, None, 1, 3]),
        max_lifetime=st.sampled_from([None, 60.0]),
        max_idle=st.sampled_from([None, 30.0]),
        max_uses=st.sampled_from([None, None, 2, 5]),
        seed=st.integers(0, 7),
    )
    def open(self, size, max_waiting, max_lifetime, max_idle, max_uses, seed):
        limits = Limits(
            min_size=size[0],
            max_size=size[1],
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            max_uses=max_uses,
        )
        self.world = World(limits, seed=seed, state_class=self.state_class)
        self.broken = False

    def teardown(self):
        if not self.broken:
            self.world.settle()
            self.world.settle_closed()

    # Clients

    @step(number=st.integers(1, 4), patience=patience)
    def clients_arrive(self, number, patience):
        for _ in range(number):
            self.world.arrive(patience)

    @given_some("granted")
    @step(indexes=several)
    def owners_pick_up(self, indexes):
        for index in indexes:
            if self.world.granted:
                self.world.pick_up(self.world.granted[index % len(self.world.granted)])

    @given_some("granted")
    @step(index=which)
    def owner_of_a_grant_is_cancelled(self, index):
        self.world.give_up(self.world.granted[index % len(self.world.granted)])

    @given_some("waiting")
    @step(index=which)
    def waiter_is_cancelled(self, index):
        self.world.give_up(self.world.waiting[index % len(self.world.waiting)])

    @given_some("endings")
    @step(index=which)
    def cancellation_comes_late(self, index):
        tickets = list(self.world.endings)
        self.world.give_up(tickets[index % len(tickets)])

    @given_some("held")
    @step(indexes=several, dirty=st.booleans())
    def borrowers_give_back(self, indexes, dirty):
        for index in indexes:
            if self.world.held:
                self.world.give_back(self.world.held[index % len(self.world.held)], dirty=dirty)

    @given_some("held")
    @step(index=which)
    def borrower_breaks_the_connection(self, index):
        self.world.throw_away(self.world.held[index % len(self.world.held)])

    # The database and the driver

    @given_some("pending")
    @step(indexes=several)
    def work_succeeds(self, indexes):
        for index in indexes:
            if self.world.pending:
                self.world.succeed(self.world.pending[index % len(self.world.pending)])

    @given_some("pending")
    @step(index=which, failure=st.sampled_from(Failure))
    def work_fails(self, index, failure):
        self.world.fail(self.world.pending[index % len(self.world.pending)], failure)

    @precondition(lambda self: self.world.state.slots)
    @step(index=which)
    def connection_dies(self, index):
        slots = list(self.world.state.slots.values())
        self.world.lose(slots[index % len(slots)])

    @given_some("all_slots")
    @step(index=which)
    def death_is_reported_late(self, index):
        self.world.lose(self.world.all_slots[index % len(self.world.all_slots)])

    @step()
    def server_crashes(self):
        for slot in list(self.world.state.slots.values()):
            self.world.lose(slot)

    @given_some("pending")
    @step(failure=st.sampled_from(Failure))
    def server_answers_nobody(self, failure):
        for work in list(self.world.pending):
            self.world.fail(work, failure)

    @step()
    def database_is_heard_of(self):
        self.world.hear()

    # Time and keepers

    @step(seconds=pauses)
    def time_passes(self, seconds):
        self.world.sleep(seconds)

    @precondition(lambda self: self.world.wakeup < self.world.now + 2000.0)
    @step()
    def timer_fires(self):
        self.world.fire_timer()

    @step()
    def retirement_keeper_comes_by(self):
        self.world.retire()

    @step(unheard_for=st.sampled_from([0.0, 2.0]), number=st.integers(1, 3))
    def liveness_keeper_comes_by(self, unheard_for, number):
        for _ in range(number):
            self.world.probe(unheard_for)

    # The user

    @step()
    def user_expires_connections(self):
        self.world.expire()

    @step(size=sizes)
    def user_resizes(self, size):
        self.world.resize(*size)

    @precondition(lambda self: not self.world.state.paused)
    @step()
    def user_pauses(self):
        self.world.pause()

    @precondition(lambda self: self.world.state.paused)
    @step()
    def user_resumes(self):
        self.world.resume()

    @is_open
    @step()
    def all_goes_well_for_a_while(self):
        self.world.settle()

    @is_open
    @precondition(lambda self: len(self.world.endings) >= LONG_ENOUGH)
    @step()
    def user_closes_the_pool(self):
        self.world.drain()

    @precondition(lambda self: len(self.world.endings) >= LONG_ENOUGH)
    @precondition(lambda self: self.world.state.phase is not Phase.CLOSED)
    @step()
    def user_terminates_the_pool(self):
        self.world.terminate()
