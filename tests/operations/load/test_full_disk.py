"""A disk of the server that is full for a while."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from poolkeeper import create_pool
from poolkeeper.operations import OperationFailedError
from poolkeeper.operations.kind import Sizing
from poolkeeper.operations.load.run import LoadRun

pytestmark = pytest.mark.asyncio

ROWS = 20_000


@pytest.fixture
def small_disk():
    """A directory on a file system of its own, of 1 MiB."""
    directory = Path(tempfile.mkdtemp(prefix="poolkeeper-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        directory.rmdir()
        said = mounted.stderr.strip()
        pytest.skip(f"a file system cannot be mounted here ({said}): run the tests with sudo")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
        directory.rmdir()


async def test_a_load_goes_on_when_there_is_space_again(
    small_disk, crashable_postgres, tmp_path, monkeypatch
):
    """It fails with what to do, and nothing of it has to be done twice."""
    server = crashable_postgres
    process = Path(f"/proc/{server.pid}").stat()
    os.chown(small_disk, process.st_uid, process.st_gid)
    server.psql(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    server.psql("CREATE TABLE t (n int, text text) TABLESPACE small")
    path = tmp_path / "t.csv"
    path.write_text("n,text\n" + "".join(f"{n},{'x' * 50}\n" for n in range(ROWS)))
    monkeypatch.setattr(LoadRun, "sizing", Sizing(50_000, 50_000, 50_000))
    async with create_pool(server.dsn(), min_size=1) as pool:
        operation = await pool.operations.load(path, into="t")
        with pytest.raises(OperationFailedError, match=r"53100.*No space.*Suggestion: free space"):
            await operation.run()
        loaded = await pool.fetchval("SELECT count(*) FROM t")
        assert 0 < loaded < ROWS
        assert (await operation.refresh()).rows_done == loaded
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        await operation.retry()
        assert (await operation.run()).rows_done == ROWS
        assert await pool.fetchval("SELECT count(DISTINCT n) FROM t") == ROWS
        assert await pool.fetchval("SELECT count(*) FROM t") == ROWS
