"""The table behind exactly-once transactions: made once, by anybody, and never growing for ever."""

import asyncio
import time
from uuid import UUID, uuid4

import asyncpg
import pytest

from poolkeeper import (
    LedgerUnavailableError,
    Outcome,
    PoolUsageError,
    TransactionTimeoutError,
    outcome_of,
)
from poolkeeper import schema as schema_module
from poolkeeper.testing.contracts import eventually
from poolkeeper.transactions import ledger as ledger_module
from poolkeeper.transactions.ids import age_of, new_id
from tests.cli.commands import poolkeeper
from tests.transactions.conftest import value, work, write

ROWS = "SELECT count(*) FROM poolkeeper.ledger"
LIMITED = "CREATE ROLE limited LOGIN PASSWORD 'limited'; GRANT ALL ON done TO limited"


def as_limited(url: str) -> str:
    """The URL of a role that may create nothing."""
    return f"postgresql://limited:limited@{url.partition('@')[2]}"


async def drop_limited(rig) -> None:
    await rig.admin.execute("DROP OWNED BY limited; DROP ROLE limited")


@pytest.mark.asyncio
async def test_many_pools_may_make_the_ledger_at_once(rig):
    """The first transactions of all of them succeed, and there is one ledger."""
    async with rig.pool() as a, rig.pool() as b, rig.pool() as c, rig.pool() as d:
        jobs = [work() for _ in range(12)]
        pools = [a, b, c, d] * 3
        await asyncio.gather(
            *(pool.run_transaction(write, job) for pool, job in zip(pools, jobs, strict=True))
        )
        assert await rig.admin.fetchval(ROWS) == 12
        assert await rig.admin.fetchval("SELECT count(*) FROM poolkeeper.migrations") == len(
            schema_module.MIGRATIONS
        )


@pytest.mark.asyncio
async def test_the_ledger_is_made_whatever_the_sessions_defaults_are(rig):
    """Repeatable read, read-only: those are for the transactions of the user."""
    settings = {"default_transaction_isolation": "repeatable read"}
    async with rig.pool(server_settings=settings) as a, rig.pool(server_settings=settings) as b:
        jobs = [work(), work()]
        await asyncio.gather(a.run_transaction(write, jobs[0]), b.run_transaction(write, jobs[1]))
        assert [await rig.times_done(job) for job in jobs] == [1, 1]
        assert await a.transaction_outcome(uuid4())


@pytest.mark.asyncio
async def test_a_role_that_may_not_make_it_learns_what_to_do(rig):
    """Nothing was executed; after `poolkeeper init-db` the same pool goes on."""
    await rig.admin.execute(LIMITED)
    try:
        async with rig.pool(as_limited(rig.url)) as pool:
            job = work()
            with pytest.raises(LedgerUnavailableError, match="poolkeeper init-db") as caught:
                await pool.run_transaction(write, job)
            assert outcome_of(caught.value) is Outcome.NOT_SENT
            assert "permission denied" in str(caught.value)
            done = await asyncio.to_thread(poolkeeper, "init-db", rig.url, "--grant-to", "limited")
            assert done.returncode == 0, done.stderr
            assert "poolkeeper.ledger and poolkeeper.operations are ready" in done.stdout
            assert await pool.run_transaction(write, job) == job
            assert await rig.times_done(job) == 1
            await pool._transactions.ledger.purge()
    finally:
        await drop_limited(rig)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg"])
async def test_init_db_says_why_it_cannot(rig):
    """Without a traceback and without a password."""
    await rig.admin.execute(LIMITED)
    try:
        run = await asyncio.to_thread(poolkeeper, "init-db", as_limited(rig.url))
        assert run.returncode == 1
        assert "permission denied" in run.stderr
        assert "Suggestion: " in run.stderr
        assert "limited:limited" not in run.stderr
        nowhere = await asyncio.to_thread(poolkeeper, "init-db")
        assert (nowhere.returncode, "No database URL" in nowhere.stderr) == (2, True)
    finally:
        await drop_limited(rig)


@pytest.mark.asyncio
async def test_a_ledger_that_was_dropped_is_made_again(rig):
    """The transaction that finds out had no effect and is run again."""
    async with rig.pool() as pool:
        await pool.run_transaction(write, work())
        await rig.admin.execute("DROP SCHEMA poolkeeper CASCADE")
        job = work()
        assert await pool.run_transaction(write, job) == job
        assert await rig.times_done(job) == 1
        assert pool.get_statistics().total_retries == 1


@pytest.mark.asyncio
async def test_a_ledger_that_goes_missing_again_is_an_error(rig):
    """One more attempt, not as many as there are retries; the error is the server's."""
    runs = []

    async def drop(connection):
        runs.append(1)
        await connection.execute("DROP SCHEMA poolkeeper CASCADE")

    async with rig.pool() as pool:
        with pytest.raises(Exception, match="poolkeeper") as caught:
            await pool.run_transaction(drop)
        assert caught.value.sqlstate == "42P01"
        assert outcome_of(caught.value) is Outcome.ROLLED_BACK
        assert len(runs) == 2


@pytest.mark.asyncio
async def test_another_database_gets_a_ledger_of_its_own(rig, postgres_server):
    """set_connect_args leads to one without; the first transaction there succeeds."""
    other = postgres_server.create_database(f"other_{rig.application.replace('-', '_')}")
    admin = await asyncpg.connect(other)
    try:
        await admin.execute("CREATE TABLE done (work bigint NOT NULL)")
        async with rig.pool() as pool:
            await pool.run_transaction(write, work())
            pool.set_connect_args(other.replace("postgresql", f"postgresql+{rig.driver}", 1))
            await pool.expire_connections()
            job = work()
            assert await pool.run_transaction(write, job) == job
            assert await admin.fetchval("SELECT count(*) FROM done WHERE work = $1", job) == 1
    finally:
        await admin.close()


@pytest.mark.asyncio
async def test_a_time_limit_holds_while_somebody_else_makes_the_ledger(rig):
    """Waiting for them is part of the time it may take."""
    async with rig.pool() as pool, rig.admin.transaction():
        await rig.admin.execute(f"SELECT pg_advisory_xact_lock({schema_module._LOCK})")
        first = asyncio.ensure_future(pool.run_transaction(write, work()))
        await rig.reached("wait_event = 'advisory'")
        with pytest.raises(TransactionTimeoutError) as caught:
            await pool.run_transaction(write, work(), timeout=0.5)
        assert caught.value.elapsed < 5.0
        assert not first.done()
        await rig.admin.execute("SELECT 1")
        first.cancel()


@pytest.mark.asyncio
async def test_the_ledger_does_not_grow_without_bound(rig, monkeypatch):
    """A pool that goes on for many retentions holds little more than one retention's worth."""
    monkeypatch.setattr(ledger_module, "PURGE_BATCH", 5)
    async with rig.pool(ledger_retention=0.5) as pool:
        total = 0
        ends = time.monotonic() + 3.0
        while time.monotonic() < ends:
            await pool.run_transaction(write, work())
            total += 1
        assert await rig.admin.fetchval(ROWS) < total / 2
        # Without new transactions nothing is left in the end.
        await eventually(lambda: _is_empty(rig))


async def _is_empty(rig) -> bool:
    return await rig.admin.fetchval(ROWS) == 0


@pytest.mark.asyncio
async def test_young_rows_survive_a_purge(rig):
    """Their transactions may still be asked about."""
    async with rig.pool() as pool:
        for _ in range(3):
            await pool.run_transaction(write, work())
        await rig.admin.execute(
            "INSERT INTO poolkeeper.ledger (id, at)"
            " SELECT gen_random_uuid(), clock_timestamp() - interval '8 days'"
            " FROM generate_series(1, 2500)"
        )
        assert await pool._transactions.ledger.purge() == 2500
        assert await rig.admin.fetchval(ROWS) == 3


@pytest.mark.asyncio
async def test_one_process_at_a_time_purges(rig):
    """Whoever comes second leaves it to the first."""
    async with rig.pool() as pool:
        await pool.run_transaction(write, work())
        await rig.admin.execute(
            "INSERT INTO poolkeeper.ledger (id, at)"
            " VALUES (gen_random_uuid(), clock_timestamp() - interval '8 days')"
        )
        async with rig.admin.transaction():
            await rig.admin.execute(f"SELECT pg_advisory_xact_lock({ledger_module._PURGE_LOCK})")
            assert await pool._transactions.ledger.purge() == 0
        assert await pool._transactions.ledger.purge() == 1


@pytest.mark.asyncio
async def test_a_pool_without_transactions_leaves_the_database_alone(rig):
    """No schema, no purge."""
    async with rig.pool(ledger_retention=0.1) as pool:
        await pool.run_transaction(lambda c: value(c, "SELECT 1"), readonly=True)
        await pool.execute("SELECT 1")
        assert not [keeper for keeper in pool._keepers if "Ledger" in type(keeper).__name__]
    assert await rig.admin.fetchval("SELECT to_regnamespace('poolkeeper')") is None


@pytest.mark.asyncio
async def test_an_id_older_than_the_ledger_is_refused(rig):
    """Its absence would prove nothing."""
    old = UUID(int=(int((time.time() - 8 * 86_400) * 1000) << 80) | 0x7 << 76 | 0b10 << 62)
    async with rig.pool() as pool:
        with pytest.raises(PoolUsageError, match="its absence would prove nothing"):
            await pool.transaction_outcome(old)
        with pytest.raises(PoolUsageError, match="use a new id"):
            await pool.run_transaction(write, work(), id=old)


def test_ids_are_unique_sorted_and_tell_their_age():
    """UUIDs of version 7; those of other versions do not tell."""
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {key.version for key in ids} == {7}
    assert [key.int >> 80 for key in ids] == sorted(key.int >> 80 for key in ids)
    assert -1 < age_of(ids[0]) < 60
    assert age_of(uuid4()) is None
