"""Callers that give up at any moment, for a while: afterwards the pool is as it was."""

import asyncio
import os
import random
from time import monotonic

import pytest

from tests.pool.soundness import assert_no_task_left, assert_sound

SECONDS = float(os.environ.get("POOLKEEPER_STORM_SECONDS", "3"))
WORKERS = 20
SIZE = 4


async def one_piece_of_work(pool, rng):
    match rng.randrange(6):
        case 0:
            await pool.fetchval("SELECT 1")
        case 1:
            async with pool.acquire() as connection:
                await connection.fetchval("SELECT pg_sleep(0.002)")
        case 2:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT 1")
        case 3:
            async with pool.acquire() as connection:
                await connection.execute("SET my.setting = 'x'")
        case 4:
            async with pool.acquire() as connection:
                await connection.execute("BEGIN")
        case 5:
            connection = await pool.acquire(timeout=rng.uniform(0.0005, 5))
            try:
                await connection.execute("SELECT 1")
            finally:
                await pool.release(connection)


async def worker(pool, rng, deadline, counts):
    while monotonic() < deadline:
        task = asyncio.create_task(one_piece_of_work(pool, rng))
        if rng.random() < 0.5:
            if rng.random() < 0.5:
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(rng.uniform(0, 0.004))
            task.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait({task})
        if task.cancelled():
            counts["cancelled"] += 1
        elif task.exception() is None:
            counts["finished"] += 1
        elif isinstance(task.exception(), TimeoutError):
            counts["timed out"] += 1
        else:
            raise task.exception()


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.timeout(SECONDS + 120)
async def test_capacity_is_exact_after_a_storm_of_cancellations(real):
    """max_size connections at once, no dead waiter, no session or task too many."""
    seed = int(os.environ.get("POOLKEEPER_STORM_SEED") or random.randrange(2**32))
    print(f"POOLKEEPER_STORM_SEED={seed}")  # noqa: T201 - to repeat a failure
    before = asyncio.all_tasks()
    counts = {"cancelled": 0, "finished": 0, "timed out": 0}
    async with real.pool(min_size=2, max_size=SIZE, validation_bypass=0.001) as pool:
        deadline = monotonic() + SECONDS
        await asyncio.gather(
            *(worker(pool, random.Random(seed + n), deadline, counts) for n in range(WORKERS))
        )
        statistics = pool.get_statistics()
        assert statistics.active_connections == 0
        await assert_sound(pool, real)
        statistics = pool.get_statistics()
        assert await real.sessions() == statistics.total_connections == SIZE
        assert statistics.total_outages == 0
        print(f"{SECONDS:g} s, {counts}, recycled {dict(statistics.recycled)}")  # noqa: T201
    await assert_no_task_left(before)
    await real.emptied()
    assert counts["cancelled"] > 0
    assert counts["finished"] > 0
