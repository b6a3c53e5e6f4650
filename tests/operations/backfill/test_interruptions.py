"""Whatever ends sessions, servers and workers, ``n = n + 1`` is done once to every row."""

import asyncio
import contextlib
import random

import asyncpg
import pytest

from poolkeeper import create_pool
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.operations import OperationConflictError, OperationFailedError, OperationState
from poolkeeper.testing.contracts import eventually
from tests.operations.backfill.doing import numbered, one_chunk, values

pytestmark = pytest.mark.asyncio

WORKERS = "application_name LIKE 'poolkeeper worker %' AND datname = current_database()"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_sessions_double_nothing_and_lose_nothing(pool, admin, seed):
    """At random moments, while they work and while they wait."""
    rows, rng, killed = 4000, random.Random(seed), 0
    await numbered(admin, rows)
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=10)
    running = asyncio.ensure_future(operation.run())
    while not running.done():
        committed = await admin.fetchval("SELECT seq FROM poolkeeper.operations")
        wanted = committed + rng.randrange(30)
        await eventually(lambda wanted=wanted: at_chunk(admin, running, wanted))
        # somewhere within the next chunks
        for _ in range(rng.randrange(8)):
            await admin.fetchval("SELECT 1")
        killed += await admin.fetchval(
            f"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))"
            f" FROM pg_stat_activity WHERE {WORKERS}"
        )
    status = await running
    assert await values(admin) == {1: rows}
    assert status.rows_done == rows
    assert killed > 5


async def at_chunk(admin, running, wanted):
    """Whether so many chunks are committed, or all of them."""
    return running.done() or wanted <= await admin.fetchval("SELECT seq FROM poolkeeper.operations")


@pytest.mark.slow
async def test_a_crash_of_the_database_doubles_nothing_and_loses_nothing(crashable_postgres):
    """All its processes are killed in the middle, several times, and it starts again."""
    server, rng, rows = crashable_postgres, random.Random(3), 3000
    url = server.dsn("postgres")
    admin = await asyncpg.connect(url)
    await numbered(admin, rows)
    await admin.close()
    async with create_pool(url, min_size=1, max_size=3) as pool:
        operation = await pool.operations.backfill("t", set="n = n + 1", batch=10)
        seen = []
        running = asyncio.ensure_future(operation.run(report=lambda r: seen.append(r.status.seq)))
        for crash in range(1, 5):
            wanted = crash * 60 + rng.randrange(30)
            await eventually(lambda wanted=wanted: seen and seen[-1] >= wanted)
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.start)
        status = await running
        assert status.outages >= 4
        rows_now = await pool.fetch("SELECT n, count(*) FROM t GROUP BY n")
        assert {row[0]: row[1] for row in rows_now} == {1: rows}
        assert status.rows_done == rows


async def test_another_process_goes_on_at_the_checkpoint(pool, admin, postgres):
    """With nothing but the name."""
    await numbered(admin, 500)
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=10)
    await one_chunk(operation)
    assert 0 < (await values(admin))[1] < 500
    async with create_pool(postgres.url, min_size=1) as other:
        await (await other.operations.get("update t")).run()
    assert await values(admin) == {1: 500}


async def test_the_same_call_again_does_not_double_what_is_done(pool, admin):
    """A program that was killed after the last commit can just be started again."""
    await numbered(admin, 100)
    for _ in range(2):
        operation = await pool.operations.backfill("t", set="n = n + 1", batch=10)
        await operation.run()
        assert await values(admin) == {1: 100}
    # other options that do not change what is done do not change this
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=20, pause=0.01)
    assert operation.status.state is OperationState.DONE
    await (await pool.operations.backfill("t", set="n = n + 1", again=True)).run()
    assert await values(admin) == {2: 100}


async def test_another_change_of_the_same_table_is_another_operation(pool, admin):
    """After the first one is done by itself; before, it has to have a name of its own."""
    await numbered(admin, 30)
    first = await pool.operations.backfill("t", set="n = n + 1", batch=10)
    with pytest.raises(OperationConflictError, match="differs in set"):
        await pool.operations.backfill("t", set="n = n + 10", batch=10)
    await first.run()
    await (await pool.operations.backfill("t", set="n = n + 10", batch=10)).run()
    assert await values(admin) == {11: 30}


async def test_a_delete_that_is_done_can_be_done_again(pool, admin):
    """Every night, say."""
    await numbered(admin, 30)
    for _ in range(2):
        await (await pool.operations.backfill("t", delete=True, where="id > 10")).run()
        assert await admin.fetchval("SELECT count(*) FROM t") == 10
        await admin.execute("INSERT INTO t SELECT generate_series(11, 20)")


@pytest.mark.parametrize(
    ("spoil", "mend", "says"),
    [
        ("ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME TO t", "create the table again"),
        ("ALTER TABLE t DROP n", "ALTER TABLE t ADD n int DEFAULT 1", "restore the column"),
        (
            "ALTER TABLE t ADD CHECK (n < 1) NOT VALID",
            "ALTER TABLE t DROP CONSTRAINT t_n_check",
            "violates check constraint",
        ),
        (
            "UPDATE t SET n = 2147483647 WHERE id = 77",
            "UPDATE t SET n = 0 WHERE id = 77",
            "integer out of range",
        ),
    ],
)
async def test_a_table_spoilt_in_the_middle_ends_it_clearly_and_a_retry_goes_on(
    pool, admin, spoil, mend, says
):
    """What was committed stays, and nothing is done twice."""
    await numbered(admin, 100)
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=10)
    await one_chunk(operation)
    done = operation.status.rows_done
    assert 0 < done < 70
    await admin.execute(spoil)
    with pytest.raises(OperationFailedError) as caught:
        await operation.run()
    for part in (says, "What was committed stays", "Suggestion: ", "operations retry 'update t'"):
        assert part in str(caught.value)
    assert (await operation.refresh()).rows_done >= done
    await admin.execute(mend)
    await operation.retry()
    status = await operation.run()
    assert status.rows_done == 100
    if "DROP n" not in spoil:
        assert await values(admin) == {1: 100}


async def test_a_cancelled_run_leaves_a_checkpoint(pool, admin):
    """As Ctrl-C does."""
    await numbered(admin, 2000)
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=5)
    for _ in range(5):
        begun = asyncio.Event()
        running = asyncio.ensure_future(
            operation.run(report=lambda r, begun=begun: r.status.seq % 20 == 10 and begun.set())
        )
        await begun.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionPoolError):
            await running
    await operation.run()
    assert await values(admin) == {1: 2000}
