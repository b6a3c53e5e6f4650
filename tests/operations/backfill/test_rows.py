"""Each row that is to be changed is changed once, and no other one."""

import asyncio
import random

import asyncpg
import pytest

from poolkeeper.operations import OperationState
from poolkeeper.testing.contracts import eventually
from tests.operations.backfill.doing import numbered, one_chunk, values

pytestmark = pytest.mark.asyncio


async def test_every_row_is_changed_once(pool, admin):
    """Whether or not the last range is full; and the books say so."""
    for rows in (0, 1, 9, 10, 11, 100):
        await numbered(admin, rows, table=f"t{rows}")
        operation = await pool.operations.backfill(f"t{rows}", set="n = n + 1", batch=10)
        status = await operation.run()
        assert await values(admin, f"t{rows}") == ({1: rows} if rows else {})
        assert status.state is OperationState.DONE
        assert status.rows_done == rows
        assert status.seq >= rows // 10 + 1


async def test_only_rows_that_fulfil_the_condition_are_changed(pool, admin):
    """A condition with OR stays one condition, and a comment at its end takes nothing along."""
    await numbered(admin, 50)
    operation = await pool.operations.backfill(
        "t", set="n = n + 1 -- one", where="id = 3 OR id > 40 -- few", batch=7
    )
    assert (await operation.run()).rows_done == 11
    assert await admin.fetchval("SELECT sum(n) FROM t WHERE id = 3 OR id > 40") == 11
    assert await values(admin) == {0: 39, 1: 11}


async def test_rows_are_deleted(pool, admin):
    """Those for which the condition holds; without one, all."""
    await numbered(admin, 50)
    operation = await pool.operations.backfill("t", delete=True, where="id % 2 = 0", batch=7)
    assert (await operation.run()).rows_done == 25
    assert await admin.fetchval("SELECT count(*) FROM t WHERE id % 2 = 1") == 25
    operation = await pool.operations.backfill("t", delete=True, batch=7, name="the rest")
    await operation.run()
    assert await values(admin) == {}


async def test_other_tables_may_give_the_values(pool, admin):
    """UPDATE … FROM, with columns of the same name as the key."""
    await numbered(admin, 50)
    await admin.execute("CREATE TABLE given AS SELECT id, id * 2 AS n FROM t WHERE id <= 30")
    operation = await pool.operations.backfill(
        "t", set="n = given.n FROM given", where="given.id = t.id", batch=7
    )
    assert (await operation.run()).rows_done == 30
    assert await admin.fetchval("SELECT count(*) FROM t WHERE n = id * 2 AND id <= 30") == 30
    assert await admin.fetchval("SELECT sum(n) FROM t WHERE id > 30") == 0


async def test_rows_of_partitions_and_heirs_are_changed(pool, admin):
    """Through the parent, each of them once, also when they move to another partition."""
    await admin.execute(
        "CREATE TABLE p (id int NOT NULL, part int NOT NULL, n int DEFAULT 0)"
        " PARTITION BY LIST (part);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);"
        "CREATE INDEX ON p (id);"
        "INSERT INTO p SELECT i, 1 + i % 2 FROM generate_series(1, 60) i"
    )
    operation = await pool.operations.backfill(
        "p", set="n = n + 1, part = 3 - part", key=["id"], batch=7
    )
    assert (await operation.run()).rows_done == 60
    assert await values(admin, "p") == {1: 60}
    await numbered(admin, 20, table="parent")
    await admin.execute(
        "CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (parent);"
        "INSERT INTO heir SELECT generate_series(11, 40)"
    )
    operation = await pool.operations.backfill("parent", set="n = n + 1", batch=7)
    assert (await operation.run()).rows_done == 50
    assert await values(admin, "parent") == {1: 50}


async def test_the_key_need_not_be_unique(pool, admin):
    """Rows of one key are in one chunk, however many there are."""
    await admin.execute(
        "CREATE TABLE t (k int NOT NULL, n int DEFAULT 0); CREATE INDEX ON t (k);"
        "INSERT INTO t (k) SELECT i / 20 FROM generate_series(0, 199) i"
    )
    operation = await pool.operations.backfill("t", set="n = n + 1", key=["k"], batch=3)
    status = await operation.run()
    assert await values(admin) == {1: 200}
    assert status.rows_done == 200
    assert status.seq > 10


async def test_names_are_taken_as_sql_or_as_they_are(pool, admin):
    """Schemas, capital letters, quotes and spaces."""
    await admin.execute(
        'CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."The "" Table"'
        ' ("the "" key" int PRIMARY KEY, "select" int DEFAULT 0);'
        'INSERT INTO "My Schema"."The "" Table" SELECT generate_series(1, 20)'
    )
    for again, table in enumerate(('My Schema.The " Table', '"My Schema"."The "" Table"'), 1):
        operation = await pool.operations.backfill(table, set='"select" = "select" + 1', batch=6)
        await operation.run()
        assert (
            await admin.fetchval('SELECT sum("select") FROM "My Schema"."The "" Table"')
            == 20 * again
        )


async def test_rows_that_others_write_meanwhile_are_changed_once(pool, admin, postgres):
    """Rows that are there throughout: once. New ones: once, if ahead of the cursor; never twice."""
    rows, rng = 3000, random.Random(20)
    await admin.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, other int DEFAULT 0);"
        f"INSERT INTO t SELECT 2 * generate_series(1, {rows})"
    )
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=20)
    over = asyncio.Event()
    wrote = 0

    async def write(kind):
        nonlocal wrote
        connection = await asyncpg.connect(postgres.url)
        try:
            while not over.is_set():
                number = rng.randrange(1, 2 * rows)
                if kind == "update":
                    await connection.execute("UPDATE t SET other = other + 1 WHERE id = $1", number)
                elif kind == "insert":
                    await connection.execute(
                        "INSERT INTO t VALUES ($1) ON CONFLICT DO NOTHING", number | 1
                    )
                else:
                    await connection.execute("DELETE FROM t WHERE id = $1", number | 1)
                wrote += 1
        finally:
            await connection.close()

    writers = [asyncio.ensure_future(write(kind)) for kind in ("update", "insert", "delete")]
    await eventually(lambda: wrote > 30)
    before = wrote
    await operation.run()
    over.set()
    await asyncio.gather(*writers)
    assert wrote > before
    assert await admin.fetchval("SELECT count(*) FROM t WHERE id % 2 = 0 AND n = 1") == rows
    assert await admin.fetchval("SELECT count(*) FROM t WHERE n NOT IN (0, 1)") == 0


async def test_rows_ahead_of_the_cursor_are_changed_and_those_behind_are_not(pool, admin):
    """What is inserted while a backfill is laid down shows where its cursor is."""
    await numbered(admin, 100)
    operation = await pool.operations.backfill("t", set="n = n + 1", batch=10)
    await one_chunk(operation)
    key = int(operation.status.cursor["key"][0])
    assert 0 < key < 100
    await admin.execute("INSERT INTO t VALUES (-1), (101), (102)")
    await operation.run()
    added = await admin.fetch("SELECT id, n FROM t WHERE id NOT BETWEEN 1 AND 100")
    assert {row["id"]: row["n"] for row in added} == {-1: 0, 101: 1, 102: 1}
    assert await admin.fetchval("SELECT count(*) FROM t WHERE n = 1") == 102


async def test_progress_reaches_the_end_also_where_few_rows_are_changed(pool, admin):
    """What is gone through counts, whether it is changed or not; it never goes back."""
    await numbered(admin, 2000)
    await admin.execute("ANALYZE t")
    operation = await pool.operations.backfill("t", set="n = n + 1", where="id = 1500", batch=100)
    seen = []
    status = await operation.run(report=lambda report: seen.append(report.status.fraction))
    assert status.rows_done == 1
    assert status.rows_total is None
    assert seen == sorted(seen)
    assert any(0.4 < fraction < 0.6 for fraction in seen)
    assert any(0.9 < fraction < 1.0 for fraction in seen)
    assert status.fraction == 1.0
    assert status.bytes_done == status.bytes_total
