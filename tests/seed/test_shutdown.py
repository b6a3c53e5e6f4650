"""Closing a pool people still work with."""

import asyncio

import asyncpg
import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.exceptions import PoolClosedError
from poolkeeper.testing.plugin import TemporaryDatabase
from tests.seed.witness import Witness


async def sessions_on(postgres: TemporaryDatabase) -> int:
    """Client sessions on the test's database."""
    count = await asyncio.to_thread(
        postgres.server.psql,
        "SELECT count(*) FROM pg_stat_activity "
        f"WHERE datname = '{postgres.name}' AND backend_type = 'client backend'",
    )
    return int(count)


async def no_sessions_on(postgres: TemporaryDatabase) -> None:
    """A backend needs a moment to end after its client has said goodbye."""
    async with asyncio.timeout(20):
        while await sessions_on(postgres):
            await asyncio.sleep(0.01)


async def queued(pool: ConnectionPoolManager, number: int) -> None:
    """Wait until that many requests wait."""
    async with asyncio.timeout(20):
        while pool.get_statistics().waiting_requests != number:
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_close_lets_work_finish_turns_waiters_away_and_leaves_no_session(
    postgres: TemporaryDatabase,
) -> None:
    """Those who wait hear of it at once, those who work may finish, then all sessions end."""
    tasks = asyncio.all_tasks()
    pool = ConnectionPoolManager(
        PoolConfig(database_url=postgres.url, min_size=2, max_size=2, close_timeout=60.0)
    )
    await pool.initialize()
    witness = Witness(pool)
    may_end = asyncio.Event()

    async def work() -> list[int]:
        async with pool.acquire() as connection:
            first = await connection.fetchval("SELECT 1")
            await may_end.wait()
            # the pool is closing by now, and this connection still works
            return [first, await connection.fetchval("SELECT 2")]

    working = [asyncio.create_task(work()) for _ in range(2)]
    waiting = [asyncio.create_task(pool.fetchval("SELECT 3")) for _ in range(3)]
    await queued(pool, 3)
    closing = asyncio.create_task(pool.close())
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, PoolClosedError)
        assert "pool is closed" in str(error)
        assert "Suggestion: " in str(error)
    assert not closing.done()
    assert not any(task.done() for task in working)
    assert pool.is_closing()
    assert (await pool.health_check()).status == "unhealthy"
    with pytest.raises(PoolClosedError, match=r"Suggestion: "):
        await pool.acquire()

    may_end.set()
    assert await asyncio.gather(*working) == [[1, 2], [1, 2]]
    await closing
    await no_sessions_on(postgres)
    assert pool.get_size() == 0
    assert asyncio.all_tasks() == tasks
    (closed,) = witness.named("pool_closed")
    assert (closed.connections_closed, closed.connections_terminated) == (2, 0)
    with pytest.raises(PoolClosedError, match=r"pool is closed.*Suggestion: "):
        await pool.acquire()


@pytest.mark.asyncio
async def test_close_does_not_wait_for_ever(postgres: TemporaryDatabase) -> None:
    """After its timeout the connections still in use are cut off, and their users notice."""
    tasks = asyncio.all_tasks()
    pool = ConnectionPoolManager(PoolConfig(database_url=postgres.url, min_size=2, max_size=2))
    await pool.initialize()
    witness = Witness(pool)
    stuck = asyncio.create_task(pool.execute("SELECT pg_sleep(3600)"))
    async with asyncio.timeout(20):
        while not pool.get_statistics().active_connections:
            await asyncio.sleep(0)
    await pool.close(timeout=0.2)
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await stuck
    (closed,) = witness.named("pool_closed")
    assert closed.connections_terminated == 1
    assert asyncio.all_tasks() <= {*tasks, stuck}
    await no_sessions_on(postgres)
