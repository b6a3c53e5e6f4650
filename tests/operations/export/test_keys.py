"""By which keys rows can be read, exactly once each."""

import pytest

from poolkeeper.operations.export import ExportError
from tests.operations.export.driving import Export, export

pytestmark = pytest.mark.asyncio

KEYS = {
    "uuid": "md5(g::text)::uuid",
    "text": "chr(200 + g % 50) || g || chr(39) || chr(92)",
    "varchar(20)": "'v' || g",
    "char(12)": "'c' || g",
    "timestamptz": "timestamptz '2000-01-01' + g * interval '1.000001 s'",
    "timestamp": "timestamp '0044-03-15 12:00 BC' + g * interval '1.000001 s'",
    "date": "case g when 1 then 'infinity' when 2 then '-infinity' else date '2000-01-01' + g end",
    "numeric": "case g when 1 then 'NaN' when 2 then '-Infinity' else (g - 150) / 7.0 end",
    "numeric(9,3)": "g / 7.0",
    "float8": "case g when 1 then 'NaN' when 2 then '-Infinity' else (g - 150) / 7.0 end",
    "float4": "g / 7.0",
    "bytea": "decode(md5(g::text), 'hex')",
    "bit varying": "g::bit(10)",
    "bit(10)": "g::bit(10)",
    "boolean": "g % 2 = 0",
    "interval": "g * interval '1 day 1.000001 s'",
    "inet": "inet '10.0.0.0' + g",
    "int[]": "array[g % 7, g]",
    '"char"': '(g % 100 + 1)::"char"',
    '"My mood"': "(array['sad', 'ok', 'so, \"so\"'])[g % 3 + 1]::\"My mood\"",
    '"Positive"': "g",
    "jsonb": "jsonb_build_object('k', g)",
}


@pytest.mark.parametrize("type_", KEYS)
async def test_every_row_is_exported_once_by_a_key_of_type(admin, postgres, tmp_path, type_):
    """Unique or not: chunks of four rows end within runs of equal keys as well."""
    await admin.execute(
        "create type \"My mood\" as enum ('so, \"so\"', 'sad', 'ok');"
        'create domain "Positive" as int check (value > 0);'
        f"create table t (n int, k {type_});"
        f"insert into t select g, {KEYS[type_]} from generate_series(1, 300) g"
    )
    await admin.execute("create index on t (k)")
    await export(
        postgres.url, table="t", columns=["n"], key="k", to=str(tmp_path / "t.csv"), size=1
    )
    numbers = [int(line) for line in (tmp_path / "t.csv").read_text().splitlines()[1:]]
    assert sorted(numbers) == list(range(1, 301))
    ranks = await admin.fetch("select n, rank() over (order by k) as place from t")
    place = {row["n"]: row["place"] for row in ranks}
    assert [place[n] for n in numbers] == sorted(place.values())


async def test_composite_keys_are_compared_column_by_column(admin, postgres, tmp_path):
    await admin.execute(
        """create table t (b text, a int, n int, primary key (a, b));
        insert into t select 'b' || g % 10, g / 10, g from generate_series(0, 999) g"""
    )
    made = await export(postgres.url, table="t", columns=["n"], to=str(tmp_path / "t.csv"), size=2)
    assert [key["column"] for key in made.prepared.spec["key"]] == ["a", "b"]
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == [str(n) for n in range(1000)]


async def test_columns_a_primary_key_only_includes_are_no_part_of_it(admin, postgres, tmp_path):
    """They may be NULL, and of types that have no order."""
    await admin.execute(
        """create table t (b int, a int, note point, primary key (a, b) include (note));
        insert into t select g % 3, g, null from generate_series(1, 9) g"""
    )
    made = await export(
        postgres.url, table="t", columns=["a"], to=str(tmp_path / "t.csv"), size=1, header=False
    )
    assert [key["column"] for key in made.prepared.spec["key"]] == ["a", "b"]
    assert (tmp_path / "t.csv").read_text().split() == [str(n) for n in range(1, 10)]


async def test_a_table_is_found_by_its_name_as_it_is_written(admin, postgres, tmp_path):
    await admin.execute('create table "My Table" (id int primary key)')
    await export(postgres.url, table="My Table", to=str(tmp_path / "t.csv"))
    assert (tmp_path / "t.csv").read_text() == "id\n"


async def test_names_that_need_quotes(admin, postgres, tmp_path):
    table = '"My ""schema"." T, ""1"'
    await admin.execute(
        'create schema "My ""schema";'
        f'create table {table} ("select" int, "a ""b" text, q int, primary key ("a ""b"));'
        f"insert into {table} select g, 'x' || g, g from generate_series(1, 9) g"
    )
    condition = '"select" > 1 -- and so on'
    await export(postgres.url, table=table, where=condition, to=str(tmp_path / "t.csv"), size=1)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[:2] == ['select,"a ""b",q', "2,x2,2"]
    assert len(lines) == 9


async def test_a_query_may_end_in_a_comment_or_a_semicolon(postgres, tmp_path):
    await export(postgres.url, query="select 1 as id; ", key="id", to=str(tmp_path / "a.csv"))
    await export(postgres.url, query="select 1 as id -- one", key="id", to=str(tmp_path / "b.csv"))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() == b"id\n1\n"


@pytest.mark.parametrize("what", [{"table": "t"}, {"query": "table t"}])
async def test_a_key_that_is_null_somewhere_is_refused(admin, postgres, tmp_path, what):
    await admin.execute("create table t (k int, n int); insert into t values (1, 1), (null, 2)")
    with pytest.raises(ExportError, match=r"NULL in some rows.*Suggestion"):
        await Export.prepare(postgres.url, **what, key="k", to=str(tmp_path / "t.csv"))
    if "table" in what:
        await export(
            postgres.url, **what, key="k", where="k is not null", to=str(tmp_path / "t.csv")
        )
        assert (tmp_path / "t.csv").read_text() == "k,n\n1,1\n"


@pytest.mark.parametrize("what", [{"table": "t"}, {"query": "select 1"}])
async def test_without_a_key_only_a_consistent_export_is_possible(admin, postgres, tmp_path, what):
    await admin.execute("create table t as select 1 as n")
    with pytest.raises(ExportError, match=r"consistent=True"):
        await Export.prepare(postgres.url, **what, to=str(tmp_path / "t.csv"))
    await export(postgres.url, **what, to=str(tmp_path / "t.csv"), consistent=True, header=False)
    assert (tmp_path / "t.csv").read_text() == "1\n"


async def test_a_large_table_without_an_index_on_the_key_is_refused(admin, postgres, tmp_path):
    """Every chunk would sort all of it."""
    await admin.execute(
        "create table t as select g as k, 1 as n from generate_series(1, 600000) g; analyze t"
    )
    for key in (["k"], ["k", "n"]):
        with pytest.raises(ExportError, match=r"sort about [56]\d\d,\d\d\d rows.*no index"):
            await Export.prepare(postgres.url, table="t", key=key, to=str(tmp_path / "t.csv"))
    await admin.execute("create index on t (k)")
    made = await Export.prepare(postgres.url, table="t", key="k", to=str(tmp_path / "t.csv"))
    assert made.prepared.rows_total == pytest.approx(600_000, rel=0.05)
