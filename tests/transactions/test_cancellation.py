"""A transaction cancelled at any of its awaits leaves nothing behind but what it committed."""

import asyncio

import pytest

from tests.pool.soundness import assert_no_task_left
from tests.pool.sweep import run_cancelled_at, sweep
from tests.transactions.conftest import value, work, write


async def assert_usable(rig, pool) -> None:
    """Every connection can be had, works, and has no transaction open."""
    size = pool.get_max_size()
    async with asyncio.timeout(20):
        held = [await pool.acquire() for _ in range(size)]
        for connection in held:
            assert await value(connection, "SELECT 1") == 1
        assert await rig.sessions("state LIKE 'idle in transaction%'") == 0
        for connection in held:
            await pool.release(connection)
        while await rig.sessions() > size:
            await asyncio.sleep(0.01)


async def write_with_savepoint(connection, job):
    async with connection.transaction():
        await write(connection, job)
    await value(connection, "SELECT 1")


async def fail(connection, job):
    await write(connection, job)
    raise KeyError(job)


@pytest.mark.asyncio
@pytest.mark.parametrize("options", [{}, {"readonly": True}, {"timeout": 20.0}], ids=str)
async def test_a_transaction_can_be_cancelled_anywhere(rig, options):
    """It is committed or not, never both and never half, and the pool is as before."""
    body = value if options.get("readonly") else write_with_savepoint
    async with rig.pool(max_size=2) as pool:
        await pool.run_transaction(write, work())

        async def run(nth, when):
            job = work()
            argument = "SELECT 1" if body is value else job
            before = asyncio.all_tasks()

            async def scenario():
                await pool.run_transaction(body, argument, **options)

            ended = await run_cancelled_at(scenario, nth, when)
            await assert_usable(rig, pool)
            await assert_no_task_left(before)
            if body is not value:
                times = await rig.times_done(job)
                assert times == 1 if ended.result == "finished" else times <= 1, (nth, when)
            return ended

        assert await sweep(run) >= 3


@pytest.mark.asyncio
async def test_a_failing_transaction_can_be_cancelled_anywhere(rig):
    """Also while it rolls back."""
    async with rig.pool(max_size=1) as pool:
        await pool.run_transaction(write, work())

        async def run(nth, when):
            job = work()

            async def scenario():
                with pytest.raises(KeyError):
                    await pool.run_transaction(fail, job)

            ended = await run_cancelled_at(scenario, nth, when)
            await assert_usable(rig, pool)
            assert await rig.times_done(job) == 0
            return ended

        assert await sweep(run) >= 3


@pytest.mark.asyncio
async def test_the_first_transaction_can_be_cancelled_anywhere(rig):
    """While it looks for the ledger, waits for others who do, or makes it."""

    async def run(nth, when):
        await rig.admin.execute("DROP SCHEMA IF EXISTS poolkeeper CASCADE")
        async with rig.pool(max_size=2) as pool:
            jobs = [work(), work()]
            other = asyncio.ensure_future(pool.run_transaction(write, jobs[1]))

            async def scenario():
                await pool.run_transaction(write, jobs[0])

            ended = await run_cancelled_at(scenario, nth, when)
            assert await other == jobs[1]
            await assert_usable(rig, pool)
            assert await rig.times_done(jobs[1]) == 1
            assert await rig.times_done(jobs[0]) <= 1
            return ended

    assert await sweep(run) >= 3
