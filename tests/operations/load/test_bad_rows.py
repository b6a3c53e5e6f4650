"""Bad rows are found one by one; the others are loaded."""

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper.operations import OperationError, OperationState
from poolkeeper.operations.kind import Sizing
from poolkeeper.operations.load.bad_rows import Place, Segments, is_of_a_row, place_of
from poolkeeper.operations.load.errors import BadRowError
from poolkeeper.operations.load.run import LoadRun


@given(
    count=st.integers(1, 200),
    bad=st.sets(st.integers(0, 199)),
    hints=st.sampled_from(["none", "right", "wrong"]),
)
def test_segments_find_every_bad_row_and_load_every_other_once(count, bad, hints):
    """With right hints, with none, and with wrong ones."""
    segments = Segments(count)
    loaded, refused, sent = [], [], 0
    while not segments.finished:
        span = range(segments.position, segments.position + segments.length)
        assert span
        sent += len(span)
        wrong = [row for row in span if row in bad]
        if not wrong:
            loaded += span
            segments.loaded()
            continue
        hint = {"none": None, "right": wrong[0], "wrong": wrong[-1] + 1}[hints]
        position = segments.position
        if segments.failed(hint):
            refused.append(position)
    assert loaded == [row for row in range(count) if row not in bad]
    assert refused == [row for row in range(count) if row in bad]
    if hints == "right":
        assert sent <= 4 * (count + len(bad))


def test_chunk_full_of_bad_rows_is_not_sent_again_for_each():
    """One short try a row."""
    segments = Segments(50_000)
    sent = 0
    while not segments.finished:
        sent += segments.length
        segments.failed(segments.position)
    assert sent <= 50_000 * 2 + 1


@pytest.mark.parametrize(
    ("context", "place"),
    [
        ('COPY t, line 2, column b: "x"', Place(2, "b")),
        ("COPY t, line 12", Place(12, None)),
        ('COPY t, line 3: "a,b"', Place(3, None)),
        ("PL/pgSQL function f() line 1 at RAISE\nCOPY my t, line 4", Place(4, None)),
        ("COPY t, line 2, column my col: null input", Place(2, "my col")),
        (None, Place(None, None)),
    ],
)
def test_place_is_read_from_the_context(context, place):
    """As PostgreSQL writes it."""
    assert place_of(context) == place


def test_only_errors_of_data_are_errors_of_a_row():
    """A lost table or a full disk is not for the table of rejects."""
    for code in ("22P02", "22P04", "22021", "23505", "23503", "44000", "54000", "P0001"):
        assert is_of_a_row(code)
    for code in ("53100", "42P01", "40001", "57014", "08006", "42501", "25P02", "XX001", None):
        assert not is_of_a_row(code)


BAD = {
    "type": ("x,1", "22P02"),
    "too many columns": ("1,2,3", "22P04"),
    "too few columns": ("1", "22P04"),
    "out of range": ("99999999999,1", "22003"),
    "null": (",1", "23502"),
    "check": ("1,-5", "23514"),
    "duplicate": ("0,1", "23505"),
    "foreign key": ("1,7", "23503"),
    "deferred foreign key": ("1,8", "23503"),
    "trigger": ("1,13", "P0001"),
    "empty line": ("", "22P04"),
    "nul": ("1,\x00", "22021"),
    "encoding": (b"1,\xff", "22021"),
}


@pytest_asyncio.fixture
async def table(admin):
    await admin.execute(
        "CREATE TABLE good (n int PRIMARY KEY); INSERT INTO good SELECT generate_series(1, 6);"
        "INSERT INTO good VALUES (13); CREATE TABLE later (n int PRIMARY KEY);"
        "INSERT INTO later VALUES (1), (13), (7);"
        "CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n > 0) REFERENCES good,"
        " FOREIGN KEY (n) REFERENCES later DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO good VALUES (8);"
        "CREATE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.n = 13 THEN RAISE EXCEPTION 'unlucky'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER unlucky AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION unlucky()"
    )


def with_bad(row: str | bytes, before=100, after=100) -> bytes:
    row = row.encode() if isinstance(row, str) else row
    good = [b"%d,1" % (1000 + n) for n in range(before)]
    more = [b"%d,1" % (5000 + n) for n in range(after)]
    return b"\n".join([b"id,n", b"0,1", *good, row, *more, b""])


@pytest.mark.asyncio
@pytest.mark.parametrize("options", [{}, {"set": {"n": "nn::int"}}], ids=["direct", "staging"])
@pytest.mark.parametrize(("row", "sqlstate"), BAD.values(), ids=BAD)
async def test_bad_row_is_put_aside_and_the_others_are_loaded(
    load, admin, rejects, table, row, sqlstate, options
):
    """Whatever is wrong with it, with line, text and SQLSTATE."""
    data = with_bad(row)
    if options:
        data = data.replace(b"id,n", b"id,nn", 1)
    status = await load(data, on_bad_row="reject", **options)
    assert status.state is OperationState.DONE
    assert (status.rows_done, status.rows_rejected) == (201, 1)
    assert await admin.fetchval("SELECT count(*) FROM t") == 201
    ((line, _, state),) = await rejects()
    assert line == 103
    assert state == sqlstate or (options and state == "23502")


@pytest.mark.asyncio
@pytest.mark.parametrize(("row", "sqlstate"), BAD.values(), ids=BAD)
async def test_bad_row_ends_a_load_with_its_place(load, admin, table, row, sqlstate):
    """The same load can then go on with that row put aside."""
    with pytest.raises(BadRowError) as caught:
        await load(with_bad(row))
    error = caught.value
    assert (error.line, error.sqlstate) == (103, sqlstate)
    advice = "--encoding windows-1252" if row == BAD["encoding"][0] else "--on-bad-row reject"
    for part in ("rows.csv, line 103", sqlstate, advice):
        assert part in str(error)
    assert await admin.fetchval("SELECT count(*) FROM t") == 0
    status = await load(None, on_bad_row="reject")
    assert (status.rows_done, status.rows_rejected) == (201, 1)


@pytest.mark.asyncio
async def test_rows_of_earlier_chunks_stay(load, admin, monkeypatch):
    """And are not loaded again."""
    monkeypatch.setattr(LoadRun, "sizing", Sizing(100, 100, 100))
    await admin.execute("CREATE TABLE t (n int PRIMARY KEY)")
    rows = [str(n) for n in range(500)]
    rows[300] = "x" * 1000
    with pytest.raises(BadRowError, match=r"line 302, column n.*x{200}…") as caught:
        await load("n\n" + "\n".join(rows) + "\n")
    assert caught.value.row == "x" * 200 + "…"
    kept = await admin.fetchval("SELECT count(*) FROM t")
    assert 200 < kept <= 300
    status = await load(None, on_bad_row="reject")
    assert status.rows_done == 499
    assert await admin.fetchval("SELECT count(*) FROM t") == 499


@pytest.mark.asyncio
@pytest.mark.parametrize("every", [1, 2, 3, 50])
async def test_many_bad_rows_are_all_found(load, admin, rejects, every):
    """In order, also between rows of several lines."""
    await admin.execute("CREATE TABLE t (n int, s text)")
    rows = [f'{"x" if n % every == 0 else n},"a\r\nb\n"' for n in range(300)]
    status = await load("n,s\n" + "\n".join(rows), on_bad_row="reject")
    bad = range(0, 300, every)
    assert (status.rows_done, status.rows_rejected) == (300 - len(bad), len(bad))
    assert [line for line, _, _ in await rejects()] == [2 + 3 * n for n in bad]
    assert await admin.fetchval("SELECT count(DISTINCT n) FROM t") == 300 - len(bad)


@pytest.mark.asyncio
async def test_torn_quote_is_put_aside_with_the_bad_rows(load, admin, rejects):
    """What the reader refuses and what the database refuses are in one table, in order."""
    await admin.execute("CREATE TABLE t (n int, s text)")
    status = await load('n,s\n1,a\nx,b\n2,"c\n3,d\ny,e\n4,f', on_bad_row="reject")
    assert status.rows_done == 3
    assert [(line, text) for line, text, _ in await rejects()] == [
        (3, "x,b"),
        (4, '2,"c'),
        (6, "y,e"),
    ]


@pytest.mark.asyncio
async def test_load_fails_when_too_many_rows_are_bad(load, admin, rejects, monkeypatch):
    """The limit is for the whole file, across chunks."""
    monkeypatch.setattr(LoadRun, "sizing", Sizing(4, 4, 4))
    await admin.execute("CREATE TABLE t (n int)")
    data = "n\n" + "x\n1\n" * 10
    with pytest.raises(OperationError, match=r"4 rows .* more than the limit of 3.*line 8"):
        await load(data, on_bad_row="reject", max_rejects=3)
    assert len(await rejects()) == 3
    status = await load(None, on_bad_row="reject", max_rejects=10)
    assert (status.rows_done, status.rows_rejected) == (10, 10)
