"""Connections are opened, checked, cleaned, replaced and closed; no step can hang the pool."""

import asyncio

import pytest

from poolkeeper import ConnectionValidationError, PoolTimeoutError
from poolkeeper.testing.contracts import eventually
from tests.pool.soundness import assert_sound

pytestmark = pytest.mark.asyncio


def recycled(pool):
    return dict(pool.get_statistics().recycled)


async def use(pool, statement="SELECT 1"):
    async with pool.acquire() as connection:
        await connection.execute(statement)


@pytest.mark.parametrize("stubborn", [False, True], ids=["cancellable", "ignores cancellation"])
async def test_a_probe_without_an_answer_costs_its_timeout(memory, stubborn):
    """The connection is replaced and the caller served, whatever the driver does."""
    async with memory.pool(min_size=1, validation_bypass=0, validation_timeout=0.05) as pool:
        if stubborn:
            memory.database.ignore_cancellation("probe")
        memory.database.gates["probe"].close()
        await use(pool)
        assert recycled(pool) == {"validation_failed": 1}
        memory.database.gates["probe"].open()
        await assert_sound(pool, memory)


@pytest.mark.parametrize("stubborn", [False, True], ids=["cancellable", "ignores cancellation"])
async def test_a_cleaning_without_an_end_costs_its_timeout(memory, stubborn):
    """The session that cannot be cleaned is replaced; its borrower never waits for it."""
    async with memory.pool(max_size=1, reset="always", reset_timeout=0.05) as pool:
        if stubborn:
            memory.database.ignore_cancellation("clean")
        memory.database.gates["clean"].close()
        await use(pool)
        memory.database.gates["connect"].close()
        await memory.database.gates["connect"].reached()
        assert recycled(pool) == {"reset_failed": 1}
        memory.database.gates["clean"].open()
        memory.database.gates["connect"].open()
        await assert_sound(pool, memory)


async def test_a_dial_that_ignores_its_timeout_and_its_cancellation_is_given_up(memory):
    """What it opens in the end is closed at once, and counts nowhere."""
    async with memory.pool(min_size=0, max_size=1, connect_timeout=0.05, timeout=0.2) as pool:
        memory.database.ignore_cancellation("connect")
        gate = memory.database.gates["connect"]
        gate.close()
        with pytest.raises(PoolTimeoutError):
            await use(pool)
        await eventually(lambda: pool.get_statistics().total_connect_failures)
        gate.open()
        await assert_sound(pool, memory)
        await eventually(lambda: len(memory.database.sessions) == 1)


async def test_a_goodbye_without_an_answer_is_cut_short(memory, monkeypatch):
    """The room is free again after a bounded time."""
    monkeypatch.setattr("poolkeeper.errands.CLOSE_SECONDS", 0.05)
    async with memory.pool(max_size=1) as pool:
        memory.database.ignore_cancellation("close")
        memory.database.gates["close"].close()
        await pool.expire_connections()
        assert pool.get_statistics().closing_connections == 1
        await use(pool)
        memory.database.gates["close"].open()
        await assert_sound(pool, memory)


async def test_a_connection_used_just_now_is_trusted(memory):
    """Within validation_bypass there is no round trip before the caller's own."""
    async with memory.pool(validation_bypass=60) as pool:
        for _ in range(3):
            await use(pool)
        assert memory.database.gates["probe"].arrivals == 0


async def test_other_connections_are_probed_first(memory):
    """One probe for each acquire when nothing is trusted."""
    async with memory.pool(max_size=1, validation_bypass=0) as pool:
        for _ in range(3):
            await use(pool)
        assert memory.database.gates["probe"].arrivals == 3


async def test_one_failed_probe_makes_the_whole_cohort_suspect(memory):
    """Nobody has to find the other broken connections one after the other."""
    async with memory.pool(min_size=3, max_size=3, validation_bypass=0) as pool:
        old = list(memory.database.sessions)
        memory.database.fail("probe", ConnectionResetError("broken"))
        await use(pool)
        assert not set(old) & set(memory.database.sessions)
        assert recycled(pool) == {"validation_failed": 3}
        assert memory.database.gates["probe"].arrivals == 1


async def test_a_broken_connection_never_reaches_the_caller(world):
    """All connections die between two uses; the next borrower notices nothing."""
    async with world.pool(min_size=2, validation_bypass=0) as pool:
        await world.drop_all()
        for _ in range(3):
            await use(pool)
        await assert_sound(pool, world)


async def test_broken_and_not_replaceable_is_a_validation_error(memory):
    """When no replacement could be had in time, the caller learns that a connection was broken."""
    pool = memory.pool(max_size=1, validation_bypass=0, timeout=0.1)
    async with pool:
        memory.database.fail("probe", ConnectionResetError("broken"))
        memory.database.gates["connect"].close()
        with pytest.raises(ConnectionValidationError, match="no replacement could be opened"):
            await use(pool)
        memory.database.gates["connect"].open()


async def test_the_floor_is_refilled_in_the_background(world):
    """Nobody has to ask for a connection."""
    async with world.pool(min_size=2) as pool:
        await world.drop_all()
        await eventually(lambda: pool.get_statistics().total_connects == 4)
        assert pool.get_size() == 2


async def test_a_connection_is_replaced_after_its_uses(world):
    """max_queries counts acquires, as asyncpg's documentation promises."""
    async with world.pool(max_size=1, max_queries=2) as pool:
        slots = []
        for _ in range(4):
            async with pool.acquire() as connection:
                slots.append(connection._slot.id)
        assert slots[0] == slots[1] != slots[2] == slots[3]
        assert recycled(pool)["max_uses"] >= 1


async def test_a_connection_is_replaced_after_its_lifetime_while_it_rests(memory):
    """The successor stands before the old one goes."""
    async with memory.pool(min_size=1, max_size=2, max_lifetime=0.1) as pool:
        first = memory.database.sessions[0]
        fewest = []
        await eventually(
            lambda: fewest.append(pool.get_size()) or first not in memory.database.sessions
        )
        assert recycled(pool)["max_lifetime"] >= 1
        assert min(fewest) == 1


async def test_connections_above_the_floor_are_shed_when_idle(memory):
    """Those of the floor stay."""
    async with memory.pool(max_size=3, max_inactive_connection_lifetime=0.05) as pool:
        async with pool.acquire(), pool.acquire(), pool.acquire():
            assert pool.get_size() == 3
        await eventually(lambda: pool.get_size() == 1)
        assert recycled(pool) == {"max_idle": 2}


async def test_expired_connections_are_replaced(world):
    """Idle ones now, those in use when they come back."""
    async with world.pool(min_size=2) as pool:
        async with pool.acquire() as connection:
            await pool.expire_connections()
            await connection.execute("SELECT 1")
        await assert_sound(pool, world)
        assert recycled(pool)["expired"] == 2


async def test_a_failing_init_hook_fails_the_connection(world):
    """And leaves no session behind; the next attempt may succeed."""
    attempts = []

    async def init(connection):
        attempts.append(connection)
        if len(attempts) == 1:
            raise LookupError("not today")

    async with world.pool(min_size=0, max_size=1, init=init) as pool:
        await use(pool)
        assert len(attempts) == 2
        assert await world.sessions() == 1
        assert pool.get_statistics().total_connect_failures == 1


async def test_a_failing_setup_hook_fails_the_acquire_only(world):
    """The borrower sees the hook's own error; the pool replaces the connection and goes on."""
    fail = True

    async def setup(connection):
        if fail:
            raise LookupError("not today")

    async with world.pool(max_size=1, setup=setup) as pool:
        with pytest.raises(LookupError, match="not today"):
            await use(pool)
        fail = False
        await assert_sound(pool, world)
        assert recycled(pool) == {"setup_failed": 1}
        assert pool.get_statistics().total_outages == 0


async def test_the_peak_of_connections_in_use_is_kept(world):
    """After they are back, too."""
    async with world.pool(max_size=3) as pool:
        async with pool.acquire(), pool.acquire():
            pass
        assert pool.get_statistics().peak_active_connections == 2


async def test_a_paused_pool_grants_nothing_and_loses_nobody(world):
    """Borrowers finish, requests queue, resume() serves them in order."""
    async with world.pool(min_size=2) as pool:
        connection = await pool.acquire()
        pool.pause()
        await connection.execute("SELECT 1")
        await pool.release(connection)
        waiter = asyncio.create_task(use(pool))
        while not pool.get_statistics().waiting_requests:
            await asyncio.sleep(0)
        with pytest.raises(PoolTimeoutError, match=r"paused\. Suggestion: call resume\(\)"):
            await pool.acquire(timeout=0.01)
        assert not waiter.done()
        pool.resume()
        await waiter
        await assert_sound(pool, world)


async def test_a_pool_grows_and_shrinks_while_it_works(world):
    """Waiters profit at once; what is too much goes when it comes back."""
    async with world.pool(max_size=1) as pool:
        connection = await pool.acquire()
        waiters = [asyncio.create_task(use(pool)) for _ in range(3)]
        await asyncio.sleep(0)
        pool.resize(min_size=2, max_size=3)
        await asyncio.gather(*waiters)
        assert (pool.get_min_size(), pool.get_max_size()) == (2, 3)
        pool.resize(min_size=0, max_size=1)
        await pool.release(connection)
        await eventually(lambda: pool.get_size() == 1)
        await assert_sound(pool, world)
