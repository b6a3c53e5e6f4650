"""What an export does to the directory it goes to, and what it says when that cannot be."""

import resource
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.export import (
    ExportError,
    ExportFileMissingError,
    ExportTargetExistsError,
)
from poolkeeper.operations.export.errors import file_error
from poolkeeper.operations.export.growing import GrowingFile
from tests.operations.export.driving import Export, Interrupted, everything, export, files

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def table(admin):
    await admin.execute(
        """create table t (id int primary key, text text);
        insert into t select g, md5(g::text) from generate_series(1, 4000) g"""
    )


async def test_nothing_is_visible_before_it_is_complete(postgres, table, tmp_path):
    for to in (tmp_path / "parts", tmp_path / "out.csv"):
        to.parent.mkdir(exist_ok=True)
        made = await Export.prepare(postgres.url, table="t", to=str(to))
        with pytest.raises(Interrupted):
            await made.run(size=100, interrupt="after the commit", at=4)
    assert not (tmp_path / "out.csv").exists()
    assert files(tmp_path / "parts") == {}
    assert everything(tmp_path / "parts")[0].startswith(".part-000001.csv.")


@pytest.mark.parametrize("to", ["out.csv", "parts"])
async def test_files_that_are_there_are_refused(postgres, table, tmp_path, to):
    await export(postgres.url, table="t", to=str(tmp_path / to))
    before = files(tmp_path if to == "out.csv" else tmp_path / to)
    with pytest.raises(ExportTargetExistsError, match=r"exists\. Suggestion.*overwrite"):
        await Export.prepare(postgres.url, table="t", to=str(tmp_path / to))
    assert files(tmp_path if to == "out.csv" else tmp_path / to) == before


async def test_a_file_that_appears_meanwhile_is_not_replaced(postgres, table, tmp_path):
    """What was exported is kept, and goes there when the file is out of the way."""
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / "out.csv"))
    with pytest.raises(Interrupted):
        await made.run(size=100, interrupt="after the commit", at=3)
    (tmp_path / "out.csv").write_text("somebody else's")
    with pytest.raises(ExportTargetExistsError):
        await made.run(size=100)
    assert (tmp_path / "out.csv").read_text() == "somebody else's"
    (tmp_path / "out.csv").unlink()
    await made.run(size=100)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4001


async def test_a_file_is_overwritten_when_its_successor_is_complete(postgres, table, tmp_path):
    (tmp_path / "out.csv").write_text("old")
    made = await Export.prepare(
        postgres.url, table="t", to=str(tmp_path / "out.csv"), overwrite=True
    )
    with pytest.raises(Interrupted):
        await made.run(size=100, interrupt="after the commit", at=5)
    assert (tmp_path / "out.csv").read_text() == "old"
    await made.run(size=100)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4001
    assert everything(tmp_path) == ["out.csv"]


async def test_part_files_of_a_longer_export_are_gone_after_overwriting(postgres, table, tmp_path):
    """Other files in the directory stay."""
    parts = tmp_path / "parts"
    await export(postgres.url, table="t", to=str(parts), part_bytes=10_000, size=10)
    (parts / "notes.txt").write_text("mine")
    assert len(files(parts)) > 5
    await export(
        postgres.url, table="t", where="id < 10", to=str(parts), part_bytes=10_000, overwrite=True
    )
    assert everything(parts) == ["notes.txt", "part-000001.csv"]
    assert len((parts / "part-000001.csv").read_text().splitlines()) == 10


@pytest.mark.parametrize("steps", range(1, 5))
async def test_a_worker_that_was_frozen_deletes_nothing_of_a_newer_export(
    postgres, table, tmp_path, steps
):
    """Its export has been finished by another one, and a longer one has gone to the same place."""
    spec = {"table": "t", "to": str(tmp_path), "part_bytes": 10_000, "overwrite": True}
    await export(postgres.url, size=10, **spec)
    short = await Export.prepare(postgres.url, **spec | {"where": "id < 10"})
    frozen = short.start()
    connection = await asyncpg.connect(postgres.url)
    seq = await short.begin(connection, frozen)
    done = False
    while not done and seq < steps:
        done = await short.step(connection, frozen, seq)
        seq += 1
    if not done:
        await short.run()
    assert everything(tmp_path) == ["part-000001.csv"]
    await export(postgres.url, size=10, **spec)
    newer = files(tmp_path)
    assert len(newer) > 5
    if not done:
        with pytest.raises((AssertionError, ExportError)):
            await short.step(connection, frozen, seq)
    assert files(tmp_path) == newer
    await frozen.close()
    await connection.close()


@pytest.mark.parametrize("to", ["out.csv", "parts"])
async def test_a_full_disk_ends_the_export_and_it_goes_on_when_there_is_room(
    postgres, table, tmp_path, to
):
    """A limit on the size of files stands for it: the write fails in the same place."""
    spec = {"part_bytes": 1_000_000} if to == "parts" else {}
    made = await Export.prepare(postgres.url, table="t", to=str(tmp_path / to), **spec)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ExportError, match=r"Cannot write to .*Suggestion") as caught:
            await made.run(size=50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.path is not None
    assert caught.value.bytes_free > 0
    await made.run(size=50)
    path = tmp_path / to
    path = path / "part-000001.csv" if to == "parts" else path
    assert [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]] == list(
        range(1, 4001)
    )


async def test_a_full_disk_is_told_with_the_room_that_is_left():
    file = GrowingFile.reopen(Path("/dev/full"), 0)
    with pytest.raises(ExportError, match=r"No space left on device \([\d,]+ bytes free\).*retry"):
        file.write([b"x"])
    file.close()


async def test_a_missing_permission_is_told_with_whom_it_is_for():
    error = file_error(PermissionError(13, ""), Path("/etc/out.csv"), "create")
    assert "let user" in str(error)
    assert isinstance(error, OperationError)


async def test_a_missing_directory_is_refused_and_that_of_parts_is_made(postgres, table, tmp_path):
    with pytest.raises(ExportFileMissingError, match=r"Suggestion: create the directory"):
        await Export.prepare(postgres.url, table="t", to=str(tmp_path / "not" / "out.csv"))
    with pytest.raises(ExportFileMissingError):
        await Export.prepare(postgres.url, table="t", to=str(tmp_path / "not" / "there"))
    await export(postgres.url, table="t", to=str(tmp_path / "parts"))
    assert everything(tmp_path / "parts") == ["part-000001.csv"]


async def test_a_file_is_no_directory(postgres, table, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"Not a directory.*Suggestion"):
        await Export.prepare(postgres.url, table="t", to=str(tmp_path / "file" / "out.csv"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"to": "out.csv"}, "not an absolute path"),
        ({"to": None}, "where the export goes"),
        ({"table": None}, "exactly one"),
        ({"query": "select 1"}, "exactly one"),
        ({"table": None, "query": "select 1", "where": "true"}, "into the query"),
        ({"format": "xml"}, "csv, ndjson, parquet"),
        ({"compression": "gz"}, "none, gzip, zstd"),
        ({"to": "/tmp/x.ndjson", "delimiter": ";"}, "format is ndjson"),
        ({"to": "/tmp/x.parquet.gz"}, "compressed inside.*'gzip'"),
        ({"part_bytes": 0}, "number of bytes"),
        ({"part_bytes": "much"}, "type int"),
        ({"parts": False, "part_bytes": 9}, "leave out one"),
        ({"parts": False}, "is a directory"),
        ({"colour": "red"}, "no option 'colour'"),
        ({"table": "nowhere"}, "no table 'nowhere'"),
        ({"table": "other.too.many.names"}, "no table 'other.too.many.names'"),
        ({"columns": ["id", "nothing"]}, "no column 'nothing'"),
        ({"key": ["nothing"]}, "no column 'nothing'"),
        ({"where": "id ="}, "database refuses"),
        ({"delimiter": "ab"}, "database refuses"),
        ({"table": None, "query": "selec 1", "key": "id"}, "database refuses"),
        ({"table": None, "query": "delete from t returning id", "key": "id"}, "has to be a SELECT"),
        ({"table": None, "query": "select 1 as id; drop table t", "key": "id"}, "database refuses"),
        ({"table": None, "query": "select 1 as id, 2 as id", "key": "id"}, "several columns 'id'"),
        ({"table": None, "query": "select point(1, 2) as k", "key": "k"}, "database refuses"),
        ({"table": None, "query": "select nextval('s') as k", "key": "k"}, "read-only"),
    ],
)
async def test_what_cannot_be_exported_is_told_before_anything_happens(
    postgres, admin, table, tmp_path, given, said
):
    await admin.execute("create sequence s")
    spec = {"table": "t", "to": str(tmp_path)} | given
    with pytest.raises(ExportError, match=rf"(?s){said}") as caught:
        await Export.prepare(postgres.url, **spec)
    assert "Suggestion: " in str(caught.value)
    assert everything(tmp_path) == []
