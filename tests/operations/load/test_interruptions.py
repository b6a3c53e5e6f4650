"""Files, tables and sessions that change while a load is on its way."""

import asyncio
import gzip
import os

import pytest

from poolkeeper.operations import NotHereError, OperationError, OperationState
from poolkeeper.operations.kind import Sizing
from poolkeeper.operations.load.errors import SourceChangedError, SourceError
from poolkeeper.operations.load.run import LoadRun
from poolkeeper.testing.contracts import eventually

pytestmark = pytest.mark.asyncio

ROWS = 400
DATA = "n,s\n" + "".join(f"{n},text\n" for n in range(ROWS))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(LoadRun, "sizing", Sizing(200, 200, 200))


async def numbers(admin):
    return [row["n"] for row in await admin.fetch("SELECT n FROM t ORDER BY n")]


class Halfway:
    """A load that has committed some chunks and stands still before the row of a number."""

    def __init__(self, pool, admin, path, number=200, **options):
        self.pool, self.admin, self.path, self.number = pool, admin, path, number
        self.options = options

    async def __aenter__(self):
        await self.admin.execute(
            "CREATE TABLE t (n int, s text);"
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF NEW.n >= {self.number} THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER hold BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION hold()"
        )
        await self.admin.execute("SELECT pg_advisory_lock(42)")
        self.operation = await self.pool.operations.load(self.path, into="t", **self.options)
        self.run = asyncio.ensure_future(self.operation.run())
        await eventually(self.stands_still)
        return self

    async def stands_still(self):
        return await self.admin.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        )

    async def go_on(self):
        await self.admin.execute("SELECT pg_advisory_unlock(42)")
        return await self.run

    async def __aexit__(self, *exc):
        await self.admin.execute("SELECT pg_advisory_unlock_all()")
        await asyncio.wait({self.run})
        if not self.run.cancelled():
            self.run.exception()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(DATA)
    return path


async def test_lost_session_costs_nothing(pool, admin, path):
    """The load goes on at its checkpoint, also through a temporary table."""
    async with Halfway(pool, admin, path, set={"s": "upper(s)"}) as load:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND NOT granted"
        )
        status = await load.go_on()
    assert status.rows_done == ROWS
    assert status.outages >= 1
    assert await numbers(admin) == list(range(ROWS))
    assert await admin.fetchval("SELECT min(s) FROM t") == "TEXT"


@pytest.mark.parametrize("change", ["append", "truncate", "rewrite"])
async def test_file_that_changes_meanwhile_ends_the_load(pool, admin, path, change):
    """With what differs and what to do; what was committed stays, and the right file goes on."""
    async with Halfway(pool, admin, path) as load:
        if change == "append":
            path.write_text(DATA + "1000,x\n")
        elif change == "truncate":
            path.write_text(DATA[:1000])
        else:
            path.write_text(DATA.replace("text", "TEXT"))
        with pytest.raises(SourceChangedError) as caught:
            await load.go_on()
        words = {"append": "has grown", "truncate": "has shrunk", "rewrite": "first 64 KiB differ"}
        assert words[change] in str(caught.value)
        assert "under a new name" in str(caught.value)
        kept = await numbers(admin)
        assert kept == list(range(len(kept)))
        assert len(kept) < ROWS
        path.write_text(DATA)
    await pool.operations.load(path, into="t")
    operation = await pool.operations.get(load.operation.name)
    assert (await operation.run()).state is OperationState.DONE
    assert await numbers(admin) == list(range(ROWS))


async def test_touched_file_is_compared_and_goes_on(pool, admin, path):
    """Another time alone does not end a load, if what was loaded is still there."""
    async with Halfway(pool, admin, path) as load:
        os.utime(path, (1, 1))
        status = await load.go_on()
    assert status.rows_done == ROWS
    assert await numbers(admin) == list(range(ROWS))


async def test_change_in_the_middle_of_what_was_loaded_is_found(pool, admin, tmp_path):
    """Although size and both ends are the same; with bytes and lines."""
    path = tmp_path / "rows.csv"
    wide = "x" * 1000
    data = "n,s\n" + "".join(f"{n},{wide}\n" for n in range(ROWS))
    path.write_text(data)
    async with Halfway(pool, admin, path, number=300) as load:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND NOT granted"
        )
        at = data.index("\n100,")
        with path.open("r+b") as file:
            file.seek(at + 10)
            file.write(b"y")
        with pytest.raises(SourceChangedError, match=r"between bytes .* lines 10\d to"):
            await load.go_on()


async def test_another_worker_compares_what_was_loaded(pool, admin, tmp_path):
    """It has never seen the file as it was."""
    path = tmp_path / "rows.csv"
    data = "n,s\n" + "".join(f"{n},{'x' * 1000}\n" for n in range(ROWS))
    path.write_text(data)
    async with Halfway(pool, admin, path, number=300) as load:
        load.run.cancel()
        await asyncio.wait({load.run})
    at = data.index("\n100,") + 10
    path.write_text(data[:at] + "y" + data[at + 1 :])
    with pytest.raises(SourceChangedError, match=r"already loaded, between bytes"):
        await (await pool.operations.load(path, into="t")).run()
    path.write_text(data)
    status = await (await pool.operations.load(path, into="t")).run()
    assert status.rows_done == ROWS
    assert await numbers(admin) == list(range(ROWS))


async def test_missing_file_leaves_the_load_to_another_process(pool, admin, path):
    """It may be on another machine; with it back, the load goes on."""
    async with Halfway(pool, admin, path) as load:
        away = path.rename(f"{path}.away")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND NOT granted"
        )
        with pytest.raises(NotHereError, match="does not exist"):
            await load.go_on()
        left = await pool.operations.get(load.operation.name)
        assert left.status.state is OperationState.PENDING
    away.rename(path)
    status = await (await pool.operations.load(path, into="t")).run()
    assert status.rows_done == ROWS
    assert await numbers(admin) == list(range(ROWS))


async def test_file_that_goes_missing_meanwhile_leaves_the_load_to_another_process(
    pool, admin, path
):
    """Whoever notices it between two chunks does not fail the load."""
    async with Halfway(pool, admin, path) as load:
        os.utime(path, (1, 1))
        away = path.rename(f"{path}.away")
        with pytest.raises(NotHereError, match="does not exist"):
            await load.go_on()
        left = await pool.operations.get(load.operation.name)
        assert left.status.state is OperationState.PENDING
    away.rename(path)
    status = await (await pool.operations.load(path, into="t")).run()
    assert status.rows_done == ROWS
    assert await numbers(admin) == list(range(ROWS))


@pytest.mark.parametrize("how", ["missing", "directory"])
async def test_no_load_is_created_of_what_is_no_file(pool, admin, tmp_path, how):
    """Nothing is left in the table of operations."""
    await admin.execute("CREATE TABLE t (n int)")
    path = tmp_path / "rows.csv"
    if how == "directory":
        path.mkdir()
    with pytest.raises(SourceError, match=r"does not exist|is a directory"):
        await pool.operations.load(path, into="t")
    assert await pool.operations.list() == []


async def test_dropped_table_ends_the_load_and_says_so(pool, admin, tmp_path):
    """With how far it had got."""
    path = tmp_path / "rows.csv"
    path.write_text(DATA)
    await admin.execute("CREATE TABLE t (n int, s text)")
    await pool.operations.load(path, into="t", name="doomed")
    await admin.execute("DROP TABLE t")
    with pytest.raises(OperationError, match=r"table public\.t does not exist any more"):
        await (await pool.operations.get("doomed")).run()
    await admin.execute("CREATE TABLE t (n int, s text)")
    status = await (await pool.operations.load(path, into="t", name="doomed")).run()
    assert status.rows_done == ROWS


async def test_truncated_gzip_ends_the_load_with_its_place(pool, admin, tmp_path, monkeypatch):
    """What could be read is committed."""
    monkeypatch.setattr(LoadRun, "sizing", Sizing(50_000, 50_000, 50_000))
    await admin.execute("CREATE TABLE t (n int, s text)")
    packed = gzip.compress(("n,s\n" + "".join(f"{n},{n * n}\n" for n in range(30_000))).encode())
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(packed[:-10])
    with pytest.raises(SourceError, match="truncated gzip file: it ends at byte"):
        await (await pool.operations.load(path, into="t")).run()
    kept = await numbers(admin)
    assert kept == list(range(len(kept)))
    assert kept
