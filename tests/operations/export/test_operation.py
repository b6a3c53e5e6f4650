"""Exports as people ask for them: operations of a pool."""

import asyncio
import os
import signal
import sys

import pytest

from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.export import unfinished_of
from tests.operations.export.driving import everything

pytestmark = pytest.mark.asyncio


async def _fill(admin, rows, width=1):
    await admin.execute(
        f"""create table t (id int primary key, text text);
        insert into t select g, repeat(md5(g::text), {width}) from generate_series(1, {rows}) g"""
    )


def _ids(path):
    return [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]


async def test_a_table_is_exported_by_one_call(pool, admin, tmp_path):
    await _fill(admin, 10_000)
    operation = await pool.operations.export(tmp_path / "t.csv", table="t")
    status = await operation.run()
    assert status.state.value == "done"
    assert status.rows_done == 10_000
    assert status.bytes_done == (tmp_path / "t.csv").stat().st_size
    assert _ids(tmp_path / "t.csv") == list(range(1, 10_001))
    assert everything(tmp_path) == ["t.csv"]


async def test_options_of_csv_are_those_of_load(pool, admin, tmp_path):
    """What an export has written with them, a load reads with the same ones."""
    await _fill(admin, 3)
    await admin.execute("update t set text = 'it''s; so'; create table u (like t)")
    options = {"delimiter": ";", "quote": "'", "null": "-"}
    await (await pool.operations.export(tmp_path / "t.csv", table="t", **options)).run()
    assert "1;'it''s; so'" in (tmp_path / "t.csv").read_text()
    await (await pool.operations.load(tmp_path / "t.csv", into="u", **options)).run()
    assert await admin.fetchval("select count(*) from (table t intersect table u) x") == 3


@pytest.mark.parametrize("to", ["t.csv", "parts"])
async def test_the_unfinished_files_of_a_cancelled_export_are_known(pool, admin, tmp_path, to):
    """They stay, for its worker may still be writing."""
    await _fill(admin, 100_000)
    operation = await pool.operations.export(tmp_path / to, table="t")
    running = asyncio.create_task(operation.run())
    while await admin.fetchval("select rows_done from poolkeeper.operations") == 0:
        await asyncio.sleep(0)
    status = await operation.cancel()
    await asyncio.gather(running, return_exceptions=True)
    pattern = unfinished_of(status)
    assert sorted(pattern.parent.glob(pattern.name)) == sorted(pattern.parent.iterdir())
    assert everything(pattern.parent) != []


@pytest.mark.parametrize("how", ["stopped", "paused", "cancelled"])
async def test_an_export_that_is_laid_down_is_no_outage(pool, admin, tmp_path, how):
    """It ends sessions in the middle of a COPY, by its own decision."""
    await _fill(admin, 100_000, 30)
    operation = await pool.operations.export(tmp_path / "t.csv", table="t")
    stop = asyncio.Event()
    running = asyncio.create_task(operation.run(stop=stop))
    while await admin.fetchval("select rows_done from poolkeeper.operations") == 0:
        await asyncio.sleep(0)
    if how == "stopped":
        stop.set()
    elif how == "paused":
        await operation.pause()
    else:
        running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    counters = (await pool.operations._pool()).counters
    assert set(counters.recycled) <= {"released_while_busy", "resize"}
    assert counters.total_outages == 0
    await operation.resume()
    assert (await operation.run()).rows_done == 100_000
    assert _ids(tmp_path / "t.csv") == list(range(1, 100_001))


async def test_the_same_export_again_does_not_touch_the_finished_file(pool, admin, tmp_path):
    await _fill(admin, 10)
    first = await (await pool.operations.export(tmp_path / "t.csv", table="t")).run()
    (tmp_path / "t.csv").write_text("mine now")
    again = await pool.operations.export(tmp_path / "t.csv", table="t")
    assert (await again.run()).id == first.id
    assert (tmp_path / "t.csv").read_text() == "mine now"


async def test_sessions_that_are_ended_again_and_again_cost_no_row(pool, postgres, admin, tmp_path):
    """Whenever the export has got on a bit, all its sessions are terminated."""
    await _fill(admin, 200_000)
    operation = await pool.operations.export(tmp_path / "parts", table="t", part_bytes=1_000_000)
    running = asyncio.create_task(operation.run())
    cuts = 0
    seen = -1
    while not running.done() and cuts < 10:
        row = await admin.fetchrow("select seq, rows_done, id from poolkeeper.operations")
        if row["rows_done"] > seen:
            seen = row["rows_done"]
            cuts += await admin.fetchval(
                "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid() "
                "and application_name like 'poolkeeper worker%'"
            )
    status = await running
    assert cuts > 0
    assert status.rows_done == 200_000
    ids = [n for path in sorted((tmp_path / "parts").iterdir()) for n in _ids(path)]
    assert ids == list(range(1, 200_001))


async def test_a_killed_worker_is_followed_by_another_one_at_its_last_checkpoint(
    pool, postgres, admin, tmp_path
):
    """SIGKILL, while it writes; the file is gone on with where it was on disk."""
    await _fill(admin, 300_000, width=4)
    operation = await pool.operations.export(tmp_path / "t.csv", table="t")
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "poolkeeper", "worker",
        env=os.environ | {"DATABASE_URL": postgres.url},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    rows = 0
    while rows == 0:
        rows = await admin.fetchval("select rows_done from poolkeeper.operations")
    worker.send_signal(signal.SIGKILL)
    await worker.wait()
    status = await operation.run()
    assert status.epoch == 2
    assert status.rows_done == 300_000
    assert _ids(tmp_path / "t.csv") == list(range(1, 300_001))
    assert everything(tmp_path) == ["t.csv"]


async def test_an_export_that_has_failed_goes_on_when_it_is_asked_for_again(pool, admin, tmp_path):
    """The name of the file was taken meanwhile, and is free again."""
    await _fill(admin, 1000)
    operation = await pool.operations.export(tmp_path / "t.csv", table="t")
    (tmp_path / "t.csv").write_text("in the way")
    with pytest.raises(OperationError, match="exists"):
        await operation.run()
    (tmp_path / "t.csv").unlink()
    again = await pool.operations.export(tmp_path / "t.csv", table="t")
    assert (await again.run()).rows_done == 1000
    assert _ids(tmp_path / "t.csv") == list(range(1, 1001))
