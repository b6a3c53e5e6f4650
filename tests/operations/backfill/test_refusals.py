"""What cannot be done is refused when it is asked for, with the reason and advice."""

import pytest

from poolkeeper import create_pool
from poolkeeper.operations import OperationError, OperationFailedError
from tests.operations.backfill.doing import numbered, values

pytestmark = pytest.mark.asyncio

SET = "n = n + 1"
TABLES = """
CREATE TABLE nokey (id int NOT NULL, n int);
CREATE TABLE nullable (id int, n int);
CREATE INDEX ON nullable (id);
CREATE TABLE generated (
    id int PRIMARY KEY, low int GENERATED ALWAYS AS (id / 2) STORED NOT NULL, n int);
CREATE INDEX ON generated (low);
CREATE TABLE identified (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);
CREATE TABLE documents (id json NOT NULL, n int);
CREATE VIEW seen AS SELECT * FROM nokey;
CREATE MATERIALIZED VIEW stored AS SELECT * FROM nokey;
CREATE SEQUENCE counter;
CREATE TABLE many (id int NOT NULL, other int NOT NULL, n int);
INSERT INTO many SELECT i, i, 0 FROM generate_series(1, 20000) i;
CREATE INDEX ON many (id, n);
CREATE INDEX ON many (other) WHERE other > 5;
ANALYZE many;
"""


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        # the table
        ({"table": "nothing"}, "no table 'nothing'"),
        ({"table": "a.b.c.d"}, r"no table 'a.b.c.d'"),
        ({"table": ""}, "table is ''"),
        ({"table": '"open'}, "no table"),
        ({"table": "seen"}, "is a view"),
        ({"table": "stored"}, "is a materialized view"),
        ({"table": "counter"}, "is no table"),
        # the key
        ({"table": "nokey"}, "has no primary key"),
        ({"key": ["nope"]}, "no column 'nope'"),
        ({"key": []}, r"key is \[\]"),
        ({"key": ["id", "id"]}, "different columns"),
        ({"table": "nullable", "key": ["id"]}, "may be NULL"),
        ({"table": "generated", "key": ["low"]}, "is generated"),
        ({"table": "documents", "key": ["id"]}, "cannot be read in the order"),
        ({"table": "many", "key": ["other"]}, "no index in the order of"),
        ({"table": "many", "key": ["other", "id"]}, "no index in the order of"),
        # set
        ({"set": "nn = 1"}, r'column "nn".*does not exist'),
        ({"set": "n = "}, "does not take set"),
        ({"set": "n = nope(n)"}, r"at character 5, 'nope\(n\)'"),
        ({"set": "n = 1 WHERE id < 5"}, "assignments"),
        ({"set": "n = 1 RETURNING id"}, "assignments"),
        ({"set": "n = 1; DROP TABLE t"}, "multiple commands"),
        ({"set": "n = 'x"}, "unterminated"),
        ({"set": "n = 1 /*"}, "unterminated"),
        ({"set": "n = $1"}, "parameters"),
        ({"where": "id = $3::int"}, "could not determine data type of parameter"),
        ({"set": "n = sum(n)"}, "aggregate"),
        ({"set": "n = 1, id = 2"}, "set changes 'id', a column of the key"),
        ({"set": "(n, id) = (SELECT 1, 2)"}, "set changes 'id'"),
        ({"set": '"id" = 5'}, "set changes 'id'"),
        ({"set": "id = DEFAULT"}, "set changes 'id'"),
        ({"table": "identified", "set": "id = DEFAULT"}, "set changes 'id'"),
        ({"set": "n = 1", "delete": True}, "either set= or delete"),
        # where
        ({"where": "id = "}, "does not take where at its end"),
        ({"where": "nope = 1"}, r'column "nope" does not exist.*at character|at character 1'),
        ({"where": "n + 1"}, "must be type boolean"),
        ({"where": "id = 1) OR (id = 2"}, "does not take where"),
        ({"where": "id = 1 LIMIT 5"}, "syntax error at or near .LIMIT"),
        ({"where": "true RETURNING id"}, "complete"),
        ({"where": "true; DROP TABLE t"}, "multiple commands"),
        ({"where": "id = 1 /* and"}, "unterminated"),
        ({"where": "id = $1 + 1"}, "parameters"),
        ({"where": "  "}, "where is '  '"),
        ({"where": "id = 1\0"}, "NUL character"),
        ({"sweep": True}, "needs a condition"),
        # the throttle
        ({"batch": 0}, "batch is 0"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"lock_timeout": 0}, "lock_timeout is 0"),
        ({"lock_timeout": -1}, "lock_timeout is -1"),
        ({"pause": -0.5}, "pause is -0.5"),
        ({"pause": float("nan")}, "JSON"),
        ({"max_replica_lag": float("inf")}, "JSON"),
        ({"max_replica_lag": 1e9}, "max_replica_lag is 1000000000.0"),
    ],
)
async def test_it_is_refused_with_advice(pool, admin, asked, says):
    """And nothing is created or changed."""
    await numbered(admin, 10)
    await admin.execute(TABLES)
    asked = {"table": "t", "set": SET, **asked}
    with pytest.raises(OperationError, match=says) as caught:
        await pool.operations.backfill(**asked)
    assert "Suggestion: " in str(caught.value)
    assert await pool.operations.list() == []
    assert await values(admin) == {0: 10}


async def test_an_option_nobody_knows_is_refused(pool, admin):
    """A typing error in a spec is not passed over."""
    await numbered(admin, 10)
    spec = {"table": "t", "set": SET, "wehre": "id = 1"}
    with pytest.raises(OperationError, match="no option wehre"):
        await pool.operations.create("backfill", spec, name="typo")


async def test_a_throttle_that_is_spoilt_on_the_way_is_refused(pool, admin):
    """It is checked before anything is changed, and may be mended."""
    await numbered(admin, 10)
    operation = await pool.operations.backfill("t", set=SET)
    await operation.pause()
    with pytest.raises(OperationError, match="batch is -5"):
        await pool.operations.backfill("t", set=SET, batch=-5)
    # nor is it taken from the table, where somebody may have put it
    await operation.resume()
    await admin.execute("UPDATE poolkeeper.operations SET spec = spec || '{\"batch\": -6}'")
    with pytest.raises(OperationError, match="batch is -6"):
        await operation.run()
    assert await values(admin) == {0: 10}
    operation = await pool.operations.backfill("t", set=SET, batch=5)
    await operation.run()
    assert await values(admin) == {1: 10}


async def test_a_temporary_table_is_refused(pool, admin):
    """The sessions that would do it cannot see it."""
    async with pool.acquire() as connection:
        await connection.execute("CREATE TEMP TABLE gone (id int PRIMARY KEY, n int)")
        schema = await connection.fetchval("SELECT pg_my_temp_schema()::regnamespace::text")
        with pytest.raises(OperationError, match="temporary table"):
            await pool.operations.backfill(f"{schema}.gone", set=SET)


async def test_a_small_table_needs_no_index(pool, admin):
    """Sorting it costs nothing."""
    await admin.execute(
        "CREATE TABLE few (id int NOT NULL, n int DEFAULT 0);"
        "INSERT INTO few SELECT generate_series(1, 500)"
    )
    await (await pool.operations.backfill("few", set=SET, key=["id"], batch=50)).run()
    assert await values(admin, "few") == {1: 500}


async def test_an_index_that_begins_with_the_key_will_do(pool, admin):
    """And one that has its first columns: PostgreSQL sorts the rest as it goes."""
    await admin.execute(TABLES)
    for key in (["id"], ["id", "other"]):
        operation = await pool.operations.backfill(
            "many", set="n = n", where="id < 50", key=key, name=str(key)
        )
        assert (await operation.run()).rows_done == 49


async def test_who_may_not_write_the_table_is_told_what_to_grant(pool, admin, postgres):
    """Before anything is created."""
    await numbered(admin, 10)
    await pool.operations.create("backfill", {"table": "t", "set": SET}, name="makes the tables")
    role = f"reader_{postgres.name}"
    await admin.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret';"
        f"GRANT USAGE ON SCHEMA poolkeeper TO {role}; GRANT SELECT ON t TO {role};"
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA poolkeeper TO {role}"
    )
    try:
        host = postgres.url.rpartition("@")[2]
        async with create_pool(f"postgresql://{role}:secret@{host}", min_size=0) as reader:
            with pytest.raises(OperationError, match="GRANT SELECT, UPDATE, DELETE ON"):
                await reader.operations.backfill("t", set=SET, name="reader")
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_change_that_fails_names_the_keys_it_was_at(pool, admin):
    """The row that is to blame is one of them."""
    await numbered(admin, 10)
    operation = await pool.operations.backfill("t", set="n = 1 / (id - 7)", batch=3)
    with pytest.raises(OperationFailedError, match=r"in chunk 3 \(6 < id <= 9\): .*by zero"):
        await operation.run()
