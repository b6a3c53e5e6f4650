"""A function that ends the transaction by itself: never run again, never called rolled back."""

import asyncio

import asyncpg
import psycopg
import pytest

from poolkeeper import Outcome, TransactionEndedError, outcome_of
from tests.transactions.conftest import value, work, write

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error)


async def commit(connection, job):
    await write(connection, job)
    await connection.execute("COMMIT")


async def lose(rig, connection):
    pid = await value(connection, "SELECT pg_backend_pid()")
    await rig.admin.execute("SELECT pg_terminate_backend($1, 10000)", pid)
    await connection.execute("SELECT 1")


async def loses_its_connection(rig, connection):
    await lose(rig, connection)


async def loses_it_and_says_nothing(rig, connection):
    with pytest.raises(DRIVER_ERRORS):
        await lose(rig, connection)


async def is_cut_off(rig, connection):
    connection._slot.connection.abort()
    await connection.execute("SELECT 1")


async def fails(rig, connection):
    raise KeyError(rig)


async def takes_too_long(rig, connection):
    await asyncio.sleep(60)


async def takes_too_long_and_returns(rig, connection):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "then",
    [
        loses_its_connection,
        loses_it_and_says_nothing,
        is_cut_off,
        fails,
        takes_too_long,
        takes_too_long_and_returns,
    ],
)
async def test_what_it_committed_is_not_committed_again(rig, then):
    """Whatever happens afterwards; nor is it said to have had no effect."""
    job = work()
    runs = []

    async def end(connection):
        runs.append(1)
        await commit(connection, job)
        await then(rig, connection)

    async with rig.pool() as pool:
        await pool.run_transaction(write, work())
        with pytest.raises(TransactionEndedError, match="by itself") as caught:
            await pool.run_transaction(end, timeout=1.0)
        assert outcome_of(caught.value) is Outcome.UNKNOWN
        assert runs == [1]
        assert await rig.times_done(job) == 1


@pytest.mark.asyncio
async def test_a_transaction_that_was_cut_off_while_open_is_run_again(rig):
    """The server said last that it was open, so it had no effect."""
    job = work()
    runs = []

    async def once_cut_off(connection):
        runs.append(1)
        await write(connection, job)
        if len(runs) == 1:
            await is_cut_off(rig, connection)

    async with rig.pool() as pool:
        await pool.run_transaction(once_cut_off)
        assert len(runs) == 2
        assert await rig.times_done(job) == 1
