"""A pool opens or says why not; it closes and leaves nothing."""

import asyncio

import asyncpg
import pytest

from poolkeeper import PoolClosedError, PoolInitializationError
from tests.pool.soundness import assert_no_task_left, assert_sound

pytestmark = pytest.mark.asyncio


async def test_closing_twice_is_allowed_in_every_phase(world):
    """New, open or closed: close() and terminate() end in the same state."""
    never_opened = world.pool()
    await never_opened.close()
    await never_opened.close()
    never_opened.terminate()
    opened = world.pool()
    await opened.initialize()
    await asyncio.gather(opened.close(), opened.close())
    await opened.close()
    opened.terminate()
    assert opened.get_size() == 0
    with pytest.raises(PoolClosedError, match=r"pool is closed\. Suggestion: "):
        await opened.acquire()
    with pytest.raises(PoolClosedError, match=r"Suggestion: create a new pool"):
        await opened.initialize()


async def test_acquire_before_opening_says_what_to_do(world):
    """The two ways to open a pool are named."""
    with pytest.raises(PoolClosedError, match=r"not initialized\. Suggestion: use `async with`"):
        await world.pool().acquire()


async def test_opening_fills_the_floor(world):
    """When initialize() returns, the connections of the floor stand."""
    async with world.pool(min_size=3, max_size=5) as pool:
        assert pool.get_size() == 3
        assert await world.sessions() == 3


async def test_opening_twice_opens_once(world):
    """One caller opens; others wait for it and find the pool open."""
    pool = world.pool(min_size=2)
    await asyncio.gather(*(pool.initialize() for _ in range(5)))
    await pool.initialize()
    assert pool.get_statistics().total_connects == 2


async def test_everybody_who_opens_learns_that_it_failed(memory):
    """No caller of initialize() believes a pool open that is not."""
    memory.database.keep_failing("connect", ConnectionRefusedError("nobody there"))
    pool = memory.pool(initialization_attempts=2, reconnect_max_delay=0.05)
    results = await asyncio.gather(*(pool.initialize() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [PoolInitializationError] * 3
    memory.database.keep_failing("connect", None)
    await pool.initialize()
    await assert_sound(pool, memory)


@pytest.mark.parametrize("how", ["close", "terminate"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_closing_while_opening_leaves_nothing(memory, how, nth):
    """Whether the first connection or the floor is being dialled: opening fails, nothing stays."""
    before = asyncio.all_tasks()
    pool = memory.pool(min_size=2)
    gate = memory.database.gates["connect"]
    gate.close()
    opening = asyncio.create_task(pool.initialize())
    for _ in range(nth - 1):
        await gate.reached()
        gate.let_through()
        await asyncio.sleep(0)
    await gate.reached()
    if how == "close":
        await pool.close(timeout=1)
    else:
        pool.terminate()
    with pytest.raises(PoolClosedError, match="while it was being opened"):
        await opening
    await assert_no_task_left(before)
    assert memory.database.sessions == []


async def test_close_turns_waiters_away_at_once_and_lets_borrowers_finish(world):
    """Waiters get PoolClosedError while the borrower is still at work."""
    pool = world.pool(min_size=1, max_size=1)
    await pool.initialize()
    async with pool.acquire() as connection:
        waiters = [asyncio.ensure_future(acquire(pool)) for _ in range(3)]
        while pool.get_statistics().waiting_requests < 3:
            await asyncio.sleep(0)
        closing = asyncio.create_task(pool.close())
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(result) for result in results] == [PoolClosedError] * 3
        assert not closing.done()
        assert pool.is_closing()
        assert await connection.fetchval("SELECT 1") == 1
    await closing
    await world.emptied()


async def acquire(pool):
    return await pool.acquire()


async def test_close_cuts_borrowers_off_after_its_timeout(world):
    """The borrower's statement fails, close() returns, and the late release is harmless."""
    before = asyncio.all_tasks()
    pool = world.pool()
    await pool.initialize()
    connection = await pool.acquire()
    working = asyncio.create_task(connection.execute(world.slow))
    await asyncio.sleep(0)
    await pool.close(timeout=0.05)
    assert pool.get_size() == 0
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await working
    await pool.release(connection)
    statistics = pool.get_statistics()
    assert statistics.total_acquisitions == statistics.total_releases == 1
    assert statistics.use_seconds.count == 1
    await assert_no_task_left(before)
    await world.emptied()


async def test_terminate_cuts_everybody_off_at_once(world):
    """Without waiting: borrowers, waiters, sessions and tasks are gone."""
    before = asyncio.all_tasks()
    pool = world.pool(min_size=2, max_size=2)
    await pool.initialize()
    held = [await pool.acquire(), await pool.acquire()]
    waiter = asyncio.create_task(acquire(pool))
    working = asyncio.create_task(held[0].execute(world.slow))
    await asyncio.sleep(0)
    pool.terminate()
    results = await asyncio.gather(waiter, working, return_exceptions=True)
    assert isinstance(results[0], PoolClosedError)
    assert isinstance(results[1], Exception)
    assert pool.get_size() == 0
    for connection in held:
        await pool.release(connection)
    await assert_no_task_left(before)
    await world.emptied()


async def test_a_cancelled_close_cuts_off_what_is_left(world):
    """Cancelling close() does not leave a half-closed pool."""
    pool = world.pool()
    await pool.initialize()
    connection = await pool.acquire()
    closing = asyncio.create_task(pool.close())
    while not pool.is_closing():
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert pool.get_size() == 0
    await pool.release(connection)
    await world.emptied()


@pytest.mark.parametrize("point", ["probe", "clean", "close", "connect"])
async def test_close_returns_though_the_database_is_silent(memory, caplog, point):
    """A probe, cleaning, goodbye or dial under way is cut off too; no error is logged."""
    before = asyncio.all_tasks()
    gate = memory.database.gates[point]
    pool = memory.pool(min_size=1, max_size=2, probe_interval=0.05, reset="always")
    await pool.initialize()
    gate.close()
    waiter = None
    if point == "clean":
        await pool.fetchval("SELECT 1")
    elif point == "close":
        await pool.expire_connections()
    elif point == "connect":
        await pool.acquire()
        waiter = asyncio.create_task(acquire(pool))
    await gate.reached()
    await pool.close(timeout=0.05)
    if waiter is not None:
        with pytest.raises(PoolClosedError):
            await waiter
    assert pool.get_size() == 0
    await assert_no_task_left(before)
    assert memory.database.sessions == []
    assert "failed and goes on" not in caplog.text


async def test_opening_gives_up_after_its_attempts(memory):
    """Three attempts by default; the error counts them, names the cause and what to do."""
    cause = ConnectionRefusedError("nobody there")
    memory.database.keep_failing("connect", cause)
    pool = memory.pool(reconnect_max_delay=0.05)
    with pytest.raises(PoolInitializationError) as caught:
        await pool.initialize()
    error = caught.value
    assert memory.database.gates["connect"].arrivals == error.attempts == 3
    assert "nobody there" in str(error)
    assert ". Suggestion: check host and port" in str(error)
    assert error.__cause__ is cause


async def test_a_floor_of_zero_opens_without_the_database(memory):
    """Nothing is dialled, so nothing can fail."""
    memory.database.keep_failing("connect", ConnectionRefusedError("nobody there"))
    async with memory.pool(min_size=0) as pool:
        assert pool.get_size() == 0
        assert memory.database.gates["connect"].arrivals == 0
