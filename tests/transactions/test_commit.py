"""COMMIT of ``connection.transaction()`` and of ``run_transaction``: checked, never cancelled."""

import asyncio

import asyncpg
import psycopg
import pytest

from poolkeeper import Outcome, TransactionRolledBackError, outcome_of
from poolkeeper.testing.contracts import eventually
from tests.transactions.conftest import value, work, write
from tests.transactions.holding import HELD, held_commits

DRIVER_ERRORS = (asyncpg.PostgresError, psycopg.Error)


async def plain(pool, job):
    """A transaction as with the driver alone."""
    async with pool.acquire() as connection, connection.transaction():
        await write(connection, job)


async def run(pool, job):
    """The same work, exactly once."""
    await pool.run_transaction(write, job)


WAYS = pytest.mark.parametrize("way", [plain, run])


async def swallow(connection, job):
    await write(connection, job)
    with pytest.raises(DRIVER_ERRORS):
        await connection.execute("SELECT 1 / 0")


@pytest.mark.asyncio
async def test_a_swallowed_error_is_not_reported_as_success(rig):
    """The server answers COMMIT with ROLLBACK, which the drivers do not look at."""
    job = work()
    async with rig.pool(max_size=1) as pool:
        for _ in range(2):
            with pytest.raises(TransactionRolledBackError, match="swallowed") as caught:
                async with pool.acquire() as connection, connection.transaction():
                    await swallow(connection, job)
            assert outcome_of(caught.value) is Outcome.ROLLED_BACK
            with pytest.raises(TransactionRolledBackError, match="swallowed") as caught:
                await pool.run_transaction(swallow, job)
            assert outcome_of(caught.value) is Outcome.ROLLED_BACK
            with pytest.raises(TransactionRolledBackError, match="swallowed"):
                await pool.run_transaction(swallow, job, readonly=False, isolation="serializable")
        assert await rig.times_done(job) == 0


@pytest.mark.asyncio
async def test_an_error_swallowed_around_a_savepoint_harms_nothing(rig):
    """The savepoint is rolled back, the rest is committed."""
    job, other = work(), work()

    async def attempt(connection):
        await write(connection, job)
        with pytest.raises(DRIVER_ERRORS):
            async with connection.transaction():
                await write(connection, other)
                await connection.execute("SELECT 1 / 0")
        await write(connection, job)

    async with rig.pool() as pool:
        await pool.run_transaction(attempt)
        async with pool.acquire() as connection, connection.transaction():
            await attempt(connection)
    assert await rig.times_done(job) == 4
    assert await rig.times_done(other) == 0


@pytest.mark.asyncio
@WAYS
async def test_a_cancelled_caller_leaves_and_its_commit_goes_on(rig, way):
    """The server hears nothing of the cancellation; the connection is lent again afterwards."""
    async with rig.pool(max_size=1) as pool:
        await run(pool, work())
        async with held_commits(rig) as held:
            job = work()
            task = asyncio.ensure_future(way(pool, job))
            await rig.reached(HELD)
            pid = await rig.admin.fetchval(
                f"SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND {HELD}",
                rig.application,
            )
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await rig.sessions(HELD) == 1
            waiting = asyncio.ensure_future(pool.acquire())
            await held.let_go()
            connection = await waiting
            assert await value(connection, "SELECT pg_backend_pid()") == pid
            assert await rig.times_done(job) == 1
            await pool.release(connection)


@pytest.mark.asyncio
@WAYS
async def test_an_abandoned_commit_does_not_keep_its_connection_for_ever(rig, way):
    """Its answer is waited for within reset_timeout; then the pool dials another connection."""
    async with rig.pool(max_size=1, reset_timeout=0.2) as pool:
        await run(pool, work())
        async with held_commits(rig):
            task = asyncio.ensure_future(way(pool, work()))
            await rig.reached(HELD)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(20), pool.acquire() as connection:
                assert await value(connection, "SELECT 1") == 1
        await eventually(lambda: pool.get_idle_size() == 1)


@pytest.mark.asyncio
async def test_an_error_of_commit_itself_is_the_drivers(rig):
    """A deferred constraint fails: nothing is committed, and the error says what happened."""
    await rig.admin.execute(
        "ALTER TABLE done ADD CONSTRAINT once UNIQUE (work) DEFERRABLE INITIALLY DEFERRED"
    )
    job = work()
    async with rig.pool(max_size=1) as pool:
        await run(pool, job)
        for way in (plain, run):
            with pytest.raises(DRIVER_ERRORS) as caught:
                await way(pool, job)
            assert caught.value.sqlstate == "23505"
            assert outcome_of(caught.value) is Outcome.ROLLED_BACK
        assert await rig.times_done(job) == 1
        assert pool.get_statistics().total_retries == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg"])
async def test_a_time_limit_of_commit_drops_the_connection(rig):
    """command_timeout bounds COMMIT, but no request to cancel it is sent.

    With psycopg that option is the server's statement_timeout.
    """
    async with rig.pool(max_size=1, command_timeout=0.5) as pool:
        await run(pool, work())
        async with held_commits(rig) as held:
            job = work()
            with pytest.raises(TimeoutError, match="COMMIT was not answered") as caught:
                await plain(pool, job)
            assert outcome_of(caught.value) is Outcome.UNKNOWN
            assert await rig.sessions(HELD) == 1
            await held.let_go()
            await eventually(lambda: rig.times_done(job))
