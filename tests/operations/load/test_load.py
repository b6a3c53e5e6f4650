"""Files of every kind end up in tables, row for row."""

import gzip
import json
from urllib.parse import urlsplit

import pytest

from poolkeeper import create_pool
from poolkeeper.operations import OperationError, OperationState
from poolkeeper.operations.kind import Sizing
from poolkeeper.operations.load.run import LoadRun

pytestmark = pytest.mark.asyncio


async def rows(admin, query="SELECT * FROM t ORDER BY 1"):
    return [tuple(row) for row in await admin.fetch(query)]


async def test_csv_is_matched_with_the_table_by_name(load, admin):
    """In any order, in any case; what the file lacks gets the table's default."""
    await admin.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text, at date DEFAULT '2000-01-01')"
    )
    status = await load('NAME,id\n"a\nb",1\n,2\n"",3\n')
    assert status.state is OperationState.DONE
    assert (status.rows_done, status.bytes_done) == (3, status.bytes_total)
    assert await rows(admin, "SELECT id, name, at::text FROM t ORDER BY 1") == [
        (1, "a\nb", "2000-01-01"),
        (2, None, "2000-01-01"),
        (3, "", "2000-01-01"),
    ]


async def test_chunks_meet_without_loss_or_doubling(load, admin, monkeypatch):
    """However small they are."""
    monkeypatch.setattr(LoadRun, "sizing", Sizing(1, 1, 50))
    await admin.execute("CREATE TABLE t (n int, s text)")
    data = "n,s\r\n" + "".join(f'{n},"x\r\n{n}"\r\n' for n in range(100))
    status = await load(data)
    assert status.rows_done == 100
    assert status.seq > 20
    assert await rows(admin) == [(n, f"x\r\n{n}") for n in range(100)]


async def test_options_of_csv_are_those_of_copy(load, admin):
    """Delimiter, quote, escape, null; without a header columns are named or taken in order."""
    await admin.execute("CREATE TABLE t (n int, s text)")
    options = {"delimiter": "|", "quote": "'", "escape": "\\", "null": "NIL"}
    await load("s|n\n'it\\'s'|1\nNIL|2\n||\n".replace("||\n", "|3\n"), **options)
    assert await rows(admin) == [(1, "it's"), (2, None), (3, "")]
    await load("4,d\n5,e\n", file="plain.csv", header=False)
    await load("f,6\n", file="named.csv", columns=["s", "n"])
    await load("7\tg\n", file="x.tsv", header=False)
    assert (await rows(admin))[3:] == [(4, "d"), (5, "e"), (6, "f"), (7, "g")]


async def test_columns_can_be_mapped_skipped_filled_and_computed(load, admin):
    """Through a temporary table, with the same meaning of every value."""
    await admin.execute(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, code varchar(5), total numeric(8, 2),"
        " source text, tags int[], twice int GENERATED ALWAYS AS (length(code) * 2) STORED)"
    )
    status = await load(
        'Ref,price,qty,junk,tags\nab,1.50,2,zz,"{1,2}"\ncd,0.333,3,,\n',
        map={"Ref": "code"},
        skip=["junk"],
        defaults={"source": "it's \\ here"},
        set={"total": "price::numeric * qty::int"},
    )
    assert status.rows_done == 2
    assert await rows(
        admin, "SELECT code, total::text, source, tags, twice FROM t ORDER BY id"
    ) == [
        ("ab", "3.00", "it's \\ here", [1, 2], 4),
        ("cd", "1.00", "it's \\ here", None, 4),
    ]


async def test_value_too_long_is_refused_also_through_a_temporary_table(load, admin, rejects):
    """A cast would have cut it."""
    await admin.execute("CREATE TABLE t (code varchar(3), note text)")
    await load("code,x\nabc,\nabcd,\n", skip=["x"], on_bad_row="reject")
    assert await rows(admin) == [("abc", None)]
    assert await rejects() == [(3, "abcd,", "22001")]


async def test_rows_there_already_can_be_left_out(load, admin):
    """ON CONFLICT DO NOTHING; only what was inserted counts."""
    await admin.execute(
        "CREATE TABLE t (id int PRIMARY KEY, s text); INSERT INTO t VALUES (1, 'old')"
    )
    status = await load("id,s\n1,new\n2,new\n2,again\n", on_conflict="nothing")
    assert status.rows_done == 1
    assert await rows(admin) == [(1, "old"), (2, "new")]


async def test_ndjson_fills_columns_by_its_keys(load, admin):
    """Numbers, texts, arrays, objects and nulls; a key may be missing or come late."""
    await admin.execute(
        "CREATE TABLE t (id int, name text, tags text[], doc jsonb, late float8, at timestamptz"
        " DEFAULT '2000-01-01Z')"
    )
    records = [
        {"id": 1, "name": 'a\n"b\\', "tags": ["x", "y,z"], "doc": {"k": [1, None]}},
        {"id": 2, "name": None, "doc": None},
        {"id": 3, "late": 1.5, "name": "\N{SNOWMAN}"},
    ]
    data = "\n\n".join(json.dumps(record) for record in records)
    status = await load(data, file="rows.ndjson")
    assert status.rows_done == 3
    assert await rows(
        admin, "SELECT id, name, tags, doc::text, late, at IS NULL FROM t ORDER BY 1"
    ) == [
        (1, 'a\n"b\\', ["x", "y,z"], '{"k": [1, null]}', None, False),
        (2, None, None, None, None, False),
        (3, "\N{SNOWMAN}", None, None, 1.5, False),
    ]


async def test_ndjson_with_a_key_that_has_no_place_is_refused(load, admin, rejects):
    """Nothing is lost without a word: not a late key, nor a record that is no object."""
    await admin.execute("CREATE TABLE t (id int)")
    data = "".join(f'{{"id": {n}}}\n' for n in range(2000)) + '{"id": 9, "new": 1}\n17\n{"id": \n'
    await load(data, file="rows.ndjson", on_bad_row="reject")
    assert len(await rows(admin)) == 2000
    assert [(line, state) for line, _, state in await rejects()] == [
        (2001, "23514"),
        (2002, "23514"),
        (2003, "22P02"),
    ]
    said = [row["message"] for row in await admin.fetch("SELECT message FROM poolkeeper.rejects")]
    assert said[:2] == ["the JSON object has a key that goes nowhere", "not a JSON object"]
    with pytest.raises(OperationError, match=r"has a column 'x'.*--map x=COLUMN, or .*--skip x"):
        await load('{"id": 1, "x": 2}\n', file="two.ndjson")
    await load('{"id": 1, "x": 2}\n', file="two.ndjson", skip=["x"], name="again")
    assert len(await rows(admin)) == 2001


async def test_ndjson_can_go_whole_into_one_column(load, admin):
    """As json, jsonb or text, byte for byte; with other columns beside it."""
    await admin.execute("CREATE TABLE t (doc json); CREATE TABLE u (doc text, day date, kind text)")
    data = '{"b": 1,  "a": "\\n"}\n[1]\n'
    await load(data, file="rows.jsonl", column="doc")
    assert await rows(admin, "SELECT doc::text FROM t") == [('{"b": 1,  "a": "\\n"}',), ("[1]",)]
    await load(
        data,
        file="rows.jsonl",
        into="u",
        column="doc",
        defaults={"day": "2024-02-29"},
        set={"kind": "jsonb_typeof(document)"},
    )
    assert await rows(admin, "SELECT day::text, kind FROM u") == [
        ("2024-02-29", "object"),
        ("2024-02-29", "array"),
    ]


async def test_compressed_and_encoded_files_are_read(load, admin):
    """gzip by content, LATIN1 by name, UTF-16 by its mark."""
    await admin.execute("CREATE TABLE t (s text)")
    text = "s\nZoë\n"
    await load(gzip.compress(text.encode()), file="a.csv.gz")
    await load(gzip.compress(text.encode()), file="b.csv")
    await load(text.encode("latin-1"), file="c.csv", encoding="iso-8859-1")
    await load(text.encode("utf-16"), file="d.csv")
    await load(text.encode("utf-8-sig"), file="e.csv")
    await load(text.encode("cp1140"), file="f.csv", encoding="cp1140")
    assert await rows(admin) == [("Zoë",)] * 6


async def test_a_backslash_and_a_dot_are_data(load, admin):
    """On every version of the server."""
    await admin.execute("CREATE TABLE t (s text)")
    status = await load("s\na\n\\.\nb\n")
    assert status.rows_done == 3
    assert await rows(admin) == [("\\.",), ("a",), ("b",)]


async def test_the_table_is_found_as_sql_finds_it_or_as_it_is_written(load, admin):
    """Schemas, capitals, blanks; other schemas need their name."""
    await admin.execute(
        'CREATE SCHEMA "My S"; CREATE TABLE "My S"."T a" (n int); CREATE TABLE "Upper" (n int);'
        "CREATE TABLE orders (n int)"
    )
    for number, into in enumerate(["My S.T a", '"My S"."T a"', "Upper", "ORDERS", "public.orders"]):
        await load("n\n1\n", into=into, file=f"{number}.csv")
    assert await admin.fetchval('SELECT count(*) FROM "My S"."T a"') == 2
    assert await admin.fetchval("SELECT count(*) FROM orders") == 2
    with pytest.raises(OperationError, match=r"no table 'order'. Suggestion: did you mean orders"):
        await load("n\n1\n", into="order")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("id,nmae\n", {}, r"column 'nmae'.*it has id, name.*--map nmae=name, .*--skip nmae"),
        ("id;name\n", {}, r"has no ','.*--delimiter ';'"),
        ("id,name,name\n", {}, r"two columns 'name'"),
        ("id,\n", {}, r"Column 2 of .* has no name"),
        ("name\na\n", {}, r"needs a value for id.*--default id=VALUE"),
        ("id,name\n", {"skip": ["nam"]}, r"--skip names a column 'nam'.*did you mean 'name'"),
        ("id,name\n", {"map": {"name": "nmae"}}, r"mapped to 'nmae'.*did you mean name"),
        ("id,a,b\n", {"map": {"a": "name", "b": "name"}}, r"both go into name"),
        ("id,name\n", {"set": {"nam": "1"}}, r"--set names a column 'nam'.*did you mean name"),
        ("id,name\n", {"set": {"name": "lower(nme)"}}, r'"nme" of the file.*did you mean "name"'),
        ("id,name\n", {"set": {"name": "nix(id)"}}, r"The database refuses.*nix"),
        ("id,name\n", {"defaults": {"name": "x"}}, r"default value.*--skip name"),
        ("id,g\n", {}, r"generated.*--skip g"),
        ("1,2,3\n", {"header": False}, r"has 3 fields, but public.t has 2 columns"),
        ("id,name\n1,a\n", {"columns": ["ID", "name"]}, r"very names"),
        ("id,name\n", {"columns": ["id"], "header": True}, r"1 columns were named.*has 2"),
        ("id,name\n", {"delimiter": ",,"}, r"delimiter is ',,'"),
        ("id,name\n", {"format": "xml"}, r"format is 'xml'.*csv, ndjson, parquet"),
        ("id,name\n", {"encoding": "LATIN99"}, r"known to neither.*did you mean LATIN9"),
        ("", {}, r"is empty: it has no header"),
    ],
)
async def test_what_does_not_fit_is_said_before_anything_is_loaded(
    load, admin, data, options, message
):
    """With what there is, and what to do."""
    await admin.execute(
        "CREATE TABLE t (id int NOT NULL, name text, g int GENERATED ALWAYS AS (1) STORED)"
    )
    with pytest.raises(OperationError, match=message) as caught:
        await load(data, **options)
    assert "poolkeeper_load" not in str(caught.value)
    assert not await admin.fetchval("SELECT count(*) FROM poolkeeper.operations")


async def test_views_and_temporary_tables_are_refused(load, admin):
    """A load may continue in another session."""
    await admin.execute("CREATE VIEW v AS SELECT 1 AS n")
    with pytest.raises(OperationError, match="is no table"):
        await load("n\n1\n", into="v")


async def test_rows_that_policies_filter_are_inserted(admin, postgres, tmp_path):
    """COPY refuses such tables; INSERT does not, and the policy decides row by row."""
    await admin.execute(
        "CREATE TABLE t (n int); ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY p ON t USING (true) WITH CHECK (n < 10);"
        "CREATE ROLE policed LOGIN PASSWORD 'secret'; GRANT ALL ON t TO policed;"
        f"GRANT CREATE ON DATABASE {postgres.name} TO policed"
    )
    path = tmp_path / "rows.csv"
    path.write_text("n\n1\n2\n")
    parts = urlsplit(postgres.url)
    url = parts._replace(netloc=f"policed:secret@{parts.hostname}:{parts.port}").geturl()
    try:
        async with create_pool(url, min_size=0, max_size=2) as pool:
            status = await (await pool.operations.load(path, into="t")).run()
        assert status.rows_done == 2
        assert await rows(admin) == [(1,), (2,)]
    finally:
        await admin.execute("DROP OWNED BY policed CASCADE; DROP ROLE policed")


async def test_values_mean_the_same_in_every_session(admin, pool, postgres, tmp_path):
    """Date style and time zone of the session that created the load decide."""
    await admin.execute("CREATE TABLE t (d date, at timestamptz)")
    await admin.execute(f"ALTER DATABASE {postgres.name} SET DateStyle = 'ISO, DMY'")
    await admin.execute(f"ALTER DATABASE {postgres.name} SET TimeZone = 'Asia/Tokyo'")
    path = tmp_path / "rows.csv"
    path.write_text("d,at\n01/02/2024,2024-01-01 00:00\n")
    await pool.operations.load(path, into="t", name="dates")
    await admin.execute(f"ALTER DATABASE {postgres.name} RESET ALL")
    async with create_pool(postgres.url, min_size=0, max_size=2) as other:
        await (await other.operations.get("dates")).run()
    assert await rows(admin, "SELECT d::text, (at AT TIME ZONE 'UTC')::text FROM t") == [
        ("2024-02-01", "2023-12-31 15:00:00")
    ]


async def test_trigger_may_leave_rows_out(load, admin):
    """They are not counted, and the load goes on."""
    await admin.execute(
        "CREATE TABLE t (n int);"
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.n % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER odd BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd()"
    )
    status = await load("n\n1\n2\n3\n")
    assert status.rows_done == 2
    assert await rows(admin) == [(1,), (3,)]


async def test_partitioned_table_is_loaded(load, admin):
    """Rows go into their partitions; one that fits none is bad."""
    await admin.execute(
        "CREATE TABLE t (n int) PARTITION BY RANGE (n);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)"
    )
    status = await load("n\n1\n20\n3\n", on_bad_row="reject")
    assert (status.rows_done, status.rows_rejected) == (2, 1)


async def test_loaded_file_is_not_loaded_twice_unless_asked(load, admin, pool, tmp_path):
    """Nor does another file of that name count as loaded."""
    await admin.execute("CREATE TABLE t (n int)")
    await load("n\n1\n")
    await load(None)
    assert await rows(admin) == [(1,)]
    await load(None, again=True)
    assert await rows(admin) == [(1,), (1,)]
    await load("n\n2\n")
    assert await rows(admin) == [(1,), (1,), (2,)]
