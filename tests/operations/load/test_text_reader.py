"""CSV and NDJSON in pieces, with what cannot be cut."""

import zlib

import pytest

from poolkeeper.operations.load.errors import MalformedRecordError, SourceChangedError, SourceError
from poolkeeper.operations.load.source import Source


def source_of(tmp_path, data: bytes, name="x.csv", **options) -> Source:
    path = tmp_path / name
    path.write_bytes(data)
    return Source.detect(str(path), options)


def read_all(reader, size):
    pieces = []
    while (piece := reader.read(size)) is not None:
        pieces.append(piece)
    return pieces


ROWS = b"".join(b'%d,"name\n%d"\r\n' % (i, i) for i in range(500))


@pytest.mark.parametrize("size", [1, 17, 100, 4096, 1 << 20])
def test_pieces_are_whole_records_and_leave_nothing_out(tmp_path, size):
    """Cursors meet, checksums fit, line numbers are those of the file; the last one says so."""
    pieces = read_all(source_of(tmp_path, ROWS).reader(), size)
    assert b"".join(piece.data for piece in pieces) == ROWS
    assert sum(piece.records for piece in pieces) == 500
    offset, line = 0, 1
    for piece in pieces:
        assert piece.start == {"offset": offset, "line": line}
        assert piece.first_line == line
        offset += len(piece.data)
        line += piece.data.count(b"\n")
        assert piece.end == {"offset": offset, "line": line}
        assert piece.checksum == zlib.crc32(piece.data)
        assert piece.bytes_done == offset
        assert len(piece.bounds()) == piece.records
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_reading_goes_on_at_any_cursor(tmp_path):
    """Another reader that begins at the end of a piece finds the rest, and only that."""
    source = source_of(tmp_path, ROWS)
    for piece in read_all(source.reader(), 1000):
        reader = source.reader()
        reader.open(piece.end)
        rest = b"".join(p.data for p in read_all(reader, 333))
        assert rest == ROWS[piece.end["offset"] :]


def test_last_row_needs_no_line_end(tmp_path):
    """Nor is an empty one made up where there is one."""
    for data, records in ((b"a\nb", 2), (b"a\nb\n", 2), (b"a\n\n", 2), (b"", 0), (b'"a\n"', 1)):
        pieces = read_all(source_of(tmp_path, data).reader(), 1 << 20)
        assert sum(piece.records for piece in pieces) == records


def test_byte_order_mark_is_no_data(tmp_path):
    """The first cursor is behind it."""
    source = source_of(tmp_path, b"\xef\xbb\xbfid,name\n1,a\n")
    names, cursor = source.header()
    assert names == ["id", "name"]
    assert cursor == {"offset": 11, "line": 2}
    assert read_all(source.reader(), 100)[0].start == {"offset": 3, "line": 1}


TORN = {
    "start": (b'"a,1\nb,2\nc,3\n', 1, b'"a,1'),
    "middle": (b'a,1\nb,"2\nc,3\n', 2, b'b,"2'),
    "end": (b'a,1\nb,2\nc,"3\n', 3, b'c,"3'),
    "last byte": (b'a,1\nb,2\nc,3"', 3, b'c,3"'),
}


@pytest.mark.parametrize(("data", "line", "raw"), TORN.values(), ids=TORN)
def test_torn_quote_is_an_error_with_place_and_advice(tmp_path, data, line, raw):
    """Pieces before it are handed out first."""
    reader = source_of(tmp_path, data).reader()
    good = []
    with pytest.raises(MalformedRecordError) as caught:
        while piece := reader.read(1):
            good.append(piece.data)
    assert b"".join(good) == data[: data.index(raw)]
    assert caught.value.line == line
    assert caught.value.offset == data.index(raw)
    for word in (f"line {line} ", "quote is not closed", raw.decode(), "--on-bad-row reject"):
        assert word in str(caught.value)


@pytest.mark.parametrize(("data", "line", "raw"), TORN.values(), ids=TORN)
@pytest.mark.parametrize("size", [1, 1000])
def test_torn_quote_can_be_left_out(tmp_path, data, line, raw, size):
    """It is the physical line that is left out; the ones after it are read."""
    pieces = read_all(source_of(tmp_path, data).reader(rejecting=True), size)
    rejects = [reject for piece in pieces for reject in piece.rejects]
    assert [(reject.line, reject.raw, reject.sqlstate) for reject in rejects] == [
        (line, raw, "22P04")
    ]
    assert "quote is not closed" in rejects[0].message
    kept = b"".join(piece.data for piece in pieces)
    assert kept.split() == [text for text in data.split() if text != raw]
    assert sum(piece.records for piece in pieces) == 2
    assert pieces[-1].last


def test_torn_quote_is_found_within_bounds(tmp_path):
    """It does not swallow the file: the rest is read, and little of it was held."""
    good = b"".join(b"%d,x\n" % i for i in range(3000))
    data = b'0,"x\n' + good
    source = source_of(tmp_path, data, max_record_bytes=1000)
    with pytest.raises(MalformedRecordError, match=r"longer than 1,000 bytes; most likely a quote"):
        source.reader().read(100)
    pieces = read_all(source.reader(rejecting=True), 100)
    assert b"".join(piece.data for piece in pieces) == good
    assert [reject.line for piece in pieces for reject in piece.rejects] == [1]
    first = next(piece for piece in pieces if piece.data)
    assert first.first_line == 2


def test_line_longer_than_memory_is_stepped_over(tmp_path):
    """Only its beginning is kept, and the line after it is the next."""
    data = b"a,1\n" + b"x" * 3_000_000 + b",2\nc,3\n"
    source = source_of(tmp_path, data, max_record_bytes=100_000)
    with pytest.raises(MalformedRecordError, match=r"line 2 \(byte 4\).*longer than 100,000 bytes"):
        read_all(source.reader(), 10)
    reader = source.reader(rejecting=True)
    pieces = []
    while piece := reader.read(10):
        pieces.append(piece)
        assert len(reader._buffer) < 3_000_000 // 2
    assert b"".join(piece.data for piece in pieces) == b"a,1\nc,3\n"
    (reject,) = [reject for piece in pieces for reject in piece.rejects]
    assert reject.line == 2
    assert reject.raw == b"x" * 65536
    assert pieces[-1].end == {"offset": len(data), "line": 4}
    covered = b"".join(data[p.start["offset"] : p.end["offset"]] for p in pieces)
    assert covered == data
    for piece in pieces:
        part = data[piece.start["offset"] : piece.end["offset"]]
        assert piece.checksum == zlib.crc32(part)


def test_many_torn_lines_come_in_bounded_pieces(tmp_path):
    """Rejects of one piece are bounded, so that memory is."""
    data = b'"' + b'a\n"' * 2500
    pieces = read_all(source_of(tmp_path, data, max_record_bytes=2).reader(rejecting=True), 10)
    assert max(len(piece.rejects) for piece in pieces) <= 1000
    assert pieces[-1].end["offset"] == len(data)


def test_ndjson_passes_through_without_blank_lines(tmp_path):
    """Lines keep their bytes and their numbers."""
    data = b'\n{"a":1}\n \n{"a": "\\u0000 \\\\."}\r\n\r\n{"a":3}'
    (piece,) = read_all(source_of(tmp_path, data, "x.ndjson").reader(), 1000)
    assert piece.data == b'{"a":1}\n{"a": "\\u0000 \\\\."}\r\n{"a":3}'
    assert piece.records == 3
    assert [bounds.line for bounds in piece.bounds()] == [2, 4, 6]
    assert [piece.data[b.begin : b.end].strip() for b in piece.bounds()] == [
        b'{"a":1}',
        b'{"a": "\\u0000 \\\\."}',
        b'{"a":3}',
    ]
    assert piece.checksum == zlib.crc32(data)


@pytest.mark.parametrize("bad", [b'{"a":"\x01"}', b'{"a":"\x02"}', b'{"a":"\x00"}', b"\\."])
def test_lines_that_copy_would_misread_are_no_json(tmp_path, bad):
    """They are named, or left out."""
    data = b'{"a":1}\n' + bad + b'\n{"a":2}\n'
    source = source_of(tmp_path, data, "x.jsonl")
    with pytest.raises(MalformedRecordError, match="line 2") as caught:
        source.reader().read(1000)
    assert caught.value.line == 2
    (piece,) = read_all(source.reader(rejecting=True), 1000)
    assert piece.data == b'{"a":1}\n{"a":2}\n'
    assert piece.records == 2
    assert [(reject.line, reject.raw) for reject in piece.rejects] == [(2, bad)]


def test_quotes_mean_nothing_in_ndjson(tmp_path):
    """A torn quote is one bad line, which the database will refuse."""
    data = b'{"a":"1}\n{"a":2}\n'
    pieces = read_all(source_of(tmp_path, data, "x.ndjson").reader(), 1)
    assert [piece.data for piece in pieces] == [b'{"a":"1}\n', b'{"a":2}\n']


def test_lines_may_end_with_carriage_returns_alone(tmp_path):
    """As files of old Macs do."""
    data = b'id,name\r1,"a\rb"\r2,c\r'
    source = source_of(tmp_path, data)
    names, cursor = source.header()
    assert names == ["id", "name"]
    reader = source.reader()
    reader.open(cursor)
    pieces = read_all(reader, 1)
    assert [piece.data for piece in pieces] == [b'1,"a\rb"\r', b"2,c\r"]
    assert [piece.first_line for piece in pieces] == [2, 4]


def test_file_that_grows_shrinks_or_is_touched_meanwhile_is_noticed(tmp_path):
    """Also when what was read is not concerned."""
    path = tmp_path / "x.csv"

    def grow():
        path.write_bytes(ROWS + b"1,2\n")

    def shrink():
        path.write_bytes(ROWS[:2000])

    def vanish():
        path.write_bytes(b"")

    for change, word in ((grow, "grown"), (shrink, "shrunk"), (vanish, "shrunk")):
        path.write_bytes(ROWS)
        reader = Source.detect(str(path), {}).reader()
        assert reader.read(1000) is not None
        change()
        with pytest.raises(SourceChangedError, match=word):
            reader.read(1000)
        reader.close()


def test_deleted_file_is_still_read_to_its_end(tmp_path):
    """Whoever has it open has all of it."""
    path = tmp_path / "x.csv"
    path.write_bytes(ROWS)
    reader = Source.detect(str(path), {}).reader()
    path.unlink()
    assert b"".join(piece.data for piece in read_all(reader, 1000)) == ROWS


def test_cursor_beyond_the_end_is_refused(tmp_path):
    """The file is not what was loaded."""
    reader = source_of(tmp_path, b"a\n").reader()
    with pytest.raises(SourceChangedError, match="already loaded up to byte 10"):
        reader.open({"offset": 10, "line": 3})


@pytest.mark.parametrize("data", [b"", b"\n", b"\xef\xbb\xbf"])
def test_header_must_be_there(tmp_path, data):
    """An empty file has none."""
    with pytest.raises(SourceError, match="it has no header"):
        source_of(tmp_path, data).header()


def test_header_alone_is_no_row(tmp_path):
    """Behind it is the end."""
    source = source_of(tmp_path, b"id,name\n")
    reader = source.reader()
    reader.open(source.header()[1])
    assert reader.read(100) is None
