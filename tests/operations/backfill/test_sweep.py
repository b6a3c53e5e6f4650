"""A sweep goes over the table until nothing is left to do."""

import pytest

from poolkeeper.operations import OperationFailedError, OperationState
from tests.operations.backfill.doing import one_chunk

pytestmark = pytest.mark.asyncio

TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL);"
    "INSERT INTO t SELECT i, 'Name ' || i FROM generate_series(1, 100) i"
)
LOWER = {"set": "name = lower(name)", "where": "name <> lower(name)", "sweep": True, "batch": 10}


async def test_a_sweep_finds_what_was_inserted_behind_the_cursor(pool, admin):
    """A second pass changes it, a third one sees that nothing is left."""
    await admin.execute(TABLE)
    operation = await pool.operations.backfill("t", **LOWER)
    await one_chunk(operation)
    await admin.execute("INSERT INTO t VALUES (-5, 'Late')")
    status = await operation.run()
    assert status.state is OperationState.DONE
    assert status.rows_done == 101
    assert status.cursor["pass"] == 3
    assert await admin.fetchval("SELECT count(*) FROM t WHERE name <> lower(name)") == 0


async def test_without_a_sweep_it_is_not_found(pool, admin):
    """That is what a sweep is for."""
    await admin.execute(TABLE)
    operation = await pool.operations.backfill("t", **{**LOWER, "sweep": False})
    await one_chunk(operation)
    await admin.execute("INSERT INTO t VALUES (-5, 'Late')")
    await operation.run()
    assert await admin.fetchval("SELECT count(*) FROM t WHERE name <> lower(name)") == 1


async def test_progress_of_a_sweep_does_not_go_back(pool, admin):
    """The second pass is counted in from the beginning."""
    await admin.execute(TABLE + "; ANALYZE t")
    operation = await pool.operations.backfill("t", **LOWER)
    seen = []
    first = []

    def see(report):
        seen.append(report.status.fraction)
        if report.status.cursor["pass"] == 1:
            first.append(report.status.fraction)

    status = await operation.run(report=see)
    assert seen == sorted(seen)
    assert 0.4 < max(first) <= 0.5
    assert status.cursor["pass"] == 2
    assert status.bytes_done == status.bytes_total


async def test_a_condition_that_never_becomes_false_ends_in_an_error(pool, admin):
    """After ten passes; what is committed stays, and a retry goes on when the reason is mended."""
    await admin.execute(TABLE)
    operation = await pool.operations.backfill(
        "t", set="name = name || 'X'", where="name <> lower(name)", sweep=True, batch=1000
    )
    with pytest.raises(OperationFailedError, match="10 passes over"):
        await operation.run()
    assert await admin.fetchval("SELECT name FROM t WHERE id = 1") == "Name 1" + 10 * "X"
    await admin.execute("UPDATE t SET name = lower(name)")
    await operation.retry()
    assert (await operation.run()).state is OperationState.DONE
