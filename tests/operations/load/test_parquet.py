"""Parquet in pieces, and in tables."""

import datetime as dt
from decimal import Decimal

import pytest

from poolkeeper.operations.kind import Sizing
from poolkeeper.operations.load.errors import SourceError
from poolkeeper.operations.load.parquet import ParquetReader
from poolkeeper.operations.load.run import LoadRun

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.parquet"


def write(path, table, **options):
    pq.write_table(table, path, **options)
    return str(path)


def read_all(reader, size):
    pieces = []
    while (piece := reader.read(size)) is not None:
        pieces.append(piece)
    return pieces


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
@pytest.mark.parametrize("group", [7, 500, 10_000])
def test_pieces_meet_and_can_be_begun_anywhere(path, size, group):
    """Within row groups and between them."""
    count = 1500
    table = pa.table({"n": range(count), "s": [f'a"{n}\n' for n in range(count)]})
    name = write(path, table, row_group_size=group)
    expected = b"".join(b'%d,"a""%d\n"\n' % (n, n) for n in range(count))
    pieces = read_all(ParquetReader(name), size)
    assert b"".join(piece.data for piece in pieces) == expected
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    row = 1
    for piece in pieces:
        assert piece.first_line == row
        assert len(piece.bounds()) == piece.records
        row += piece.records
    middle = pieces[len(pieces) // 2]
    reader = ParquetReader(name)
    reader.open(middle.start)
    again = b"".join(piece.data for piece in read_all(reader, 333))
    assert expected.endswith(again)
    assert again.startswith(middle.data[:100])


def test_empty_files_end_at_once(path):
    """Without rows, or without row groups."""
    table = pa.table({"n": pa.array([], pa.int32())})
    assert read_all(ParquetReader(write(path, table)), 100) == []


def test_what_is_no_parquet_is_said(path):
    """Another format, a torn file, a type that has no text."""
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(SourceError, match="is no Parquet file that can be read"):
        ParquetReader(str(path))
    table = pa.table({"n": [1], "span": pa.array([1], pa.duration("ns"))})
    name = write(path, table)
    with pytest.raises(SourceError, match=r"Column 'span' .* duration\[ns\].*--skip span"):
        ParquetReader(name)
    assert read_all(ParquetReader(name, ["n"]), 10)[0].data == b"1\n"


@pytest.mark.asyncio
async def test_every_type_arrives(pool, admin, path, monkeypatch):
    """Nulls, empty texts, nested values, times with zones, bytes, decimals."""
    monkeypatch.setattr(LoadRun, "sizing", Sizing(1, 1, 1))
    moment = dt.datetime(2024, 2, 29, 12, 30, 1, 123456)  # noqa: DTZ001 - Parquet has them
    zoned = moment.replace(tzinfo=dt.timezone(dt.timedelta(hours=2)), microsecond=123000)
    columns = {
        "i": (pa.array([2**63 - 1, None]), "int8"),
        "u": (pa.array([2**64 - 1, None], pa.uint64()), "numeric"),
        "f": (pa.array([float("-inf"), None]), "float8"),
        "h": (pa.array([1.5, None], pa.float16()), "real"),
        "d": (pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)), "numeric"),
        "s": (pa.array(['"x"\n\\.', ""]), "text"),
        "cat": (pa.array(["a", None]).dictionary_encode(), "text"),
        "b": (pa.array([b"\x00\\", None]), "bytea"),
        "t": (pa.array([moment, None], pa.timestamp("ns")), "timestamp"),
        "z": (pa.array([zoned, None], pa.timestamp("ms", "Europe/Rome")), "timestamptz"),
        "day": (pa.array([dt.date(1, 2, 3), None]), "date"),
        "clock": (pa.array([dt.time(1, 2, 3, 4), None], pa.time64("ns")), "time"),
        "span": (pa.array([1500, None], pa.duration("ms")), "interval"),
        "ok": (pa.array([True, None]), "boolean"),
        "l": (pa.array([[1, None], None]), "jsonb"),
        "o": (pa.array([{"k": "v"}, None]), "jsonb"),
        "nil": (pa.nulls(2), "int"),
    }
    write(path, pa.table({name: values for name, (values, _) in columns.items()}))
    definitions = ", ".join(f"{name} {kind}" for name, (_, kind) in columns.items())
    await admin.execute(f"CREATE TABLE t ({definitions})")
    status = await (await pool.operations.load(path, into="t")).run()
    assert status.rows_done == status.rows_total == 2
    first, second = await admin.fetch("SELECT * FROM t ORDER BY i NULLS LAST")
    assert dict(first) == {
        "i": 2**63 - 1,
        "u": Decimal(2**64 - 1),
        "f": float("-inf"),
        "h": 1.5,
        "d": Decimal("1.50"),
        "s": '"x"\n\\.',
        "cat": "a",
        "b": b"\x00\\",
        "t": moment,
        "z": dt.datetime(2024, 2, 29, 10, 30, 1, 123000, tzinfo=dt.UTC),
        "day": dt.date(1, 2, 3),
        "clock": dt.time(1, 2, 3, 4),
        "span": dt.timedelta(seconds=1.5),
        "ok": True,
        "l": "[1, null]",
        "o": '{"k": "v"}',
        "nil": None,
    }
    assert {name for name, value in second.items() if value is not None} == {"s"}
    assert second["s"] == ""


@pytest.mark.asyncio
async def test_columns_can_be_left_out_and_added(pool, admin, path):
    """A column left out is not even read."""
    table = pa.table({"n": [1, 2], "junk": pa.array([1, 2], pa.duration("ns"))})
    write(path, table)
    await admin.execute("CREATE TABLE t (n int); CREATE TABLE u (n int, twice int, day date)")
    await (await pool.operations.load(path, into="t", skip=["junk"])).run()
    assert await admin.fetchval("SELECT sum(n) FROM t") == 3
    options = {"skip": ["JUNK"], "set": {"twice": "n::int * 2"}, "defaults": {"day": "2024-01-01"}}
    await (await pool.operations.load(path, into="u", **options)).run()
    assert await admin.fetchval("SELECT sum(twice) FROM u WHERE day = '2024-01-01'") == 6
