"""The rules by which hypothesis plays a ``World``: anything may happen at any time."""

from __future__ import annotations

from functools import wraps

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from poolkeeper.core.availability import Failure
from poolkeeper.core.effects import Connect
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


def pick(things, indexes):
    """Choose some that are there; each is looked for only when the one before is dealt with."""
    for index in indexes:
        if things:
            yield things[index % len(things)]


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
        max_idle=st.sampled_from([None, 5.0, 30.0]),
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

    @step(number=st.integers(1, 4), patience=patience, promptly=st.booleans())
    def clients_arrive(self, number, patience, promptly):
        for _ in range(number):
            self.world.arrive(patience)
        if promptly:
            self.world.catch_up()

    @given_some("granted")
    @step(indexes=several)
    def owners_pick_up(self, indexes):
        for ticket in pick(self.world.granted, indexes):
            self.world.pick_up(ticket)

    @given_some("held")
    @step(indexes=several, dirty=st.booleans())
    def borrowers_give_back(self, indexes, dirty):
        for slot in pick(self.world.held, indexes):
            self.world.give_back(slot, dirty=dirty)

    @step(index=which, too_late=st.booleans())
    def somebody_is_cancelled(self, index, too_late):
        world = self.world
        candidates = list(world.endings) if too_late else [*world.granted, *world.waiting]
        for ticket in pick(candidates, [index]):
            world.give_up(ticket)

    @given_some("pending")
    @step(indexes=several)
    def work_succeeds(self, indexes):
        for work in pick(self.world.pending, indexes):
            self.world.succeed(work)

    @step(seconds=pauses, timer_fires=st.booleans())
    def time_passes(self, seconds, timer_fires):
        self.world.sleep(seconds)
        if timer_fires and self.world.wakeup < self.world.now + 2000.0:
            self.world.fire_timer()

    @step(unheard_for=st.sampled_from([0.0, 2.0]), number=st.integers(0, 3))
    def keepers_come_by(self, unheard_for, number):
        self.world.retire()
        for _ in range(number):
            self.world.probe(unheard_for)

    @step(
        what=st.sampled_from(
            [
                "work fails",
                "work fails slowly",
                "all work fails",
                "only dials fail",
                "one dies",
                "all die",
                "late",
                "evicted",
            ]
        ),
        index=which,
        failure=st.sampled_from(Failure),
    )
    def trouble_comes(self, what, index, failure):
        world = self.world
        living = list(world.state.slots.values())
        match what:
            case "work fails":
                for work in pick(world.pending, [index]):
                    world.fail(work, failure)
            case "work fails slowly":
                for work in pick(world.pending, [index]):
                    world.fail(work, failure, took=2.0)
            case "all work fails":
                for work in list(world.pending):
                    world.fail(work, failure)
            case "only dials fail":
                # A full server, a changed password: what is open goes on working.
                for work in [work for work in world.pending if isinstance(work, Connect)]:
                    world.fail(work, failure)
                asked = world.probe(0.0)
                for work in [work for work in world.pending if work.slot is asked]:
                    world.succeed(work)
            case "one dies":
                for slot in pick(living, [index]):
                    world.lose(slot)
            case "all die":
                for slot in living:
                    world.lose(slot)
            case "evicted":
                world.evict(living[: 1 + index % 4])
            case "late":
                for slot in pick(world.all_slots, [index]):
                    world.lose(slot)

    @step(
        what=st.sampled_from(
            ["settle", "expire", "resize", "pause", "resume", "throw away", "hear", "drain", "cut"]
        ),
        size=sizes,
    )
    def user_intervenes(self, what, size):
        world = self.world
        long_enough = len(world.endings) >= LONG_ENOUGH
        match what:
            case "settle":
                world.settle()
            case "expire":
                world.expire()
            case "resize":
                world.resize(*size)
            case "pause":
                world.pause()
            case "resume":
                world.resume()
            case "throw away":
                for slot in pick(world.held, [0]):
                    world.throw_away(slot)
            case "hear":
                world.hear()
            case "drain" if long_enough and world.state.phase is Phase.OPEN:
                world.drain()
            case "cut" if long_enough and world.state.phase is not Phase.CLOSED:
                world.terminate()
