"""Where records end: PostgreSQL's own COPY is the judge."""

import asyncio
import io

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poolkeeper.operations.load.csv_records import CsvRecords, line_end_of, parse_header

FIELDS = ["", "a", '"x"', '"a""b"', '"a\nb"', '"\n"', 'a"b"c', '"\r\n"', "\\.", '""', "\\", '"\\."']
ESCAPED = ["", "a", "'x'", "'a\\'b'", "'a\n\\\\'", "'\\x\n'", "\\", 'a"b', "'\\''"]


@pytest.fixture(scope="module")
def copy_rows(postgres_server):
    """Runs COPY of some bytes and gives (status, rows), or the SQLSTATE."""
    url = postgres_server.create_database("csv_records")
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(url))
    loop.run_until_complete(connection.execute("create table t (n serial, a text, b text)"))

    async def copy(pieces, options):
        statuses = []
        await connection.execute("truncate t restart identity")
        try:
            for piece in pieces:
                status = await connection.copy_to_table(
                    "t", source=io.BytesIO(piece), format="csv", columns=["a", "b"], **options
                )
                statuses.append(int(status.split()[1]))
        except asyncpg.PostgresError as error:
            return error.sqlstate
        return statuses, [tuple(row) for row in await connection.fetch("select a, b from t")]

    try:
        yield lambda pieces, **options: loop.run_until_complete(copy(pieces, options))
    finally:
        loop.run_until_complete(connection.close())
        loop.close()
        postgres_server.drop_database("csv_records")


def pieces_of(records: CsvRecords, data: bytes, size: int) -> tuple[list[bytes], list[int]]:
    """Cut as a reader does, with pieces of about ``size`` bytes."""
    pieces, counts = [], []
    begin = 0
    while begin < len(data):
        end = min(begin + size, len(data))
        while True:
            scan = records.scan(data, begin, end)
            if scan.records or end == len(data):
                break
            end = min(end + size, len(data))
        stop, count = scan.end, scan.records
        if end == len(data) and stop < end:
            assert not scan.open_quote
            stop, count = end, count + 1
        pieces.append(data[begin:stop])
        counts.append(count)
        begin = stop
    return pieces, counts


PROFILE = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@PROFILE
@given(
    rows=st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(FIELDS)), max_size=12),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    size=st.integers(1, 40),
    torn=st.booleans(),
)
@example(rows=[('"a\nb"', "c"), ("", "")], line_end="\n", size=1, torn=True)
def test_rows_loaded_by_chunk_are_those_of_one_copy(copy_rows, rows, line_end, size, torn):
    """Any size of chunk, any line end, with and without the last one."""
    data = line_end.join(f"{a},{b}" for a, b in rows).encode()
    if rows and not torn:
        data += line_end.encode()
    found = line_end_of(data, b'"', None) or b"\n"
    records = CsvRecords(b'"', None, found)
    pieces, counts = pieces_of(records, data, size)
    assert b"".join(pieces) == data
    whole = copy_rows([data])
    assert whole[0] == [sum(counts)]
    assert copy_rows(pieces) == (counts, whole[1])
    for piece, count in zip(pieces, counts, strict=True):
        bounds = list(records.bounds(piece))
        assert len(bounds) == count
        assert b"".join(piece[b.begin : b.end] for b in bounds) == piece


@PROFILE
@given(
    rows=st.lists(st.tuples(st.sampled_from(ESCAPED), st.sampled_from(ESCAPED)), max_size=10),
    size=st.integers(1, 40),
)
def test_another_escape_is_followed_as_the_server_does(copy_rows, rows, size):
    """QUOTE and ESCAPE of the user's own."""
    data = "".join(f"{a},{b}\n" for a, b in rows).encode()
    records = CsvRecords(b"'", b"\\", b"\n")
    pieces, counts = pieces_of(records, data, size)
    options = {"quote": "'", "escape": "\\"}
    whole = copy_rows([data], **options)
    assert whole[0] == [sum(counts)]
    assert copy_rows(pieces, **options) == (counts, whole[1])


def reference(data: bytes, quote: int, escape: int | None, newline: int) -> tuple[list[int], bool]:
    """CopyReadLineText, byte by byte."""
    in_quote = last_was_escape = False
    ends = []
    for at, byte in enumerate(data):
        if in_quote and byte == escape:
            last_was_escape = not last_was_escape
        if byte == quote and not last_was_escape:
            in_quote = not in_quote
        if byte != escape:
            last_was_escape = False
        if byte == newline and not in_quote:
            ends.append(at + 1)
    return ends, in_quote


@settings(max_examples=1000, deadline=None)
@given(
    data=st.lists(st.sampled_from(b"\"\n\ra\\'"), max_size=16).map(bytes),
    escape=st.sampled_from([None, b"\\", b"'"]),
    line_end=st.sampled_from([b"\n", b"\r"]),
)
def test_scan_agrees_with_a_walk_byte_by_byte(data, escape, line_end):
    """On any bytes at all, whether they are CSV or not."""
    ends, in_quote = reference(data, 0x22, escape[0] if escape else None, line_end[0])
    records = CsvRecords(b'"', escape, line_end)
    scan = records.scan(b"x\n" + data, 2)
    assert scan.records == len(ends)
    assert scan.end == (ends[-1] if ends else 0) + 2
    assert scan.open_quote is in_quote
    assert scan.lines == data[: scan.end - 2].count(line_end)


def test_bounds_name_the_line_each_record_begins_at():
    """Line ends within quotes count."""
    data = b'a,"1\n2"\nb,2\n\n"c",\n'
    lines = [bounds.line for bounds in CsvRecords().bounds(data, line=10)]
    assert lines == [10, 12, 13, 14]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_record_that_ends_copy_is_quoted(line_end):
    """Only when it is a record: not within quotes, not as part of a line."""
    lines = [b"a", b"\\.", b'"x', b"\\.", b'"', b"\\.b", b"\\."]
    data = line_end.join(lines)
    expected = line_end.join([b"a", b'"\\."', b'"x', b"\\.", b'"', b"\\.b", b'"\\."'])
    assert CsvRecords().protect_end_of_copy(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\nb\r", b"\n"),
        (b"a\r\nb", b"\n"),
        (b"a\rb\n", b"\r"),
        (b'"a\r",b\n', b"\n"),
        (b'"a\n",b\rc', b"\r"),
        (b'"a\n', None),
        (b"", None),
    ],
)
def test_line_end_is_that_of_the_first_record(data, expected):
    """As COPY decides it."""
    assert line_end_of(data, b'"', None) == expected


def test_header_is_parsed_like_a_row():
    """Quotes, doubled and escaped; names without the blanks around them."""
    assert parse_header('a,"b,c", d ,"e""f"', ",", '"', None) == ["a", "b,c", "d", 'e"f']
    assert parse_header("a;'b\\'c'", ";", "'", "\\") == ["a", "b'c"]
