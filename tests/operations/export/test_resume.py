"""An export that was interrupted, wherever that was, and went on."""

import asyncio
import gzip
import json

import asyncpg
import pyarrow.parquet
import pytest
import pytest_asyncio

from poolkeeper.operations.export import ExportFileDamagedError, ExportFileMissingError
from poolkeeper.operations.export.rows import RangeRows
from tests.operations.export.driving import Export, Interrupted, everything, files

pytestmark = pytest.mark.asyncio

ROWS = 400


@pytest_asyncio.fixture
async def table(admin):
    await admin.execute(
        f"""create table t (id int primary key, text text);
        insert into t select g, md5(g::text) from generate_series(1, {ROWS}) g"""
    )


def content(directory):
    """All rows in order, whatever the files are."""
    rows = []
    for name, data in files(directory).items():
        if name.endswith(".parquet"):
            table = pyarrow.parquet.read_table(directory / name)
            rows += [f"{row['id']},{row['text']}" for row in table.to_pylist()]
            continue
        text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
        if "csv" in name:
            header, text = text.split("\n", 1)
            assert header == "id,text"
            rows += text.splitlines()
        else:
            rows += ["{id},{text}".format(**json.loads(line)) for line in text.splitlines()]
    return rows


SHAPES = {
    "one file": {"to": "out.csv"},
    "one gz": {"to": "out.csv.gz"},
    "one ndjson": {"to": "out.ndjson"},
    "one parquet": {"to": "out.parquet"},
    "parts": {"to": "", "part_bytes": 4000},
    "gz parts": {"to": "", "part_bytes": 4000, "compression": "gzip"},
    "parquet parts": {"to": "", "part_bytes": 4000, "format": "parquet"},
    "consistent": {"to": "out.csv", "consistent": True},
    "consistent parts": {"to": "", "consistent": True, "part_bytes": 4000},
}
PLACES = ["before checkpoint", "before hearing of the commit", "after the commit"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_export_interrupted_at_any_chunk_ends_like_an_undisturbed_one(
    postgres, table, tmp_path, shape, place, record_property
):
    """One file is the same byte for byte; part files are the same rows in the same order."""
    spec = {"table": "t"} | SHAPES[shape]
    whole = tmp_path / "whole"
    whole.mkdir()
    undisturbed = await Export.prepare(postgres.url, **spec | {"to": str(whole / spec["to"])})
    chunks = await undisturbed.run(size=50)
    expected = content(whole)
    assert [int(row.split(",")[0]) for row in expected] == list(range(1, ROWS + 1))
    for at in range(chunks):
        directory = tmp_path / str(at)
        directory.mkdir()
        made = await Export.prepare(postgres.url, **spec | {"to": str(directory / spec["to"])})
        with pytest.raises(Interrupted):
            await made.run(size=50, interrupt=place, at=at)
        if not await _is_done(postgres.url):
            await made.run(size=50)
        assert content(directory) == expected
        if "parts" not in shape:
            assert files(directory) == files(whole)
        assert everything(directory) == sorted(files(directory)), "nothing else is left behind"
    record_property("fault_points", chunks)


async def _is_done(url):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("select done from checkpoint")
    finally:
        await connection.close()


@pytest.mark.parametrize("which", ["of the chunks", "of the rows"])
@pytest.mark.parametrize("shape", ["one file", "one gz", "parts"])
async def test_a_connection_lost_in_the_middle_of_a_copy_costs_only_what_is_not_committed(
    postgres, admin, tmp_path, shape, which
):
    """The same run goes on, on other connections, behind the rows it has committed."""
    await admin.execute(
        """create table t (id int primary key, text text);
        insert into t select g, repeat(md5(g::text), 120) from generate_series(1, 20000) g"""
    )
    spec = {"table": "t"} | SHAPES[shape]
    if "part_bytes" in spec:
        spec["part_bytes"] = 1_000_000
    made = await Export.prepare(postgres.url, **spec | {"to": str(tmp_path / spec["to"])})
    run = made.start()
    connection = await asyncpg.connect(postgres.url)
    seq = await made.begin(connection, run)

    async def go_on():
        nonlocal seq
        while not await made.step(connection, run, seq, 3_000):
            seq += 1

    # ranges of 11 MB: much more than fits into any buffer on the way
    going = asyncio.create_task(go_on())
    while run.progress_bytes < 15_000_000:
        await asyncio.sleep(0)
    lost = connection if which == "of the chunks" else run.reading[0]
    assert await admin.fetchval("select pg_terminate_backend($1)", lost.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
        await going
    connection.terminate()
    connection = await asyncpg.connect(postgres.url)
    assert await made.begin(connection, run) == seq > 0
    await go_on()
    await run.close()
    await connection.close()
    ids = [int(row.split(",")[0]) for row in content(tmp_path)]
    assert ids == list(range(1, 20_001))


async def test_a_connection_given_up_while_rows_come_is_noticed(postgres, admin, tmp_path):
    """Such as one that the pool has found silent."""
    await admin.execute(
        """create table t (id int primary key, text text);
        insert into t select g, repeat(md5(g::text), 120) from generate_series(1, 5000) g"""
    )
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    run = made.start()
    connection = await asyncpg.connect(postgres.url)
    seq = await made.begin(connection, run)
    await made.step(connection, run, seq, 5_000)
    feed = RangeRows.feed

    async def feed_and_give_up(rows, data):
        await feed(rows, data)
        for reading in run.reading:
            reading.terminate()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RangeRows, "feed", feed_and_give_up)
        async with asyncio.timeout(60):
            with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                await made.step(connection, run, seq + 1, 5_000)
    assert await made.begin(connection, run) == seq + 1
    for later in range(seq + 1, seq + 4):
        done = await made.step(connection, run, later, 5_000)
    assert done
    await run.close()
    await connection.close()
    assert len(content(tmp_path)) == 5_000


async def test_a_commit_that_arrives_after_its_connection_was_given_up_is_respected(
    postgres, table, tmp_path
):
    """Its checkpoint counts bytes that a new attempt must not have cut off in the meantime."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    run = made.start()
    lost = await asyncpg.connect(postgres.url)
    seq = await made.begin(lost, run)
    for _ in range(2):
        await made.step(lost, run, seq, 10)
        seq += 1
    transaction = lost.transaction()
    await transaction.start()
    chunk = await run.chunk(lost, 10)

    other = await asyncpg.connect(postgres.url)
    assert await made.begin(other, run) == seq
    async with other.transaction():
        late = await run.chunk(other, 10)
    assert late.rows == 0, "nothing is written before it is certain that nobody else can commit"
    await lost.execute(
        "update checkpoint set seq = seq + 1, cursor = $1, rows = rows + $2",
        json.dumps(chunk.cursor), chunk.rows,
    )  # fmt: skip
    await transaction.commit()

    seq = await made.begin(other, run)
    while not await made.step(other, run, seq, 10):
        seq += 1
    await run.close()
    for connection in (lost, other):
        await connection.close()
    assert [int(row.split(",")[0]) for row in content(tmp_path)] == list(range(1, ROWS + 1))


@pytest.mark.parametrize("shape", ["one file", "parts"])
@pytest.mark.parametrize("chunks", range(1, 6))
async def test_a_worker_that_was_frozen_and_wakes_up_changes_nothing(
    postgres, table, tmp_path, shape, chunks
):
    """It still has its file open and writes to it, after its successor has taken over."""
    spec = {"table": "t"} | SHAPES[shape]
    made = await Export.prepare(postgres.url, **spec | {"to": str(tmp_path / spec["to"])})
    frozen = made.start()
    its = await asyncpg.connect(postgres.url)
    seq = await made.begin(its, frozen)
    for _ in range(chunks):
        await made.step(its, frozen, seq, 20)
        seq += 1

    successor = made.start()
    connection = await asyncpg.connect(postgres.url)
    later = await made.begin(connection, successor)
    for _ in range(3):
        await made.step(connection, successor, later, 7)
        later += 1

    with pytest.raises(AssertionError, match="fenced"):
        await made.step(its, frozen, seq, 20)
    while not await made.step(connection, successor, later, 7):
        later += 1
    assert everything(tmp_path) == sorted(files(tmp_path)), "nothing else is left behind"
    with pytest.raises(Exception):  # noqa: B017 - it finds files gone, or is fenced off
        await made.step(its, frozen, seq, 20)
    for run in (frozen, successor):
        await run.close()
    for each in (its, connection):
        await each.close()
    assert [int(row.split(",")[0]) for row in content(tmp_path)] == list(range(1, ROWS + 1))


async def test_a_worker_that_was_frozen_before_it_opened_a_file_cuts_nothing_off(
    postgres, table, tmp_path
):
    """It knows an old checkpoint, and nobody holds the file when it wakes up."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    with pytest.raises(Interrupted):
        await made.run(size=20, interrupt="after the commit", at=2)
    connection = await asyncpg.connect(postgres.url)
    frozen = made.start()
    row = await connection.fetchrow("select * from checkpoint")
    with pytest.raises(Interrupted):
        await made.run(size=20, interrupt="after the commit", at=3)

    await frozen.begin(connection, json.loads(row["cursor"]))
    with pytest.raises(AssertionError, match="fenced"):
        await made.step(connection, frozen, row["seq"], 20)
    await frozen.close()
    await connection.close()
    await made.run(size=20)
    assert [int(row.split(",")[0]) for row in content(tmp_path)] == list(range(1, ROWS + 1))


async def test_a_file_that_was_cut_is_not_gone_on_with(postgres, admin, table, tmp_path):
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    with pytest.raises(Interrupted):
        await made.run(size=20, interrupt="after the commit", at=2)
    (partial,) = tmp_path.iterdir()
    kept = partial.read_bytes()
    committed = json.loads(await admin.fetchval("select cursor from checkpoint"))
    partial.write_bytes(kept[: committed["written"]["offset"] - 1])
    with pytest.raises(ExportFileDamagedError, match=r"committed, but it has only.*Suggestion"):
        await made.run(size=20)
    partial.write_bytes(kept)
    await made.run(size=20)
    assert len(content(tmp_path)) == ROWS


async def test_a_file_that_is_not_here_is_left_to_the_machine_where_it_is(
    postgres, table, tmp_path
):
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    with pytest.raises(Interrupted):
        await made.run(size=20, interrupt="after the commit", at=2)
    (partial,) = tmp_path.iterdir()
    partial.rename(tmp_path / "elsewhere")
    with pytest.raises(ExportFileMissingError, match=r"missing.*Suggestion: run the worker on"):
        await made.run(size=20)
    (tmp_path / "elsewhere").rename(partial)
    await made.run(size=20)
    assert len(content(tmp_path)) == ROWS


async def test_a_file_deleted_while_it_is_written_ends_the_export(postgres, table, tmp_path):
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    run = made.start()
    connection = await asyncpg.connect(postgres.url)
    seq = await made.begin(connection, run)
    for _ in range(2):
        await made.step(connection, run, seq, 20)
        seq += 1
    (partial,) = tmp_path.iterdir()
    partial.unlink()
    with pytest.raises(ExportFileDamagedError, match=r"deleted.*Suggestion"):
        # some ranges may have been saved before
        for later in range(seq, seq + ROWS):
            await made.step(connection, run, later, 20)
    await run.close()
    await connection.close()


async def test_rows_that_come_and_go_meanwhile_do_not_disturb_the_others(
    postgres, admin, table, tmp_path
):
    """Every row that is there throughout is exported exactly once."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    run = made.start()
    connection = await asyncpg.connect(postgres.url)
    seq = await made.begin(connection, run)
    done = False
    while not done:
        done = await made.step(connection, run, seq, 5)
        seq += 1
        await admin.execute(
            "with gone as (delete from t where id % 7 = 0 and id % 4 = $1 % 4) "
            "insert into t select -1000 * $1 - g, 'new' from generate_series(1, 3) g "
            "union all select 1000 * $1 + g, 'new' from generate_series(1, 3) g "
            "where $1 < 10 on conflict do nothing",
            seq,
        )
        await admin.execute("update t set text = text || '!' where id % 5 = 0")
    await run.close()
    await connection.close()
    ids = [int(row.split(",")[0]) for row in content(tmp_path)]
    assert len(set(ids)) == len(ids)
    assert {n for n in range(1, ROWS + 1) if n % 7} <= set(ids)


async def test_a_consistent_export_is_of_one_moment(postgres, admin, table, tmp_path):
    """What is committed while it runs is not in it."""
    await admin.execute(
        "insert into t select g, repeat('x', 9999) from generate_series(500, 3000) g"
    )
    made = await Export.prepare(
        postgres.url, table="t", to=str(tmp_path / "out.csv"), consistent=True
    )
    run = made.start()
    connection = await asyncpg.connect(postgres.url)
    seq = await made.begin(connection, run)
    await made.step(connection, run, seq)
    step = asyncio.create_task(made.step(connection, run, seq + 1))
    while not run.progress_bytes:
        await asyncio.sleep(0)
    await admin.execute("delete from t where id > 100")
    await step
    await made.step(connection, run, seq + 2)
    await run.close()
    await connection.close()
    assert len(content(tmp_path)) == ROWS + 2501
