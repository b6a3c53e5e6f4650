"""An export whose database has lost checkpoints in a failover, while its files are still there."""

import asyncio
import json
import os

import asyncpg
import pytest
import pytest_asyncio

from poolkeeper import create_pool
from poolkeeper.operations import OperationState
from poolkeeper.operations.export import ExportFileMissingError, ExportTargetExistsError
from poolkeeper.operations.export.ownership import is_marked
from tests.operations.export.driving import Export, Interrupted, everything, files
from tests.operations.export.test_resume import ROWS, SHAPES, content

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def table(admin):
    await admin.execute(
        f"""create table t (id int primary key, text text);
        insert into t select g, md5(g::text) from generate_series(1, {ROWS}) g"""
    )


class Lossy:
    """An export, and all checkpoints it ever had."""

    def __init__(self, made, admin):
        self.made = made
        self.admin = admin
        self.checkpoints = []

    async def run(self, chunks=None, size=20):
        """Go on to the end, or for so many chunks; True when it is done."""
        if await self.admin.fetchval("select done from checkpoint"):
            return True
        run = self.made.start()
        connection = await asyncpg.connect(self.made.url)
        try:
            seq = await self.made.begin(connection, run)
            while chunks is None or chunks > 0:
                self.checkpoints.append(await self.admin.fetchrow("select * from checkpoint"))
                if await self.made.step(connection, run, seq, size):
                    return True
                seq += 1
                chunks = None if chunks is None else chunks - 1
            return False
        finally:
            await run.close()
            await connection.close()

    async def go_back(self, checkpoint):
        """What a failover does."""
        await self.admin.execute(
            "update checkpoint set seq = $1, cursor = $2, rows = $3, done = $4", *checkpoint
        )

    async def rows_done(self):
        return await self.admin.fetchval("select rows from checkpoint")


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_export_goes_on_from_any_older_checkpoint(postgres, admin, table, tmp_path, shape):
    """Its own files that were published since are done again, in place of what they were."""
    spec = {"table": "t"} | SHAPES[shape]
    made = await Export.prepare(postgres.url, **spec | {"to": str(tmp_path / spec["to"])})
    export = Lossy(made, admin)
    await export.run()
    # a database that has gone back never comes to what it has lost: each turn is older
    for turn, checkpoint in enumerate(reversed(list(export.checkpoints))):
        # the lost rows are others now, and there are fewer of them
        await admin.execute("update t set text = $1 where id > 30", f"turn {turn}")
        await admin.execute("delete from t where id > $1", ROWS - turn)
        await export.go_back(checkpoint)
        await export.run()
        # what the checkpoint counts is as it was, what comes after it is done again
        ids = [int(row.split(",")[0]) for row in content(tmp_path)]
        assert len(set(ids)) == len(ids)
        assert set(range(1, ROWS - turn + 1)) <= set(ids)
        if "parquet" not in shape:
            # of Parquet some rows that were counted and are done again do not exist any more
            assert await export.rows_done() == len(ids)
        assert everything(tmp_path) == sorted(files(tmp_path)), "nothing else is left behind"
        # as it would have been, had nothing been lost
        await admin.execute(
            f"truncate t; insert into t select g, md5(g::text) from generate_series(1, {ROWS}) g"
        )
        await export.go_back(checkpoint)
        await export.run()
        assert [int(row.split(",")[0]) for row in content(tmp_path)] == list(range(1, ROWS + 1))
        assert await export.rows_done() == ROWS


@pytest.mark.parametrize("shape", ["one file", "parts", "parquet parts"])
@pytest.mark.parametrize("further", [1, 2, 6])
async def test_an_export_goes_back_while_it_is_under_way(
    postgres, admin, table, tmp_path, shape, further
):
    """After takeovers whose attempts the database does not know of any more."""
    spec = {"table": "t"} | SHAPES[shape]
    made = await Export.prepare(postgres.url, **spec | {"to": str(tmp_path / spec["to"])})
    export = Lossy(made, admin)
    await export.run(chunks=3)
    kept = await admin.fetchrow("select * from checkpoint")
    for _ in range(2):
        await export.run(chunks=further)
        await export.run(chunks=1)
    await export.go_back(kept)
    assert await export.run()
    assert [int(row.split(",")[0]) for row in content(tmp_path)] == list(range(1, ROWS + 1))
    assert await export.rows_done() == ROWS
    assert everything(tmp_path) == sorted(files(tmp_path))


async def test_a_frozen_worker_of_the_lost_time_keeps_the_file_it_has_open(
    postgres, admin, table, tmp_path
):
    """It and its successor may not take the same attempt for theirs."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    export = Lossy(made, admin)
    await export.run(chunks=3)
    kept = await admin.fetchrow("select * from checkpoint")
    frozen = made.start()
    its = await asyncpg.connect(postgres.url)
    seq = await made.begin(its, frozen)
    for _ in range(2):
        await made.step(its, frozen, seq, 20)
        seq += 1
    await export.go_back(kept)
    await export.run(chunks=3)
    with pytest.raises(AssertionError, match="fenced"):
        await made.step(its, frozen, seq, 20)
    assert await export.run()
    assert [int(row.split(",")[0]) for row in content(tmp_path)] == list(range(1, ROWS + 1))
    await frozen.close()
    await its.close()


async def test_a_worker_of_the_lost_time_does_not_publish_what_its_successor_is_writing(
    postgres, admin, table, tmp_path
):
    """It knows its own file for finished, and no other attempt may have one of the same name."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    export = Lossy(made, admin)
    await export.run(chunks=1)
    kept = await admin.fetchrow("select * from checkpoint")
    await admin.execute("alter table t rename to u; create table t (like u including all)")
    await admin.execute("insert into t values (1, 'few')")
    frozen = made.start()
    its = await asyncpg.connect(postgres.url)
    seq = await made.begin(its, frozen)
    for _ in range(2):
        await made.step(its, frozen, seq, 20)
        seq += 1
    await admin.execute("drop table t; alter table u rename to t")
    await export.go_back(kept)
    await export.run(chunks=3)
    with pytest.raises((AssertionError, ExportFileMissingError)):
        await made.step(its, frozen, seq, 20)
    assert not (tmp_path / "out.csv").exists()
    assert await export.run()
    assert [int(row.split(",")[0]) for row in content(tmp_path)] == list(range(1, ROWS + 1))
    await frozen.close()
    await its.close()


@pytest.mark.parametrize("shape", ["one file", "parts", "one parquet", "parquet parts"])
async def test_somebody_elses_file_is_not_taken_for_its_own(
    postgres, admin, table, tmp_path, shape
):
    """Not even one that somebody has put in the place of a file of the export."""
    spec = {"table": "t"} | SHAPES[shape]
    made = await Export.prepare(postgres.url, **spec | {"to": str(tmp_path / spec["to"])})
    export = Lossy(made, admin)
    await export.run()
    before = next(
        c for c in export.checkpoints if json.loads(c["cursor"])["written"]["attempt"] is not None
    )
    (first, *_) = sorted(tmp_path.iterdir())
    whole = first.read_bytes()
    first.unlink()
    first.write_bytes(b"somebody else's" * 1000)
    os.utime(first, ns=(10**9, 10**9))
    await export.go_back(before)
    with pytest.raises(ExportFileMissingError, match=r"missing.*Suggestion"):
        await export.run()
    await export.go_back(export.checkpoints[0])
    with pytest.raises(ExportTargetExistsError):
        await export.run()
    assert first.read_bytes() == b"somebody else's" * 1000 != whole


async def test_a_published_file_stays_whole_while_its_successor_is_written(
    postgres, admin, table, tmp_path
):
    """Also if the worker died while it still had both names."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    export = Lossy(made, admin)
    await export.run()
    whole = (tmp_path / "out.csv").read_bytes()
    checkpoint = export.checkpoints[2]
    cursor = json.loads(checkpoint["cursor"])
    unfinished = tmp_path / f"out.csv.{cursor['export']}-{cursor['written']['attempt']}.partial"
    for names in (1, 2):
        if names == 2:
            os.link(tmp_path / "out.csv", unfinished)
        await export.go_back(checkpoint)
        await export.run(chunks=3)
        assert (tmp_path / "out.csv").read_bytes() == whole
    assert await export.run()
    assert everything(tmp_path) == ["out.csv"]
    assert (tmp_path / "out.csv").read_bytes() == whole


async def test_parquet_goes_back_to_the_beginning_of_a_part_and_not_of_the_export(
    postgres, admin, table, tmp_path
):
    """Parts before it are neither read nor written again."""
    made = await Export.prepare(
        postgres.url, table="t", to=str(tmp_path), format="parquet", part_bytes=4000
    )
    export = Lossy(made, admin)
    await export.run()
    checkpoint = next(
        c for c in export.checkpoints
        if (written := json.loads(c["cursor"])["written"])["part"] == 3 and written["offset"]
    )  # fmt: skip
    before = {path.name: path.stat().st_ino for path in sorted(tmp_path.iterdir())}
    await export.go_back(checkpoint)
    await export.run()
    after = {path.name: path.stat().st_ino for path in sorted(tmp_path.iterdir())}
    same = [name for name in after if before[name] == after[name]]
    assert same == ["part-000001.parquet", "part-000002.parquet"]
    assert [int(row.split(",")[0]) for row in content(tmp_path)] == list(range(1, ROWS + 1))


async def test_a_file_is_known_by_its_export_and_part(postgres, admin, table, tmp_path):
    """Until somebody writes to it."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    await made.run()
    export = made.prepared.cursor["export"]
    assert is_marked(tmp_path / "out.csv", export, 1)
    assert not is_marked(tmp_path / "out.csv", export, 2)
    assert not is_marked(tmp_path / "out.csv", "00000000", 1)
    assert not is_marked(tmp_path / "none.csv", export, 1)
    with (tmp_path / "out.csv").open("a") as file:
        file.write("mine")
    assert not is_marked(tmp_path / "out.csv", export, 1)


async def test_a_finished_file_that_was_cut_is_not_published(postgres, admin, table, tmp_path):
    """It would be filled up with zeros."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    with pytest.raises(Interrupted):
        await made.run(size=800, interrupt="after the commit", at=1)
    (written,) = tmp_path.iterdir()
    os.truncate(written, written.stat().st_size - 1)
    with pytest.raises(Exception, match=r"bytes instead of the .*Suggestion"):
        await made.run(size=800)
    assert not (tmp_path / "out.csv").exists()


async def test_a_failover_that_loses_published_parts(replicated_postgres, tmp_path):
    """A real one, to a standby that has not received the last chunks."""
    cluster = replicated_postgres
    cluster.primary.psql(
        "CREATE TABLE t (id int PRIMARY KEY, text text);"
        "INSERT INTO t SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 200000) g"
    )
    async with create_pool(cluster.url, min_size=1, probe_interval=0.2) as pool:
        operation = await pool.operations.export(tmp_path / "t", table="t", part_bytes=500_000)
        await asyncio.to_thread(cluster.wait_for_catch_up)
        parts = {number: asyncio.Event() for number in (2, 30)}

        def report(report):
            published = len(list((tmp_path / "t").glob("part-*.csv")))
            for number, event in parts.items():
                if published >= number:
                    event.set()

        run = asyncio.ensure_future(operation.run(report=report))
        await parts[2].wait()
        await asyncio.to_thread(cluster.disconnect, cluster.standbys[0])
        await parts[30].wait()
        await asyncio.to_thread(cluster.primary.crash)
        await asyncio.to_thread(cluster.promote)
        status = await run
    assert (status.state, status.rows_done) == (OperationState.DONE, 200_000)
    ids = [
        int(line.split(",")[0])
        for path in sorted((tmp_path / "t").iterdir())
        for line in path.read_text().splitlines()[1:]
    ]
    assert ids == list(range(1, 200_001))
