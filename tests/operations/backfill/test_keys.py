"""Whatever the key is made of, ranges of it hold every row once."""

import datetime as dt
import uuid

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolkeeper import create_pool
from poolkeeper.testing.contracts import eventually
from tests.operations.backfill.doing import one_chunk

pytestmark = pytest.mark.asyncio

SCHEMA = """
CREATE EXTENSION IF NOT EXISTS citext;
CREATE SCHEMA kinds;
CREATE TYPE kinds.mood AS ENUM ('sad', 'ok', 'a ''quoted'' one', 'HAPPY');
CREATE DOMAIN kinds.short AS varchar(3) CHECK (value <> 'no');
CREATE TYPE kinds.pair AS (a int, b text);
DO $$ BEGIN
    CREATE COLLATION kinds.nocase
        (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE COLLATION kinds.digits (provider = icu, locale = 'en-u-kn-true');
EXCEPTION WHEN feature_not_supported THEN
    -- built without ICU: citext has equal texts that differ, too
    CREATE COLLATION kinds.nocase FROM pg_catalog."POSIX";
    CREATE COLLATION kinds.digits FROM pg_catalog.ucs_basic;
END $$;
"""

texts = st.text(st.sampled_from("aAbBäÄßs019 '\"\\%_-\n€𝄞"), max_size=4)
days = st.dates() | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "20000-01-01"])
moments = st.datetimes(
    min_value=dt.datetime.fromisoformat("1900-01-01"),
    max_value=dt.datetime.fromisoformat("2100-01-01"),
) | st.sampled_from(["infinity", "-infinity", "2026-10-25 02:30:00+01", "2026-10-25 02:30:00+02"])
numbers = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 2)
floats = st.floats() | st.sampled_from(["-0", "0", "NaN", "Infinity", "1e-310", "0.1"])

COLUMNS = {
    "integer": numbers,
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["1.0", "1.00", "NaN", "Infinity"]),
    "double precision": floats,
    "real": st.floats(width=32) | st.sampled_from(["-0", "0", "NaN", "Infinity", "0.1"]),
    "boolean": st.booleans(),
    "text": texts,
    'text COLLATE "C"': texts,
    "text COLLATE kinds.nocase": texts,
    "text COLLATE kinds.digits": texts,
    "citext": texts,
    "varchar(4)": texts,
    "char(4)": texts,
    '"char"': st.sampled_from("abcA "),
    "name": texts,
    "kinds.short": texts.map(lambda text: text[:3]),
    "kinds.mood": st.sampled_from(["sad", "ok", "a 'quoted' one", "HAPPY"]),
    "uuid": st.uuids(),
    "date": days,
    "timestamp": moments,
    "timestamptz": moments,
    "timestamptz(0)": moments,
    "time": st.times(),
    "timetz": st.times().map(lambda time: f"{time}+05:30"),
    "interval": st.timedeltas(dt.timedelta(days=-1000), dt.timedelta(days=1000)).map(
        lambda delta: f"{delta.days} days {delta.seconds}.{delta.microseconds:06} s"
    )
    | st.sampled_from(["1 month", "30 days", "-1 year 2 days", "-1 day +02:03", "720:00:00"]),
    "bytea": st.binary(max_size=4).map(lambda value: "\\x" + value.hex()),
    "bit(3)": st.sampled_from(["000", "001", "101", "111"]),
    "varbit(5)": st.text("01", max_size=5),
    "inet": st.sampled_from(["10.0.0.1", "10.0.0.1/8", "::1", "10.0.0.2/32"]),
    "macaddr": st.sampled_from(["08:00:2b:01:02:03", "08:00:2b:01:02:04"]),
    "jsonb": st.sampled_from(['{"a": 1}', '"a"', "1", "1.0", "null", "[]", "{}"]),
    "text[]": st.lists(texts, max_size=2).map(
        lambda items: "{" + ",".join('"' + _escaped(item) + '"' for item in items) + "}"
    ),
    "timestamptz[]": st.sampled_from(["{}", '{"2026-01-01 00:00+02"}', '{"2026-01-01 00:00+03"}']),
    "int4range": st.sampled_from(["empty", "[1,3)", "(,5]", "[1,)"]),
    "tstzrange": st.sampled_from(["empty", '["2026-01-01 00:00+02",)', '["2026-01-01 00:00+03",)']),
    "kinds.pair": st.sampled_from(["(1,a)", '(1,"a b")', "(0,)", "(,)"]),
    "oid": st.integers(0, 2**32 - 1),
    "money": st.sampled_from(["12.34", "-12345678.9", "0"]),
}


def _escaped(text):
    return text.replace("\\", "\\\\").replace('"', '\\"')


@st.composite
def tables(draw):
    """Types of the key, and rows of it, many of them alike."""
    columns = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=3))
    few = [st.sampled_from(draw(st.lists(COLUMNS[c], min_size=1, max_size=3))) for c in columns]
    row = st.tuples(*(COLUMNS[column] | some for column, some in zip(columns, few, strict=True)))
    return columns, draw(st.lists(row, max_size=12)), draw(st.integers(1, 4))


async def fill(admin, columns, rows):
    """Make the table anew, with an index; the key is ``k0``, ``k1`` …"""
    declared = ", ".join(f"k{place} {column} NOT NULL" for place, column in enumerate(columns))
    await admin.execute(
        f"DROP TABLE IF EXISTS t; CREATE TABLE t ({declared}, n int DEFAULT 0);"
        f"CREATE INDEX ON t ({', '.join(f'k{place}' for place in range(len(columns)))})"
    )
    for row in rows:
        literals = []
        for column, value in zip(columns, row, strict=True):
            quoted = str(value).replace("'", "''")
            literals.append(f"'{quoted}'::{column.partition(' COLLATE')[0]}")
        await admin.execute(f"INSERT INTO t VALUES ({', '.join(literals)})")


@pytest_asyncio.fixture
async def foreign(postgres, admin):
    """A pool whose sessions have settings that spoil texts."""
    await admin.execute(SCHEMA)
    for setting in (
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Kolkata'",
        "extra_float_digits = -10",
        "bytea_output = 'escape'",
    ):
        await admin.execute(f"ALTER DATABASE {postgres.name} SET {setting}")
    async with create_pool(postgres.url, min_size=1, max_size=4) as pool:
        yield pool


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(table=tables())
async def test_ranges_of_any_key_hold_every_row_once(foreign, admin, table):
    """As a plain UPDATE does, and a plain DELETE."""
    columns, rows, batch = table
    key = [f"k{place}" for place in range(len(columns))]
    await fill(admin, columns, rows)
    # one that fails must not be in the way of the next one
    asked = {"key": key, "batch": batch, "name": uuid.uuid4().hex}
    operation = await foreign.operations.backfill("t", set="n = n + 1", **asked)
    status = await operation.run()
    assert status.rows_done == len(rows)
    assert await admin.fetchval("SELECT count(*) FROM t WHERE n = 1") == len(rows)
    operation = await foreign.operations.backfill("t", delete=True, where="n = 1", **asked)
    assert (await operation.run()).rows_done == len(rows)
    assert await admin.fetchval("SELECT count(*) FROM t") == 0


@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_a_key_of_every_type_comes_back_exact(foreign, admin, data):
    """One key per chunk."""
    for column, values in COLUMNS.items():
        some = data.draw(st.lists(values, min_size=1, max_size=5), label=column)
        await fill(admin, [column], [(value,) for value in some])
        operation = await foreign.operations.backfill(
            "t", set="n = n + 1", key=["k0"], batch=1, name=uuid.uuid4().hex
        )
        await operation.run()
        assert await admin.fetchval("SELECT count(*) FROM t WHERE n = 1") == len(some), column


async def test_sql_means_what_it_meant_where_it_was_asked_for(foreign, postgres, admin):
    """A worker whose sessions have other settings finds the same days, styles and functions."""
    await admin.execute(
        "CREATE SCHEMA here; CREATE SCHEMA there;"
        "CREATE FUNCTION here.sign() RETURNS text LANGUAGE sql AS $$ SELECT 'here' $$;"
        "CREATE FUNCTION there.sign() RETURNS text LANGUAGE sql AS $$ SELECT 'there' $$;"
        "CREATE TABLE t (at timestamptz PRIMARY KEY, seen text);"
        "INSERT INTO t SELECT '2026-01-01 20:00+00'::timestamptz + i * '1 hour'::interval"
        " FROM generate_series(0, 9) i;"
        f"ALTER DATABASE {postgres.name} SET search_path = here, public"
    )
    expression = "sign() || ' ' || at::text || ' ' || at::date || ' ' || interval '-1 day 2 hours'"
    async with create_pool(postgres.url, min_size=1) as pool:
        wanted = await pool.fetch(f"SELECT {expression} AS seen FROM t ORDER BY at")
        operation = await pool.operations.backfill("t", set=f"seen = {expression}", batch=3)
    await admin.execute(
        f"ALTER DATABASE {postgres.name} SET search_path = there, public;"
        f"ALTER DATABASE {postgres.name} SET timezone = 'America/New_York';"
        f"ALTER DATABASE {postgres.name} SET datestyle = 'German';"
        f"ALTER DATABASE {postgres.name} SET intervalstyle = 'postgres_verbose'"
    )
    async with create_pool(postgres.url, min_size=1) as pool:
        await (await pool.operations.get(operation.name)).run()
    assert await admin.fetch("SELECT seen FROM t ORDER BY at") == wanted
    assert wanted[0]["seen"].startswith("here 02/01/2026 01:30:00")


async def test_a_range_is_read_by_its_index(foreign, admin):
    """Also of a key whose first column tells little: no chunk reads the whole table."""
    await admin.execute(
        "CREATE TABLE t (kind int, id int, n int DEFAULT 0, PRIMARY KEY (kind, id));"
        "INSERT INTO t SELECT 1 + i % 2, i FROM generate_series(1, 40000) i"
    )
    await admin.execute("VACUUM ANALYZE t")
    await admin.execute("SELECT pg_stat_force_next_flush()")
    before = await seen_by_scans(admin)
    operation = await foreign.operations.backfill("t", set="n = n + 1", batch=500)
    await operation.run()
    # sessions report what they have done when they end
    await foreign.operations.close()
    await eventually(lambda: written(admin))
    assert await seen_by_scans(admin) == before
    assert await admin.fetchval("SELECT count(*) FROM t WHERE n = 1") == 40000


async def seen_by_scans(admin):
    """Rows of the table that were read by sequential scans."""
    await admin.execute("SELECT pg_stat_clear_snapshot()")
    return await admin.fetchval("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 't'")


async def written(admin):
    """Whether the statistics know that every row was updated."""
    await admin.execute("SELECT pg_stat_clear_snapshot()")
    return await admin.fetchval(
        "SELECT n_tup_upd >= 40000 FROM pg_stat_user_tables WHERE relname = 't'"
    )


async def test_a_key_whose_collation_is_altered_meanwhile_is_no_failure(foreign, admin):
    """Sessions have plans for the old one."""
    await fill(admin, ["text"], [(f"row {number:03}",) for number in range(100)])
    for collation in ("ucs_basic", '"POSIX"'):
        operation = await foreign.operations.backfill(
            "t", set="n = n + 1", key=["k0"], batch=10, again=True
        )
        await one_chunk(operation)
        await admin.execute(f"ALTER TABLE t ALTER k0 TYPE text COLLATE {collation}")
        await operation.run()
    assert await admin.fetchval("SELECT count(*) FROM t WHERE n = 2") == 100
