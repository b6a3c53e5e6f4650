"""Lifetime, idle time, number of uses, changes of size: what goes, when, and what replaces it."""

from itertools import pairwise

import pytest

from poolkeeper.core.effects import Connect
from poolkeeper.core.sizing import Limits
from poolkeeper.core.slots import CLOSING, CONNECTED, IDLE, IN_USE, Slot
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


def connected(world: World) -> int:
    return sum(slot.state in CONNECTED for slot in world.state.slots.values())


def reasons(world: World) -> list[str]:
    return [close.reason for close in world.closes]


def test_a_successor_is_opened_before_the_old_connection_is_closed():
    """With room, a retirement never makes the pool smaller."""
    world = settled(min_size=1, max_size=2, max_lifetime=60.0)
    (old,) = world.state.idle
    world.sleep(61.0)
    world.retire()
    assert old.state is IDLE
    (dial,) = world.pending
    world.succeed(dial)
    assert old.state is CLOSING
    assert connected(world) == 1
    assert reasons(world) == ["max_lifetime"]


def test_a_connection_past_its_lifetime_still_serves_until_its_successor_is_there():
    """Whoever comes at that moment does not wait for a dial."""
    world = settled(min_size=1, max_size=2, max_lifetime=60.0, validation_bypass=1000.0)
    (old,) = world.state.idle
    world.sleep(61.0)
    ticket = world.arrive()
    assert ticket.slot is old
    world.pick_up(ticket)
    (dial,) = world.pending
    world.succeed(dial)
    assert reasons(world) == []
    world.give_back(old)
    assert reasons(world) == ["max_lifetime"]


def test_a_full_pool_closes_the_old_connection_first():
    """Where there is no room for a successor, room is made."""
    world = settled(min_size=1, max_size=1, max_lifetime=60.0)
    world.sleep(61.0)
    world.retire()
    assert reasons(world) == ["max_lifetime"]
    world.settle()
    assert connected(world) == 1


def test_an_old_connection_is_kept_while_no_new_one_can_be_opened():
    """Old and working beats closed; it gets another turn."""
    world = settled(min_size=1, max_size=2, max_lifetime=60.0)
    (old,) = world.state.idle
    world.sleep(61.0)
    world.retire()
    world.fail(world.pending[0])
    assert old.state is IDLE
    world.retire()
    world.sleep(29.0)
    world.retire()
    assert reasons(world) == []
    world.sleep(2.0)
    world.settle()
    world.retire()
    world.settle()
    assert reasons(world) == ["max_lifetime"]


def test_nothing_is_retired_while_dials_fail():
    """The room a working connection leaves could not be filled."""
    world = settled(min_size=2, max_size=2, max_lifetime=60.0)
    world.sleep(61.0)
    lost, old = world.state.idle
    world.lose(lost)
    world.succeed(world.pending[0])
    world.fail(world.pending[0])
    world.retire()
    assert old.state is IDLE
    assert reasons(world) == ["connection_lost"]


def test_a_failed_successor_does_not_get_its_predecessor_closed_on_release():
    """Its next turn is decided by the rate limit again, like everybody's."""
    world = settled(min_size=1, max_size=2, max_lifetime=60.0)
    world.sleep(61.0)
    world.retire()
    world.fail(world.pending[0])
    world.settle()
    world.probe(0.0)
    world.succeed(world.pending[0])
    (old,) = borrow(world, 1)
    world.sleep(31.0)
    world.give_back(old)
    assert reasons(world) == []
    assert old.state is IDLE


def test_connections_opened_together_do_not_retire_together():
    """One per lifetime/max_size, however many are due."""
    world = settled(min_size=4, max_size=5, max_lifetime=60.0, max_idle=None)
    retired_at = []
    for _ in range(100):
        world.sleep(1.0)
        seen = len(world.closes)
        world.retire()
        world.settle()
        retired_at += [world.now] * (len(world.closes) - seen)
    assert len(retired_at) >= 4
    assert all(later - earlier >= 60.0 / 5 for earlier, later in pairwise(retired_at))
    assert connected(world) == 4


def test_lifetimes_are_spread_by_the_jitter():
    """Each connection lives between 90 and 100 percent of max_lifetime."""
    world = settled(min_size=50, max_size=50)
    lifetimes = [slot.retire_at - slot.created_at for slot in world.state.slots.values()]
    assert all(3240.0 <= lifetime <= 3600.0 for lifetime in lifetimes)
    assert max(lifetimes) - min(lifetimes) > 180.0


def test_a_connection_is_replaced_after_max_uses():
    """Counted on release."""
    world = settled(min_size=1, max_size=1, max_uses=2)
    for _ in range(2):
        (slot,) = borrow(world, 1)
        world.give_back(slot)
    assert reasons(world) == ["max_uses"]


def test_surplus_idle_connections_are_shed_and_the_floor_stays():
    """Those not used for longest go, after max_idle."""
    world = settled(min_size=2, max_size=5, max_idle=30.0)
    for slot in borrow(world, 5):
        world.give_back(slot)
    world.sleep(29.0)
    world.retire()
    assert reasons(world) == []
    world.sleep(2.0)
    oldest = world.state.idle[:3]
    world.retire()
    assert reasons(world) == ["max_idle"] * 3
    assert [close.slot for close in world.closes] == oldest
    assert len(world.state.idle) == 2


def test_a_dial_under_way_does_not_count_towards_the_floor_when_shedding():
    """It may fail, and then the pool would be below its floor."""
    world = settled(min_size=1, max_size=3, max_idle=30.0, validation_bypass=1000.0)
    (slot,) = borrow(world, 1)
    waiter = world.arrive()
    world.give_up(waiter)
    world.give_back(slot)
    world.sleep(31.0)
    assert [type(work) for work in world.pending] == [Connect]
    world.retire()
    assert reasons(world) == []


def test_a_probe_does_not_keep_a_connection_from_being_shed():
    """Answering the pool's own question is not being used."""
    world = settled(min_size=0, max_size=1, max_idle=30.0)
    world.give_back(borrow(world, 1)[0])
    world.sleep(20.0)
    world.probe(2.0)
    world.succeed(world.pending[0])
    world.sleep(11.0)
    world.retire()
    assert reasons(world) == ["max_idle"]


def test_the_connection_not_heard_from_for_longest_is_probed_first():
    """And none that gave a sign of life within the interval."""
    world = settled(min_size=2, max_size=2, validation_bypass=1000.0)
    world.sleep(10.0)
    silent = world.state.idle[0]
    slot = world.arrive()
    world.give_back(slot)
    assert world.probe(2.0) is silent
    assert world.probe(2.0) is None


def test_expiring_replaces_idle_connections_now_and_busy_ones_on_return():
    """Nobody gets an older connection again, and nobody at work is disturbed."""
    world = settled(min_size=2, max_size=2)
    (busy,) = borrow(world, 1)
    world.expire()
    assert reasons(world) == ["expired"]
    assert busy.state is IN_USE
    world.give_back(busy)
    assert reasons(world) == ["expired", "expired"]
    world.settle()
    assert {slot.generation for slot in world.state.slots.values()} == {1}
    assert connected(world) == 2


def test_a_connection_dialled_before_the_expiry_is_not_new():
    """Its address or password may be the old one."""
    world = World(Limits(min_size=1, max_size=2))
    (dial,) = world.pending
    world.expire()
    world.succeed(dial)
    assert reasons(world) == ["expired"]


def test_growing_serves_the_queue_with_new_connections():
    """The waiters of a full pool do not wait for a release."""
    world = settled(min_size=1, max_size=1)
    borrow(world, 1)
    ticket = world.arrive()
    world.resize(1, 2)
    world.succeed(world.pending[0])
    assert ticket.slot is not None


def test_a_raised_floor_is_filled():
    """In the background, without a request."""
    world = settled(min_size=1, max_size=5)
    world.resize(4, 5)
    world.settle()
    assert connected(world) == 4


def test_shrinking_closes_idle_connections_now():
    """As many as are too many."""
    world = settled(min_size=5, max_size=5)
    world.resize(1, 3)
    assert reasons(world) == ["resize"] * 2
    assert len(world.state.idle) == 3


@pytest.mark.parametrize("dirty", [False, True])
def test_shrinking_closes_busy_connections_on_return_and_only_the_surplus(dirty):
    """Those on their way out are not counted again."""
    world = settled(min_size=5, max_size=5)
    slots = borrow(world, 5)
    world.resize(1, 3)
    for slot in slots:
        world.give_back(slot, dirty=dirty)
    assert reasons(world) == ["resize"] * 2
    assert connected(world) == 3


def test_shrinking_while_dialling_keeps_as_many_as_are_allowed():
    """Dials that come in late are closed one for one, not all."""
    world = settled(min_size=1, max_size=8)
    borrow(world, 3)
    world.resize(6, 8)
    dials = list(world.pending)
    assert len(dials) == 3
    world.resize(1, 4)
    for dial in dials:
        world.succeed(dial)
    assert reasons(world) == ["resize"] * 2
    assert connected(world) == 4
