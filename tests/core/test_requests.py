"""Who is served, in which order, and who is told early that it will not happen."""

import pytest

from poolkeeper.core.effects import Close, Connect, Refusal
from poolkeeper.core.sizing import Limits
from poolkeeper.core.slots import IDLE, IN_USE, RESETTING, Slot
from poolkeeper.core.waiters import TicketState
from poolkeeper.exceptions import InvariantViolated
from tests.core.world import World


def settled(**limits: object) -> World:
    world = World(Limits(**limits))
    world.settle()
    return world


def borrow(world: World, number: int) -> list[Slot]:
    """Take so many connections out, dialling what is missing."""
    for _ in range(number):
        world.arrive()
    while len(world.held) < number:
        if world.granted:
            world.pick_up(world.granted[0])
        else:
            world.succeed(world.pending[0])
    return list(world.held)


def test_the_connection_used_last_is_lent_first():
    """So that the others can become old and be shed."""
    world = settled(min_size=3, max_size=3)
    first, second, third = borrow(world, 3)
    for slot in (second, third, first):
        world.give_back(slot)
    assert [world.arrive() for _ in range(3)] == [first, third, second]


def test_waiters_are_served_in_the_order_they_came():
    """A released connection goes to whoever has waited longest."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    tickets = [world.arrive() for _ in range(3)]
    for ticket in tickets:
        world.give_back(slot)
        assert ticket.slot is slot
        world.pick_up(ticket)


def test_a_newcomer_cannot_overtake_the_queue():
    """Between release and pick-up the connection already has its next owner."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    waiter = world.arrive()
    world.give_back(slot)
    newcomer = world.arrive()
    assert waiter.state is TicketState.GRANTED
    assert newcomer.state is TicketState.WAITING


def test_a_cancelled_waiter_leaves_no_trace():
    """Not in the queue, not in max_waiting, not in the way of the next."""
    world = settled(min_size=1, max_size=1, max_waiting=1)
    (slot,) = borrow(world, 1)
    world.give_up(world.arrive())
    ticket = world.arrive()
    world.give_back(slot)
    assert ticket.slot is slot


def test_a_cancelled_owner_gives_its_connection_to_the_next():
    """A grant that nobody picks up is not lost."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    first, second = world.arrive(), world.arrive()
    world.give_back(slot)
    world.give_up(first)
    assert second.slot is slot
    assert second.state is TicketState.GRANTED


def test_a_grant_nobody_picked_up_is_not_a_use():
    """Neither for max_uses nor for the idle time."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    ticket = world.arrive()
    uses = slot.uses
    world.sleep(20.0)
    world.give_back(slot)
    released_at = world.now
    world.sleep(0.3)
    world.give_up(ticket)
    assert slot.state is IDLE
    assert slot.uses == uses
    assert slot.idle_since == released_at


def test_a_cancelled_request_leaves_its_dial_to_the_next_caller():
    """Connects belong to the pool."""
    world = World(Limits(min_size=0, max_size=1))
    world.give_up(world.arrive())
    (dial,) = world.pending
    assert isinstance(dial, Connect)
    world.succeed(dial)
    assert world.arrive() is dial.slot


def test_a_dirty_connection_is_cleaned_before_the_next_one_gets_it():
    """Cleaning is nobody's waiting time but the queue's."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    ticket = world.arrive()
    world.give_back(slot, dirty=True)
    assert slot.state is RESETTING
    world.succeed(world.pending[0])
    assert ticket.slot is slot


def test_a_waiter_whose_connection_died_in_validation_gets_another_one_at_once():
    """It does not wait for the probe of a connection known to be dead."""
    world = settled(min_size=2, max_size=2)
    world.sleep(60.0)
    ticket = world.arrive()
    (probe,) = world.pending
    world.lose(probe.slot)
    _, other = world.pending
    world.succeed(other)
    assert ticket.slot is other.slot


def test_a_connection_that_cannot_be_cleaned_is_replaced():
    """Nobody may have it, and the waiter does not have to wait for a release."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    ticket = world.arrive()
    world.give_back(slot, dirty=True)
    world.fail(world.pending[0])
    assert [close.reason for close in world.closes] == ["reset_failed"]
    world.settle()
    assert ticket.slot is not slot
    assert world.refusals == []


def test_a_request_that_ran_out_of_time_is_refused():
    """Exactly at its deadline, by the timer the core asked for."""
    world = settled(min_size=1, max_size=1)
    borrow(world, 1)
    world.arrive(patience=5.0)
    deadline = world.now + 5.0
    world.fire_timer()
    assert world.now == deadline
    assert world.refusals == [Refusal.TIMEOUT]


def test_a_full_queue_refuses_at_once():
    """max_waiting bounds the queue and nothing else."""
    world = settled(min_size=1, max_size=1, max_waiting=2)
    borrow(world, 1)
    for _ in range(3):
        world.arrive()
    assert world.refusals == [Refusal.QUEUE_FULL]
    assert len(world.waiting) == 2


def test_a_hopeless_request_is_told_early():
    """Behind a long queue of long uses, a short deadline cannot be met."""
    world = settled(min_size=1, max_size=1)
    borrow(world, 1)
    for _ in range(100):
        world.arrive(patience=10_000.0)
        world.sleep(10.0)
        world.give_back(world.held[0])
        world.pick_up(world.granted[0])
    world.arrive(patience=1000.0)
    world.arrive(patience=1.0)
    assert world.refusals == [Refusal.HOPELESS]
    world.arrive(patience=1000.0)
    assert world.refusals == [Refusal.HOPELESS]


def test_hopelessness_is_known_where_every_release_is_cleaned_too():
    """The prediction learns from all releases, not from hand-offs only."""
    world = settled(min_size=1, max_size=1)
    borrow(world, 1)
    for _ in range(100):
        world.sleep(10.0)
        world.give_back(world.held[0], dirty=True)
        world.succeed(world.pending[0])
        borrow(world, 1)
    assert world.state.mean_use == pytest.approx(10.0, rel=0.05)


def test_a_paused_pool_queues_and_serves_when_resumed():
    """Those in use may finish; nobody gets one meanwhile."""
    world = settled(min_size=2, max_size=2)
    (slot,) = borrow(world, 1)
    world.pause()
    ticket = world.arrive()
    world.give_back(slot)
    assert ticket.state is TicketState.WAITING
    world.resume()
    assert ticket.state is TicketState.GRANTED


def test_a_draining_pool_refuses_the_queue_and_lets_borrowers_finish():
    """After the last of them nothing is left."""
    world = settled(min_size=2, max_size=2)
    slot, _other = borrow(world, 2)
    world.arrive()
    world.drain()
    world.arrive()
    assert world.refusals == [Refusal.CLOSED, Refusal.CLOSED]
    assert slot.state is IN_USE
    world.settle_closed()


def test_what_was_cut_off_can_still_be_returned():
    """Owners and borrowers find out by themselves and may say so without an error."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    ticket = world.arrive()
    world.give_back(slot)
    other = world.arrive()
    world.terminate()
    assert other.state is TicketState.DONE
    world.give_up(ticket)
    assert world.state.release(slot, world.now) == []


def test_releasing_twice_is_a_bug_and_says_so():
    """The second release could hand somebody else's connection on."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    world.give_back(slot)
    with pytest.raises(InvariantViolated, match="released in state IDLE"):
        world.state.release(slot, world.now)


def test_a_ticket_is_accepted_once():
    """Accepting again would make two owners."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    ticket = world.arrive()
    world.give_back(slot)
    world.pick_up(ticket)
    with pytest.raises(InvariantViolated, match="DONE"):
        world.state.accept(ticket)


def test_a_connection_thrown_away_is_replaced_for_the_queue():
    """Its room is free as soon as it is closed."""
    world = settled(min_size=1, max_size=1)
    (slot,) = borrow(world, 1)
    ticket = world.arrive()
    world.throw_away(slot)
    (close,) = world.pending
    assert isinstance(close, Close)
    world.settle()
    assert world.endings[ticket] == 1
    assert world.refusals == []
