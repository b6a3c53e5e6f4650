"""What psycopg does in other ways than asyncpg is promised with it as well."""

import asyncio

import psycopg
import pytest

from poolkeeper import Outcome, TransactionRolledBackError, outcome_of
from poolkeeper.testing.contracts import eventually
from tests.transactions.conftest import value, work, write

pytestmark = pytest.mark.parametrize("driver", ["psycopg"])


@pytest.mark.asyncio
@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_statement_of_the_pool_can_have_a_time_limit(rig, idempotent):
    """psycopg itself has none; afterwards the connection is usable."""
    async with rig.pool(max_size=1) as pool:
        cursor = await pool.execute("SELECT 1", timeout=20.0, idempotent=idempotent)
        assert await cursor.fetchone() == (1,)
        with pytest.raises(TimeoutError) as caught:
            await pool.execute("SELECT pg_sleep(60)", timeout=0.2, idempotent=idempotent)
        assert outcome_of(caught.value) is Outcome.UNKNOWN
        await pool.execute("SELECT 1")
        await eventually(lambda: _none(rig.sessions("wait_event = 'PgSleep'")))


async def _none(count) -> bool:
    return await count == 0


@pytest.mark.asyncio
async def test_a_time_limit_survives_a_connection_that_had_died(rig):
    """The statement is made again, limit and all."""
    async with rig.pool(max_size=1) as pool:
        await pool.execute("SELECT 1")
        (slot,) = pool._pool.state.slots.values()
        # The socket is gone and nobody has been told yet.
        slot.connection.connection.pgconn.finish()
        cursor = await pool.execute("SELECT 1", timeout=20.0)
        assert await cursor.fetchone() == (1,)


async def by_execute(connection):
    await connection.execute("CREATE TABLE refused (i int)")


async def by_cursor(connection):
    async with connection.cursor() as cursor:
        await cursor.execute("CREATE TABLE refused (i int)")


async def by_copy(connection):
    async with connection.cursor() as cursor, cursor.copy("COPY done FROM STDIN") as copy:
        await copy.write_row((1,))


@pytest.mark.asyncio
@pytest.mark.parametrize("way", [by_execute, by_cursor, by_copy])
async def test_a_read_only_server_is_noticed_whatever_way_a_statement_goes(rig, way):
    """It may have been the primary once."""
    async with rig.pool(max_size=1) as pool, pool.acquire() as connection:
        refusals = []
        pool._pool.on_refusal = lambda session, error: refusals.append((session, error))
        await connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
            await way(connection)
        assert refusals == [(connection._slot.connection, caught.value)]


@pytest.mark.asyncio
async def test_a_read_only_server_is_noticed_at_commit(rig):
    """The row of the ledger is refused when nothing was written before it."""
    async with rig.pool(max_size=1) as pool:
        await pool.run_transaction(write, work())
        refusals = []
        pool._pool.on_refusal = lambda _session, error: refusals.append(error)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
            await pool.run_transaction(lambda c: c.execute("SET TRANSACTION READ ONLY"))
        assert refusals == [caught.value]


@pytest.mark.asyncio
async def test_a_commit_by_hand_does_not_hide_a_swallowed_error(rig):
    """psycopg does not look at the answer, which is ROLLBACK."""
    job, other = work(), work()
    async with rig.pool(max_size=1) as pool, pool.acquire() as connection:
        await connection.set_autocommit(False)
        await write(connection, job)
        with pytest.raises(psycopg.Error):
            await connection.execute("SELECT 1 / 0")
        with pytest.raises(TransactionRolledBackError, match="swallowed") as caught:
            await connection.commit()
        assert outcome_of(caught.value) is Outcome.ROLLED_BACK
        assert await rig.times_done(job) == 0
        await write(connection, other)
        await connection.commit()
        await connection.commit()
        assert await rig.times_done(other) == 1


@pytest.mark.asyncio
async def test_a_copy_left_open_is_not_a_commit_in_doubt(rig):
    """COMMIT cannot be sent, and that is said; nothing is asked or run again."""
    job = work()
    runs = []

    async def leave_it_open(connection):
        await write(connection, job)
        copy = connection.cursor().copy("COPY done FROM STDIN")
        # What nobody holds any more ends itself.
        runs.append(copy)
        await copy.__aenter__()

    async with rig.pool(max_size=1) as pool:
        await pool.run_transaction(write, work())
        with pytest.raises(psycopg.OperationalError, match="another operation") as caught:
            await pool.run_transaction(leave_it_open)
        assert outcome_of(caught.value) is Outcome.ROLLED_BACK
        assert len(runs) == 1
        async with asyncio.timeout(20):
            assert await pool.run_transaction(lambda c: value(c, "SELECT 1"), readonly=True) == 1
        assert await rig.times_done(job) == 0
