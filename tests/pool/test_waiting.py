"""The queue: first come, first served, and every wait ends."""

import asyncio
import time

import pytest

from poolkeeper import (
    DatabaseUnavailableError,
    PoolDeadlockError,
    PoolExhaustedError,
    PoolTimeoutError,
)
from tests.pool.soundness import assert_sound

pytestmark = pytest.mark.asyncio


async def acquire(pool, **options):
    return await pool.acquire(**options)


async def queued(pool, count):
    while pool.get_statistics().waiting_requests < count:
        await asyncio.sleep(0)


async def borrow_in_order(pool, name, order):
    async with pool.acquire() as connection:
        order.append(name)
        await connection.execute("SELECT 1")


async def test_waiters_are_served_in_the_order_they_came(world):
    """Also when several connections serve them."""
    async with world.pool(min_size=2) as pool:
        order = []
        async with pool.acquire(), pool.acquire():
            tasks = []
            for number in range(10):
                tasks.append(asyncio.create_task(borrow_in_order(pool, number, order)))
                await queued(pool, number + 1)
        await asyncio.gather(*tasks)
        assert order == list(range(10))


async def test_a_releasing_task_cannot_barge_in(world):
    """It gives its connection away and asks again at once: it is served after those who wait."""
    async with world.pool(max_size=1) as pool:
        order = []
        connection = await pool.acquire()
        waiter = asyncio.create_task(borrow_in_order(pool, "waiter", order))
        await queued(pool, 1)
        await pool.release(connection)
        await borrow_in_order(pool, "barger", order)
        await waiter
        assert order == ["waiter", "barger"]


async def test_the_most_recently_used_connection_is_lent_first(world):
    """The others can grow old and be shed."""
    async with world.pool(min_size=3, max_size=3) as pool:
        held = [await pool.acquire() for _ in range(3)]
        for connection in held:
            await pool.release(connection)
        async with pool.acquire() as connection:
            assert connection._slot is held[-1]._slot


async def test_the_longest_wait_is_kept(memory):
    """A shorter one afterwards does not lower it."""
    async with memory.pool(max_size=1) as pool:
        assert pool.get_statistics().peak_wait_seconds == 0.0
        connection = await pool.acquire()
        began = time.monotonic()
        waiter = asyncio.create_task(acquire(pool))
        await queued(pool, 1)
        while pool.get_statistics().oldest_waiter_seconds < 0.05:
            await asyncio.sleep(0.01)
        await pool.release(connection)
        connection = await waiter
        peak = pool.get_statistics().peak_wait_seconds
        assert 0.05 <= peak <= time.monotonic() - began
        waiter = asyncio.create_task(acquire(pool))
        await queued(pool, 1)
        await pool.release(connection)
        await pool.release(await waiter)
        assert pool.get_statistics().peak_wait_seconds == peak


async def test_a_wait_that_begins_in_an_outage_ends_with_its_patience(memory):
    """Also while an attempt hangs that has not failed yet; not at the waiter's own deadline."""
    async with memory.pool(min_size=1, outage_patience=1.0, timeout=60.0) as pool:
        with memory.database.gates.closed("connect") as gate:
            memory.database.drop()
            await gate.reached()
            while (await pool.health_check()).status != "unhealthy":
                await asyncio.sleep(0)
            with pytest.raises(DatabaseUnavailableError) as caught:
                await asyncio.create_task(acquire(pool))
            assert 1.0 <= caught.value.outage_seconds < 5.0
            assert pool.get_statistics().total_unavailable == 1
        while (await pool.health_check()).status == "unhealthy":
            await asyncio.sleep(0)
        await assert_sound(pool, memory)


async def test_a_cancelled_waiter_leaves_the_queue_at_once(world):
    """It neither counts nor stands in anybody's way."""
    async with world.pool(max_size=1) as pool:
        connection = await pool.acquire()
        waiters = [asyncio.create_task(acquire(pool)) for _ in range(3)]
        await queued(pool, 3)
        waiters[0].cancel()
        waiters[1].cancel()
        await asyncio.wait(waiters[:2])
        assert pool.get_statistics().waiting_requests == 1
        assert pool.get_statistics().total_cancellations == 2
        await pool.release(connection)
        await pool.release(await waiters[2])
        await assert_sound(pool, world)


async def test_a_granted_connection_goes_on_when_its_waiter_is_cancelled(world):
    """The cancellation comes after the grant and before the waiter has run."""
    async with world.pool(max_size=1) as pool:
        connection = await pool.acquire()
        first, second = (asyncio.create_task(acquire(pool)) for _ in range(2))
        await queued(pool, 2)
        await pool.release(connection)
        first.cancel()
        await pool.release(await second)
        assert first.cancelled()
        await assert_sound(pool, world)


async def test_a_timed_out_waiter_gives_its_place_up(world):
    """The next in line gets the connection."""
    async with world.pool(max_size=1) as pool:
        connection = await pool.acquire()
        hasty = asyncio.create_task(acquire(pool, timeout=0.05))
        patient = asyncio.create_task(acquire(pool))
        with pytest.raises(PoolTimeoutError):
            await hasty
        await pool.release(connection)
        await pool.release(await patient)
        await assert_sound(pool, world)


async def test_the_timeout_says_how_the_pool_is(memory):
    """The numbers, who holds the connections, and what to do; the same facts are fields."""
    async with memory.pool(min_size=3, max_size=3) as pool:
        held = []

        async def hold():
            held.extend([await pool.acquire() for _ in range(3)])

        await asyncio.create_task(hold(), name="greedy")
        others = [asyncio.create_task(acquire(pool)) for _ in range(4)]
        await queued(pool, 4)
        with pytest.raises(PoolTimeoutError) as caught:
            await pool.acquire(timeout=1.0)
        error = caught.value
        text = str(error)
        assert text.startswith(
            "Connection acquisition timeout after 1.0s. "
            "Pool state: 3 total, 3 active, 0 idle, 5 waiting. Held by task 'greedy' for "
        )
        assert text.endswith(
            "Suggestion: increase POOL_MAX_SIZE or shorten the work done while holding a "
            "connection."
        )
        assert isinstance(error, TimeoutError)
        assert error.timeout == 1.0
        assert error.waited >= 1.0
        assert (error.snapshot.total, error.snapshot.active, error.snapshot.waiting) == (3, 3, 5)
        assert len(error.holders) == 3
        assert pool.get_statistics().total_timeouts == 1
        for connection in held:
            await pool.release(connection)
        for task in others:
            await pool.release(await task)


async def test_a_timeout_without_a_database_names_the_cause(memory):
    """The last failed connection attempt is chained and told."""
    cause = ConnectionRefusedError("nobody there")
    memory.database.keep_failing("connect", cause)
    async with memory.pool(min_size=0, timeout=0.2) as pool:
        with pytest.raises(PoolTimeoutError, match="nobody there") as caught:
            await pool.acquire()
        assert caught.value.__cause__ is cause
        assert "Suggestion: check that the database is running" in str(caught.value)
        memory.database.keep_failing("connect", None)


async def test_a_timeout_has_no_cause_that_is_over(memory):
    """A failure long healed is not blamed for a full pool."""
    memory.database.fail("connect", ConnectionRefusedError("nobody there"))
    async with memory.pool(min_size=0, max_size=1) as pool:
        async with pool.acquire():
            with pytest.raises(PoolTimeoutError) as caught:
                await asyncio.create_task(acquire(pool, timeout=0.01))
        assert caught.value.__cause__ is None


async def test_a_full_queue_refuses_at_once(world):
    """One more than max_waiting is not made to wait."""
    async with world.pool(max_size=1, max_waiting=2) as pool:
        async with pool.acquire():
            waiters = [asyncio.create_task(acquire(pool)) for _ in range(2)]
            await queued(pool, 2)
            with pytest.raises(PoolExhaustedError, match=r"\(limit 2\).*Suggestion: ") as caught:
                await asyncio.create_task(acquire(pool))
            assert caught.value.max_waiting == 2
            assert caught.value.snapshot.waiting == 2
        for waiter in waiters:
            await pool.release(await waiter)
        assert pool.get_statistics().total_rejections == 1


async def test_a_hopeless_request_is_told_early(memory):
    """When the queue is far longer than its deadline, it need not wait for that deadline."""
    async with memory.pool(max_size=1) as pool:
        pool._pool.state.mean_use = 10.0
        async with pool.acquire():
            waiter = asyncio.create_task(acquire(pool))
            await queued(pool, 1)
            with pytest.raises(PoolTimeoutError, match="cannot be met") as caught:
                await asyncio.create_task(acquire(pool, timeout=5.0))
            assert caught.value.waited < 1.0
        await pool.release(await waiter)


async def test_a_deadlock_of_nested_acquires_is_named_and_broken(world):
    """Two tasks hold one connection each and want another: one gets an error, the other goes on."""
    async with world.pool(max_size=2, min_size=2) as pool:
        both = asyncio.Barrier(2)

        async def nest():
            async with pool.acquire():
                await both.wait()
                async with pool.acquire() as inner:
                    await inner.execute("SELECT 1")

        results = await asyncio.gather(nest(), nest(), return_exceptions=True)
        errors = [result for result in results if result is not None]
        assert [type(error) for error in errors] == [PoolDeadlockError]
        assert "pass the connection you already hold" in str(errors[0])
        assert pool.get_statistics().total_timeouts == 1
        await assert_sound(pool, world)


async def test_a_nested_acquire_with_room_is_none_of_our_business(world):
    """It works as long as there are connections."""
    async with world.pool(max_size=2) as pool, pool.acquire(), pool.acquire() as inner:
        await inner.execute("SELECT 1")


async def test_a_dial_outlives_the_caller_that_wanted_it(memory):
    """A cancelled acquire leaves its connection to the next caller."""
    async with memory.pool(min_size=0) as pool:
        with memory.database.gates.closed("connect") as gate:
            caller = asyncio.create_task(acquire(pool))
            await gate.reached()
            caller.cancel()
            await asyncio.wait({caller})
        async with pool.acquire():
            assert gate.arrivals == 1
