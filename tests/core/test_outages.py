"""What waiters are told while the database is away, and how the pool comes back."""

import pytest

from poolkeeper.core.availability import Failure
from poolkeeper.core.effects import Connect, OutageBegan, OutageEnded, Refusal
from poolkeeper.core.sizing import Limits
from poolkeeper.core.slots import CONNECTING, IDLE, Slot
from poolkeeper.core.waiters import TicketState
from tests.core.world import World


def crash(world: World) -> None:
    """Every connection dies at once, and closing what is left of them is done."""
    for slot in list(world.state.slots.values()):
        world.lose(slot)
    for slot in list(world.held):
        world.give_back(slot)
    for work in list(world.pending):
        if not isinstance(work, Connect):
            world.succeed(work)


def dials(world: World) -> list[Connect]:
    return [work for work in world.pending if isinstance(work, Connect)]


def fail_dials(world: World, failure: Failure, *, until: float) -> None:
    """Every attempt fails until the clock says so."""
    while world.now < until:
        for dial in dials(world):
            world.fail(dial, failure)
        if world.wakeup > until:
            world.now = until
        else:
            world.fire_timer()


def settled(**limits: object) -> World:
    world = World(Limits(**limits))
    world.settle()
    return world


def test_losing_the_last_connection_begins_an_outage_and_a_successful_dial_ends_it():
    """Each outage is reported once when it begins and once when it ends, with its facts."""
    world = settled(min_size=2, max_size=4)
    crash(world)
    began = world.now
    fail_dials(world, Failure.UNAVAILABLE, until=began + 3.0)
    world.settle()
    first, last = world.outages
    assert first == OutageBegan(silent_for=0.0, connections_lost=2, reason="connection_lost")
    assert isinstance(last, OutageEnded)
    assert 3.0 <= last.duration <= 3.0 + world.limits.reconnect_max_delay


def test_losing_one_of_two_connections_is_no_outage():
    """While one connection works the database is there."""
    world = settled(min_size=2, max_size=4)
    world.lose(world.state.idle[0])
    assert world.outages == []
    assert world.state.outage.down_since is None


def test_losing_an_expired_connection_is_no_outage():
    """The pool gave those up by itself; nothing follows from their end."""
    world = settled(min_size=1, max_size=2)
    slot = world.arrive()
    world.expire()
    world.lose(slot)
    assert world.outages == []


def test_silence_is_measured_from_the_last_use_of_any_connection():
    """A pool that never needed a probe was not silent all that time."""
    world = settled(min_size=2, max_size=2)
    for _ in range(100):
        slot = world.arrive()
        world.sleep(0.4)
        world.give_back(slot)
    world.arrive()
    world.sleep(2.0)
    world.probe(1.0)
    world.fail(world.pending[0])
    (outage,) = world.outages
    assert outage.silent_for == pytest.approx(2.0)
    assert outage.connections_lost == 2


def test_waiters_are_held_through_a_short_outage():
    """A restart is a pause, not an error."""
    world = settled(min_size=1, max_size=2)
    crash(world)
    ticket = world.arrive(patience=30.0)
    fail_dials(world, Failure.UNAVAILABLE, until=world.now + 9.0)
    assert ticket.state is TicketState.WAITING
    world.settle()
    assert world.refusals == []
    assert world.endings[ticket] == 1


def test_waiters_are_told_when_patience_is_over():
    """Held until the outage is outage_patience old, not until their own deadline."""
    world = settled(min_size=1, max_size=2)
    crash(world)
    began = world.now
    world.arrive(patience=300.0)
    fail_dials(world, Failure.UNAVAILABLE, until=began + 9.9)
    assert world.refusals == []
    fail_dials(world, Failure.UNAVAILABLE, until=began + 10.1)
    assert world.refusals == [Refusal.UNAVAILABLE]


def test_after_patience_newcomers_fail_at_once_and_the_dialling_goes_on():
    """Nobody queues for a database that is gone; the pool keeps asking."""
    world = settled(min_size=0, max_size=2)
    world.arrive()
    world.settle()
    crash(world)
    fail_dials(world, Failure.UNAVAILABLE, until=world.now + 11.0)
    world.arrive(patience=300.0)
    assert world.refusals == [Refusal.UNAVAILABLE]
    assert world.wakeup <= world.now + world.limits.reconnect_max_delay
    world.settle()
    assert isinstance(world.outages[-1], OutageEnded)
    assert isinstance(world.arrive(), Slot)


def test_a_server_that_is_starting_up_keeps_its_waiters():
    """57P03 is as good as back, so waiters keep their own deadlines."""
    world = settled(min_size=1, max_size=2)
    crash(world)
    ticket = world.arrive(patience=60.0)
    fail_dials(world, Failure.STARTING, until=world.now + 50.0)
    assert ticket.state is TicketState.WAITING
    fail_dials(world, Failure.STARTING, until=world.now + 11.0)
    assert world.refusals == [Refusal.TIMEOUT]


def test_a_server_that_refuses_this_client_ends_the_wait_at_once():
    """A wrong password does not become right while somebody waits; a rotated one does heal."""
    world = settled(min_size=1, max_size=2)
    crash(world)
    world.arrive(patience=60.0)
    world.fail(dials(world)[0], Failure.MISCONFIGURED)
    assert world.refusals == [Refusal.UNAVAILABLE]
    world.arrive(patience=60.0)
    assert world.refusals == [Refusal.UNAVAILABLE] * 2
    world.settle()
    assert isinstance(world.outages[-1], OutageEnded)


def test_a_full_server_is_not_an_outage():
    """53300 means that the database is there."""
    world = World(Limits(min_size=1, max_size=2))
    world.fail(dials(world)[0], Failure.BACKPRESSURE)
    assert world.outages == []


def test_a_full_server_is_not_asked_more_often_because_open_connections_answer():
    """Only time, a sign of life or a successful dial ends the backoff."""
    world = settled(min_size=1, max_size=2)
    slot = world.arrive()
    world.arrive(patience=30.0)
    world.fail(dials(world)[0], Failure.BACKPRESSURE)
    due = world.state.outage.next_attempt_at
    world.give_back(slot, dirty=True)
    world.succeed(world.pending[0])
    assert dials(world) == []
    assert world.state.outage.next_attempt_at == due


def test_whoever_cannot_outlast_the_backoff_is_told_early():
    """With the next attempt after the deadline there is nothing to wait for."""
    world = settled(min_size=1, max_size=2, reconnect_initial_delay=50.0, reconnect_max_delay=50.0)
    crash(world)
    world.fail(dials(world)[0], Failure.UNAVAILABLE)
    left = world.state.outage.next_attempt_at - world.now
    world.arrive(patience=left / 2)
    assert world.refusals == [Refusal.UNAVAILABLE]
    world.arrive(patience=left * 2)
    assert len(world.waiting) == 1


def test_a_sign_of_life_breaks_the_backoff():
    """The pool dials at once and does not sit out the delay."""
    world = settled(min_size=1, max_size=2, reconnect_initial_delay=50.0, reconnect_max_delay=50.0)
    crash(world)
    world.fail(dials(world)[0])
    assert dials(world) == []
    world.hear()
    assert len(dials(world)) == 1


def test_one_prober_then_one_two_four():
    """A database that comes back meets one dial, then two, then four; never a herd."""
    world = settled(min_size=8, max_size=8)
    crash(world)
    for _ in range(20):
        world.arrive(patience=300.0)
    fail_dials(world, Failure.UNAVAILABLE, until=world.now + 5.0)
    while not dials(world):
        world.fire_timer()
    at_once = []
    while world.state.usable() < 8:
        at_once.append(len(dials(world)))
        for dial in dials(world):
            world.succeed(dial)
    assert at_once == [1, 2, 4, 1]


def test_a_failed_probe_costs_its_cohort_and_the_waiter_gets_a_fresh_connection():
    """What broke one connection may have broken all that are as old."""
    world = settled(min_size=3, max_size=3)
    world.sleep(60.0)
    ticket = world.arrive()
    (probe,) = world.pending
    world.fail(probe)
    assert world.state.idle == []
    assert {close.reason for close in world.closes} == {"validation_failed"}
    world.succeed(world.pending[0])
    (dial,) = dials(world)
    assert dial.slot.state is CONNECTING
    world.succeed(dial)
    assert ticket.slot is dial.slot


def test_a_waiter_whose_connection_proved_broken_is_told_so_at_its_deadline():
    """The reason of the delay is not hidden behind a timeout."""
    world = settled(min_size=1, max_size=1)
    world.sleep(60.0)
    world.arrive(patience=2.0)
    world.fail(world.pending[0])
    fail_dials(world, Failure.STARTING, until=world.now + 3.0)
    assert world.refusals == [Refusal.VALIDATION]


def test_an_idle_connection_that_dies_is_replaced_without_being_asked():
    """The floor is kept in the background."""
    world = settled(min_size=2, max_size=4)
    world.lose(world.state.idle[0])
    assert len(dials(world)) == 1
    world.settle()
    assert sum(slot.state is IDLE for slot in world.state.slots.values()) == 2


def test_a_probe_that_fails_while_others_answer_condemns_nobody_else():
    """Heard from in the second half of its time: that one connection is dead, and no other."""
    world = settled(min_size=3, max_size=3)
    world.sleep(5.0)
    probed = world.probe(0.0)
    busy = world.arrive()
    if not isinstance(busy, Slot):
        world.catch_up()
        busy = world.held[-1]
    world.sleep(1.5)
    world.give_back(busy)
    world.sleep(0.5)
    generation = world.state.generation
    for work in [work for work in world.pending if work.slot is probed]:
        world.fail(work, took=2.0)
    assert world.state.generation == generation
    assert not world.outages
    world.settle()
    assert world.state.usable() == 3
