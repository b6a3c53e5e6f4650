"""Mistakes in using a pool are answered with what happened and what to do."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import asyncpg
import pytest

import poolkeeper
from poolkeeper import PoolUsageError, create_pool
from poolkeeper.testing.memory import MemoryDatabase, memory_pool


async def acquire(pool):
    return await pool.acquire()


def outcome_in_a_thread(work):
    """Run a coroutine in an event loop of another thread; its exception, if any."""
    found = []

    def run():
        try:
            asyncio.run(work)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


@pytest.mark.asyncio
async def test_another_thread_is_told_to_hand_its_work_over(world):
    """The pool belongs to one event loop."""
    async with world.pool() as pool:
        (error,) = outcome_in_a_thread(acquire(pool))
        assert isinstance(error, PoolUsageError)
        assert "another thread. Suggestion: hand the work" in str(error)


@pytest.mark.parametrize("use", ["acquire", "release"])
@pytest.mark.asyncio
async def test_a_connection_is_not_released_from_another_thread(world, use):
    """Nor acquired; nothing changes in the pool."""
    async with world.pool(max_size=1) as pool:
        connection = await pool.acquire()
        work = acquire(pool) if use == "acquire" else pool.release(connection)
        (error,) = outcome_in_a_thread(work)
        assert isinstance(error, PoolUsageError)
        assert pool.get_statistics().active_connections == 1
        assert await connection.fetchval("SELECT 1") == 1
        await pool.release(connection)


async def shrink(pool):
    pool.resize(max_size=1)


async def pause(pool):
    pool.pause()


async def resume(pool):
    pool.resume()


async def terminate(pool):
    pool.terminate()


CONTROLS = {
    "pause": pause,
    "resume": resume,
    "resize": shrink,
    "expire_connections": lambda pool: pool.expire_connections(),
    "close": lambda pool: pool.close(),
    "terminate": terminate,
}


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
@pytest.mark.asyncio
async def test_a_pool_is_not_controlled_from_another_thread(world, control):
    """It goes on as it was."""
    async with world.pool(min_size=2) as pool:
        before = pool.get_size(), pool.get_max_size(), pool.config
        (error,) = outcome_in_a_thread(control(pool))
        assert isinstance(error, PoolUsageError)
        assert "another thread. Suggestion: " in str(error)
        assert (pool.get_size(), pool.get_max_size(), pool.config) == before
        assert not pool.is_closing()
        assert await pool.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_a_pool_is_not_controlled_from_another_loop(control):
    """Neither while its own loop rests."""
    with asyncio.Runner() as home, asyncio.Runner() as elsewhere:
        pool = memory_pool(MemoryDatabase(), min_size=2, max_size=2)
        home.run(pool.initialize())
        with pytest.raises(PoolUsageError, match=r"another event loop.*Suggestion: "):
            elsewhere.run(control(pool))
        assert (pool.get_size(), pool.get_max_size(), pool.is_closing()) == (2, 2, False)
        assert home.run(pool.fetchval("SELECT 1")) == 1
        home.run(pool.close())


@pytest.mark.asyncio
async def test_statistics_may_be_read_from_any_thread(memory):
    """While connections come and go."""
    stop = threading.Event()
    found = []

    def read():
        while not stop.is_set():
            try:
                pool.get_statistics()
                repr(pool)
            except BaseException as error:
                found.append(error)
                return

    interval = sys.getswitchinterval()
    async with memory.pool(min_size=20, max_size=40) as pool:
        thread = threading.Thread(target=read)
        sys.setswitchinterval(1e-6)
        try:
            thread.start()
            for _ in range(100):
                await pool.expire_connections()
                await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(40)))
        finally:
            stop.set()
            thread.join()
            sys.setswitchinterval(interval)
    assert not found


def test_another_loop_is_told_to_open_its_own_pool(postgres):
    """A pool made at import time and opened by one asyncio.run() cannot serve the next."""
    pool = create_pool(postgres.url, min_size=1, max_size=1)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(pool.initialize())
        with pytest.raises(PoolUsageError, match=r"another event loop.*Suggestion: open the pool"):
            asyncio.run(acquire(pool))
        loop.run_until_complete(pool.close())
    finally:
        loop.close()


FORK = """
import asyncio, os, sys
import poolkeeper

async def main():
    async with poolkeeper.create_pool(sys.argv[1], min_size=1, max_size=2) as pool:
        child = os.fork()
        if child == 0:
            try:
                await pool.fetchval("SELECT 1")
            except poolkeeper.PoolUsageError as error:
                print(error, flush=True)
                os._exit(7)
            os._exit(8)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), await pool.fetchval("SELECT 40 + 2"))

asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_a_forked_child_is_told_to_open_its_own_pool(postgres):
    """It is refused before anything is sent, and the parent's connections stay usable."""
    run = subprocess.run(
        [sys.executable, "-c", FORK, postgres.url],
        env={**os.environ, "PYTHONPATH": str(Path(poolkeeper.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    message, result = run.stdout.strip().splitlines()
    assert "cannot be shared across a fork. Suggestion: open a pool in each process" in message
    assert result == "7 42"


@pytest.mark.asyncio
async def test_a_foreign_connection_is_not_taken(world):
    """Neither one of another pool nor something else."""
    async with world.pool() as pool, world.pool() as other:
        connection = await other.acquire()
        for thing in (connection, object()):
            with pytest.raises(PoolUsageError, match="was not acquired from this pool"):
                await pool.release(thing)
        await other.release(connection)


@pytest.mark.asyncio
async def test_releasing_twice_does_nothing(world):
    """The second time, the connection may already be somebody else's."""
    async with world.pool(max_size=1) as pool:
        first = await pool.acquire()
        await pool.release(first)
        second = await pool.acquire()
        await pool.release(first)
        assert pool.get_statistics().active_connections == 1
        await pool.release(second)
        assert pool.get_statistics().total_releases == 2


@pytest.mark.asyncio
async def test_a_released_connection_refuses_every_use(real):
    """Statements, cursors, prepared statements and transactions made from it as well."""
    async with real.pool(max_size=1) as pool:
        async with pool.acquire() as connection:
            prepared = await connection.prepare("SELECT 1")
            transaction = connection.transaction()
            await transaction.start()
            cursor = await connection.cursor("SELECT generate_series(1, 9)")
        for use in (
            lambda: connection.fetchval("SELECT 1"),
            connection.close,
            lambda: connection.execute("SELECT 1"),
        ):
            with pytest.raises(PoolUsageError, match=r"released back.*Suggestion: ") as caught:
                await use()
            assert isinstance(caught.value, asyncpg.InterfaceError)
        for use in (prepared.fetchval, lambda: cursor.fetch(1), transaction.commit):
            with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
                await use()
        assert "[released]" in repr(connection)
        assert await pool.fetchval("SELECT 1") == 1


@pytest.mark.asyncio
async def test_an_acquire_context_serves_once(world):
    """One acquire, one connection."""
    async with world.pool() as pool:
        context = pool.acquire()
        async with context:
            with pytest.raises(PoolUsageError, match="already acquired"):
                async with context:
                    pass
