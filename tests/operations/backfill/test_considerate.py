"""A backfill waits for others, and lets others go first."""

import asyncio
import time

import asyncpg
import pytest

from poolkeeper import create_pool
from poolkeeper.operations import OperationState
from poolkeeper.testing.contracts import eventually
from tests.operations.backfill.doing import numbered, one_chunk, values

pytestmark = pytest.mark.asyncio


async def test_a_locked_row_holds_up_no_other_session(pool, admin, postgres):
    """Rows before it are done, those after it can be written, and it goes on after the release."""
    await numbered(admin, 200)
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=30, lock_timeout=0.05)
    holder = await asyncpg.connect(postgres.url)
    holding = holder.transaction()
    await holding.start()
    await holder.execute("UPDATE t SET n = n + 100 WHERE id = 100")
    said = set()
    running = asyncio.ensure_future(operation.run(report=lambda r: said.add(r.waiting_for)))
    await eventually(lambda: key_of(admin, "99"))
    assert await values(admin) == {1: 99, 0: 101}
    assert any("lock timeout" in (reason or "") for reason in said)
    # a session that would wait behind the backfill for long would fail here
    await admin.execute("SET lock_timeout = '5s'; UPDATE t SET n = n WHERE id IN (99, 101, 130)")
    await holding.commit()
    await holder.close()
    assert (await running).state is OperationState.DONE
    assert await values(admin) == {1: 199, 101: 1}


async def test_a_locked_table_is_waited_for(pool, admin, postgres):
    """However long it takes, and without queueing up in front of others for long."""
    await numbered(admin, 50)
    operation = await pool.operations.backfill("t", set="n = n + 1", lock_timeout=0.02)
    async with admin.transaction():
        await admin.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        waits = []
        running = asyncio.ensure_future(
            operation.run(report=lambda r: r.waiting_for and waits.append(r.waiting_for))
        )
        await eventually(lambda: len(waits) > 5)
    await running
    assert await values(admin) == {1: 50}


async def key_of(admin, key):
    """Whether the cursor is there."""
    return await admin.fetchval(
        "SELECT cursor->'key'->>0 = $1 FROM poolkeeper.operations WHERE kind = 'backfill'", key
    )


async def test_a_deadlock_is_not_the_end(pool, admin, postgres):
    """Somebody locks rows in the other direction."""
    await numbered(admin, 100)
    other = await asyncpg.connect(postgres.url)
    await other.execute("SET deadlock_timeout = '10s'")
    operation = await pool.operations.backfill("t", set="n = n + 1", lock_timeout=30)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE t SET n = n WHERE id = 90")
    running = asyncio.ensure_future(operation.run())
    await eventually(
        lambda: admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> 0")
    )
    # waits for the backfill, which waits for it: PostgreSQL ends the backfill's chunk
    await other.execute("UPDATE t SET n = n WHERE id = 10")
    await transaction.commit()
    await other.close()
    await running
    assert await values(admin) == {1: 100}


async def pause_replay(standby):
    """Ask for it, and wait until it is so."""
    standby.psql("SELECT pg_wal_replay_pause()")
    await eventually(
        lambda: standby.psql("SELECT pg_get_wal_replay_pause_state()").strip() == "paused"
    )


async def test_a_standby_that_is_behind_is_waited_for(replicated_postgres):
    """Nothing is written while it is further behind than allowed; it goes on by itself."""
    cluster = replicated_postgres
    (standby,) = cluster.standbys
    async with create_pool(cluster.url, min_size=1) as pool:
        await pool.execute("CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)")
        await pool.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        cluster.wait_for_catch_up()
        await pause_replay(standby)
        operation = await pool.operations.backfill(
            "t", set="n = n + 1", batch=10, pause=0.02, max_replica_lag=0.3
        )
        reports = []
        running = asyncio.ensure_future(operation.run(report=reports.append))
        await eventually(lambda: [r for r in reports if "behind" in (r.waiting_for or "")])
        held = reports[-1].status.seq
        assert held < 100
        waits = len(reports)
        await eventually(lambda: len(reports) > waits + 3)
        assert {r.status.seq for r in reports[waits:]} == {held}
        assert "more than 0.3 s" in reports[-1].waiting_for
        standby.psql("SELECT pg_wal_replay_resume()")
        status = await running
        assert status.state is OperationState.DONE
        assert await pool.fetchval("SELECT count(*) FROM t WHERE n = 1") == 1000


async def test_who_waits_for_a_standby_can_be_stopped_and_paused(replicated_postgres):
    """It does not have to be waited for first; and the standby need not be looked at."""
    cluster = replicated_postgres
    (standby,) = cluster.standbys
    async with create_pool(cluster.url, min_size=1) as pool:
        await pool.execute("CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)")
        await pool.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        await pause_replay(standby)
        asked = {"set": "n = n + 1", "batch": 10, "pause": 0.02}
        operation = await pool.operations.backfill("t", **asked, max_replica_lag=0.1)
        stop, behind = asyncio.Event(), asyncio.Event()
        running = asyncio.ensure_future(
            operation.run(
                stop=stop, report=lambda r: "behind" in (r.waiting_for or "") and behind.set()
            )
        )
        await behind.wait()
        stop.set()
        assert (await running).state is OperationState.PENDING
        await operation.pause()
        # what the operation does is the same, how considerate it is may change
        operation = await pool.operations.backfill("t", **{**asked, "pause": 0}, max_replica_lag=0)
        assert (await operation.run()).state is OperationState.DONE
        assert await pool.fetchval("SELECT count(*) FROM t WHERE n = 1") == 1000


async def test_it_pauses_after_each_chunk(pool, admin):
    """But not after the last one."""
    await numbered(admin, 50)
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=10, pause=0.1)
    started = time.monotonic()
    status = await operation.run()
    assert status.seq >= 6
    assert time.monotonic() - started >= 0.1 * (status.seq - 1)


async def test_no_chunk_has_more_rows_than_allowed(pool, admin):
    """Whatever the server could do in the time."""
    await numbered(admin, 3000)
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=700)
    await one_chunk(operation)
    await operation.run()
    sizes = await admin.fetch("SELECT rows FROM poolkeeper.chunks ORDER BY seq")
    assert max(row["rows"] for row in sizes) == 700
    assert sum(row["rows"] for row in sizes) == 3000
