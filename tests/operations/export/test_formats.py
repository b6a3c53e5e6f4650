"""What a reader of the files finds."""

import csv
import gzip
import io
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow.csv
import pyarrow.parquet
import pytest
import pytest_asyncio
from backports import zstd

from tests.operations.export.driving import export, files

pytestmark = pytest.mark.asyncio

AWKWARD = [
    "", "\\", "\\.", '"', '""', "a,b", "line\nbreak", "carriage\rreturn", "\r\n", "tab\t", "NULL",
    "ünïcödé 💾", "\x01\x02\x7f", "\u2028", "'; drop table t; --", "{}", "$1", "{\"a\": 1}", " x ",
]  # fmt: skip


@pytest_asyncio.fixture
async def url(admin, postgres):
    await admin.execute("create table t (id int primary key, text text, note text)")
    await admin.executemany(
        "insert into t values ($1, $2, $3)",
        [(place, text, None) for place, text in enumerate(AWKWARD)],
    )
    return postgres.url


async def test_csv_reads_back_with_nulls_apart_from_empty_texts(url, tmp_path):
    await export(url, table="t", to=str(tmp_path / "t.csv"), size=1)
    text = (tmp_path / "t.csv").read_bytes().decode()
    lines = list(csv.reader(io.StringIO(text, newline="")))
    assert lines[0] == ["id", "text", "note"]
    assert [(int(id_), text, note) for id_, text, note in lines[1:]] == [
        (place, text, "") for place, text in enumerate(AWKWARD)
    ]
    assert '0,"",\n' in text


async def test_notices_cost_no_rows(admin, postgres, tmp_path):
    """asyncpg forgets rows that come in one packet with a notice."""
    await admin.execute(
        """create function told(n int) returns int stable language plpgsql as $$
        begin
            if n % 3 = 0 then raise info '%', n; end if;
            return n;
        end $$;
        create table many (n int primary key);
        insert into many select generate_series(1, 5000);
        analyze many"""
    )
    await export(
        postgres.url, query="select n, told(n) from many", key=["n"],
        to=str(tmp_path / "t.csv"), size=2000,
    )  # fmt: skip
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == [f"{n},{n}" for n in range(1, 5001)]


async def test_csv_options_are_those_of_copy(url, tmp_path):
    await export(
        url, query="select id, note from t where id < 2", key=["id"], to=str(tmp_path / "t.csv"),
        header=False, delimiter=";", null="NIL",
    )  # fmt: skip
    assert (tmp_path / "t.csv").read_bytes() == b"0;NIL\n1;NIL\n"


@pytest.mark.parametrize("suffix", [".tsv", ".tab", ".TSV", ".tsv.gz", ".tab.zstd"])
async def test_tsv_has_tabs(url, tmp_path, suffix):
    """As load expects it."""
    path = tmp_path / f"t{suffix}"
    await export(url, query="select id, note from t where id < 2", key="id", to=str(path))
    unpack = {".gz": gzip.decompress, ".zstd": zstd.decompress}.get(path.suffix, bytes)
    assert unpack(path.read_bytes()) == b"id\tnote\n0\t\n1\t\n"


async def test_a_delimiter_that_is_given_counts_more_than_the_name(url, tmp_path):
    await export(
        url, query="select id, note from t where id < 1", key=["id"], to=str(tmp_path / "t.tsv"),
        delimiter=";", header=False,
    )  # fmt: skip
    assert (tmp_path / "t.tsv").read_bytes() == b"0;\n"


@pytest.mark.parametrize(
    ("given", "name", "codec"),
    [
        ({}, "part-000001.csv", None),
        ({"compression": "gzip"}, "part-000001.csv.gz", None),
        ({"compression": "zstd", "format": "ndjson"}, "part-000001.ndjson.zst", None),
        ({"format": "parquet"}, "part-000001.parquet", "SNAPPY"),
        ({"format": "parquet", "compression": "none"}, "part-000001.parquet", "UNCOMPRESSED"),
        ({"format": "parquet", "compression": "gzip"}, "part-000001.parquet", "GZIP"),
    ],
)
async def test_the_words_for_compressions_are_those_of_load(url, tmp_path, given, name, codec):
    made = await export(url, table="t", to=str(tmp_path / "parts"), **given)
    assert list(files(tmp_path / "parts")) == [name]
    assert made.prepared.spec["compression"] in {None, "none", "gzip", "zstd"}
    if codec is not None:
        metadata = pyarrow.parquet.read_metadata(tmp_path / "parts" / name)
        assert metadata.row_group(0).column(1).compression == codec


async def test_csv_loads_back_into_postgresql_by_copy(admin, url, tmp_path):
    await export(url, table="t", to=str(tmp_path / "t.csv"), size=2)
    await admin.execute("create table u (like t)")
    await admin.copy_to_table("u", source=tmp_path / "t.csv", format="csv", header=True)
    assert await admin.fetchval("select count(*) from (table t except table u) x") == 0
    assert await admin.fetchval("select count(*) from u") == len(AWKWARD)


async def test_ndjson_has_one_object_per_line_whatever_is_in_it(url, tmp_path):
    await export(url, table="t", to=str(tmp_path / "t.ndjson"), size=3)
    lines = (tmp_path / "t.ndjson").read_bytes().decode().removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == [
        {"id": place, "text": text, "note": None} for place, text in enumerate(AWKWARD)
    ]


async def test_json_values_written_over_several_lines_stay_on_one(postgres, tmp_path):
    """A column of type json keeps its line breaks, and so do arrays of it."""
    await export(
        postgres.url,
        query="""select 1 as j, e'{"a":\\n [1,\\r\\n2]}'::json as one,
                 array[e'{\\n}'::json] as many, 'x' as q""",
        key=["j"],
        to=str(tmp_path / "t.jsonl"),
    )
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"j": 1, "one": {"a": [1, 2]}, "many": [{}], "q": "x"}]


@pytest.mark.parametrize(
    ("suffix", "unpack"), [(".gz", gzip.decompress), (".zst", zstd.decompress)], ids=["gz", "zst"]
)
async def test_compressed_files_hold_what_plain_ones_do(url, tmp_path, suffix, unpack):
    """Each chunk is a member or frame of its own; readers take them as one."""
    await export(url, table="t", to=str(tmp_path / "t.csv"), size=2)
    await export(url, table="t", to=str(tmp_path / f"t.csv{suffix}"), size=2)
    packed = (tmp_path / f"t.csv{suffix}").read_bytes()
    assert unpack(packed) == (tmp_path / "t.csv").read_bytes()


TYPES = """
select 1::int2 as small, 2::int4 as int, 9007199254740993::int8 as big, 0.1::float4 as real,
       0.1::float8 as double, 12345678901234567890.12::numeric(30, 2) as fixed,
       1.50::numeric as free,
       true as yes, false as no, date '2024-02-29' as day, time '12:34:56.789' as clock,
       timestamp '2024-02-29 12:34:56.123456' as local,
       timestamptz '2024-02-29 12:34:56+02' as at,
       '\\x00ff'::bytea as bytes, 'ab12c8f4-0000-4000-8000-000000000001'::uuid as uuid,
       '{"a": 1}'::jsonb as json, array[1, 2] as many, interval '1 day' as span,
       '' as empty, null::text as nothing, null::int as no_number, null::bytea as no_bytes"""


async def test_parquet_keeps_types_and_nulls(admin, postgres, tmp_path):
    await admin.execute(f"create table t as {TYPES}")
    await export(postgres.url, table="t", key=["int"], to=str(tmp_path / "t.parquet"))
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    (row,) = table.to_pylist()
    assert row.pop("real") == pytest.approx(0.1)
    assert row == {
        "small": 1, "int": 2, "big": 9007199254740993, "double": 0.1,
        "fixed": Decimal("12345678901234567890.12"), "free": "1.50", "yes": True, "no": False,
        "day": date(2024, 2, 29), "clock": time(12, 34, 56, 789000),
        "local": datetime(2024, 2, 29, 12, 34, 56, 123456),  # noqa: DTZ001 - it has no zone
        "at": datetime(2024, 2, 29, 10, 34, 56, tzinfo=UTC),
        "bytes": b"\x00\xff", "uuid": "ab12c8f4-0000-4000-8000-000000000001",
        "json": '{"a": 1}', "many": "{1,2}", "span": "1 day",
        "empty": "", "nothing": None, "no_number": None, "no_bytes": None,
    }  # fmt: skip
    assert str(table.schema.field("small").type) == "int16"


async def test_parquet_reads_back_awkward_texts(url, tmp_path):
    await export(url, table="t", to=str(tmp_path / "t.parquet"), size=2)
    rows = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert rows == [{"id": i, "text": text, "note": None} for i, text in enumerate(AWKWARD)]


async def test_a_value_longer_than_a_block_fits_into_parquet(postgres, tmp_path):
    """Blocks are 16 MiB, values may be longer."""
    await export(
        postgres.url,
        query="select 1 as id, repeat('x', 20 * 1024 * 1024) as long",
        key=["id"],
        to=str(tmp_path / "t.parquet"),
    )
    (row,) = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert row["long"] == "x" * 20 * 1024 * 1024


async def test_part_files_together_hold_every_row_once(admin, postgres, tmp_path):
    await admin.execute(
        "create table t as select g as id, md5(g::text) as text from generate_series(1, 5000) g"
    )
    await admin.execute("alter table t add primary key (id)")
    await export(postgres.url, table="t", to=str(tmp_path / "parts"), part_bytes=20_000, size=20)
    found = files(tmp_path / "parts")
    assert list(found) == [f"part-{n:06}.csv" for n in range(1, len(found) + 1)]
    assert len(found) > 5
    bodies = [content.split(b"\n", 1) for content in found.values()]
    assert {header for header, _ in bodies} == {b"id,text"}
    ids = [int(line.split(b",")[0]) for _, body in bodies for line in body.splitlines()]
    assert ids == list(range(1, 5001))
    sizes = [len(content) for content in found.values()]
    assert all(20_000 <= size < 30_000 for size in sizes[:-1])


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet"])
@pytest.mark.parametrize("parts", [True, False])
async def test_an_empty_table_gives_one_file_without_rows(admin, postgres, tmp_path, form, parts):
    """Whoever reads the files needs no special case, and sees the columns."""
    await admin.execute("create table t (id int primary key, text text)")
    to = tmp_path / ("out" if parts else f"out.{form}")
    await export(postgres.url, table="t", to=str(to), format=form)
    path = to / f"part-000001.{form}" if parts else to
    if form == "parquet":
        table = pyarrow.parquet.read_table(path)
        assert (table.num_rows, table.column_names) == (0, ["id", "text"])
    else:
        assert path.read_bytes() == (b"id,text\n" if form == "csv" else b"")


async def test_times_do_not_depend_on_who_exports(admin, postgres, tmp_path):
    await admin.execute(f"alter database {postgres.name} set timezone = 'Asia/Tokyo'")
    await admin.execute(f"alter database {postgres.name} set datestyle = 'German'")
    await export(
        postgres.url,
        query="select timestamptz '2024-02-29 12:00+00' as at, date '2024-02-29' as day",
        key=["at"],
        to=str(tmp_path / "t.csv"),
    )
    assert (tmp_path / "t.csv").read_text() == "at,day\n2024-02-29 12:00:00+00,2024-02-29\n"
