"""Whatever a caller does, and wherever it is cancelled, the pool loses nothing."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from poolkeeper import PoolClosedError
from tests.pool.soundness import assert_no_task_left, assert_sound
from tests.pool.sweep import run_cancelled_at, sweep

pytestmark = pytest.mark.asyncio


async def use(pool):
    async with pool.acquire() as connection:
        await connection.execute("SELECT 1")


async def acquire_and_release(pool):
    connection = await pool.acquire()
    await pool.release(connection)


async def fetch(pool):
    await pool.fetch("SELECT 1")


async def transaction(pool):
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1")


async def leave_dirty(pool):
    async with pool.acquire() as connection:
        await connection.execute("SET application_name = 'x'")
        await connection.execute("SET application_name = DEFAULT")


async def leave_transaction_open(pool):
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")


async def expire_then_use(pool):
    await pool.expire_connections()
    await use(pool)


async def resize_then_use(pool):
    pool.resize(max_size=3)
    await asyncio.gather(use(pool), use(pool), use(pool))
    pool.resize(max_size=2)
    await use(pool)


USES = [
    use,
    acquire_and_release,
    fetch,
    transaction,
    leave_dirty,
    leave_transaction_open,
    expire_then_use,
    resize_then_use,
]


async def hook(connection):
    await connection.execute("SELECT 2")


@asynccontextmanager
async def idle(world):
    """Connections at rest, trusted as they are."""
    async with world.pool(min_size=2) as pool:
        yield pool


@asynccontextmanager
async def stale(world):
    """Every connection has to be probed before it is lent."""
    async with world.pool(min_size=2, validation_bypass=0) as pool:
        yield pool


@asynccontextmanager
async def empty(world):
    """Nothing is open yet; every connection has to be dialled, with a hook on it."""
    async with world.pool(min_size=0, init=hook) as pool:
        yield pool


@asynccontextmanager
async def full(world):
    """Both connections are taken at first; they come back one turn of the loop at a time."""
    async with world.pool(min_size=2) as pool:
        taken = asyncio.Event()

        async def borrow_both():
            held = [await pool.acquire(), await pool.acquire()]
            taken.set()
            for connection in held:
                await asyncio.sleep(0)
                await connection.execute("SELECT 1")
                await pool.release(connection)

        task = asyncio.create_task(borrow_both())
        await taken.wait()
        yield pool
        await task


@asynccontextmanager
async def with_setup(world):
    """A hook runs on each connection before it is lent."""
    async with world.pool(min_size=1, setup=hook) as pool:
        yield pool


@asynccontextmanager
async def with_reset(world):
    """Each connection is cleaned after each use, before anybody else may have it."""
    async with world.pool(min_size=1, max_size=1, reset="always") as pool:
        yield pool


POOLS = [idle, stale, empty, full, with_setup, with_reset]


CASES = [
    pytest.param(make, use, id=f"{make.__name__}-{use.__name__}") for make in POOLS for use in USES
]
REAL_CASES = [
    pytest.param(make, use, id=f"{make.__name__}-{use.__name__}")
    for make in (stale, full, with_setup, with_reset)
    for use in (fetch, transaction, leave_dirty, leave_transaction_open)
]


async def check(world, make_pool, scenario):
    async def run(nth, when):
        before = asyncio.all_tasks()
        async with make_pool(world) as pool:
            ended = await run_cancelled_at(lambda: scenario(pool), nth, when)
            await assert_sound(pool, world)
            statistics = pool.get_statistics()
            assert statistics.total_timeouts == statistics.total_rejections == 0
            assert statistics.total_outages == 0, (nth, when)
        await assert_no_task_left(before)
        return ended

    await sweep(run)


@pytest.mark.parametrize(("make_pool", "scenario"), CASES)
async def test_a_cancelled_caller_costs_the_pool_nothing(memory, make_pool, scenario):
    """Capacity, queue and counters are as they should be, wherever the caller was cancelled."""
    await check(memory, make_pool, scenario)


@pytest.mark.parametrize(("make_pool", "scenario"), REAL_CASES)
async def test_a_cancelled_caller_costs_a_real_pool_nothing(real, make_pool, scenario):
    """The same with PostgreSQL, where a cancelled statement takes its time to end."""
    await check(real, make_pool, scenario)


@pytest.mark.parametrize("closing", ["close", "terminate"])
async def test_a_cancelled_close_leaves_nothing_behind(world, closing):
    """The first close is cancelled at each point; everything is gone all the same."""

    async def run(nth, when):
        pool = world.pool(min_size=2)
        await pool.initialize()
        borrower = asyncio.create_task(hold_for_a_moment(pool))
        await asyncio.sleep(0)

        async def close():
            if closing == "terminate":
                pool.terminate()
            await pool.close()

        ended = await run_cancelled_at(close, nth, when)
        await asyncio.wait({borrower})
        await pool.close()
        assert pool.get_size() == 0
        assert not pool._pool.errands._tasks
        return ended

    await sweep(run)
    await world.emptied()


async def hold_for_a_moment(pool):
    try:
        async with pool.acquire() as connection:
            await connection.execute("SELECT 1")
            await connection.execute("SELECT 2")
    except Exception:
        return


async def test_a_cancelled_opening_leaves_nothing_behind(world):
    """A pool whose opening was cancelled can be closed, and its sessions are gone."""

    async def run(nth, when):
        pool = world.pool(min_size=2, init=hook)
        ended = await run_cancelled_at(pool.initialize, nth, when)
        if ended.result == "finished":
            await assert_sound(pool, world)
        await pool.close()
        await world.emptied()
        return ended

    assert await sweep(run) > 1


async def test_a_waiter_refused_by_close_may_be_cancelled_at_the_same_time(world):
    """A refusal that meets a cancellation is neither lost nor logged as never retrieved."""

    async def run(nth, when):
        pool = world.pool(min_size=1, max_size=1)
        await pool.initialize()
        held = await pool.acquire()
        closing = asyncio.get_running_loop().call_soon(asyncio.ensure_future, pool.close())

        async def wait():
            with pytest.raises(PoolClosedError):
                await pool.acquire()

        ended = await run_cancelled_at(wait, nth, when)
        assert closing is not None
        await pool.release(held)
        await pool.close()
        return ended

    await sweep(run)
