"""What comes from a pipe is kept until it is loaded."""

import io
import stat
import subprocess
import sys

import pytest

from poolkeeper.operations.load.errors import SourceError
from poolkeeper.operations.load.spool import remove, spool, spool_dir


def kept(directory):
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def test_stream_becomes_a_private_file(tmp_path):
    """Complete, readable by this user alone."""
    directory = tmp_path / "spool"
    data = bytes(range(256)) * 10_000
    spooled = spool(io.BytesIO(data), "../orders 2024 \udcff", directory)
    assert spooled.path.read_bytes() == data
    assert spooled.path.parent == directory
    assert spooled.is_new
    assert stat.S_IMODE(spooled.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    remove(spooled.path, directory)


def test_same_bytes_are_the_same_file(tmp_path):
    """Also after it was removed; other bytes, and the same for something else, are another one."""
    first = spool(io.BytesIO(b"a" * 3_000_000), "x", tmp_path)
    before = first.path.stat()
    again = spool(io.BytesIO(b"a" * 3_000_000), "x", tmp_path)
    assert (again.path, again.is_new) == (first.path, False)
    # those who read it must not see it change
    assert (again.path.stat().st_ino, again.path.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    assert kept(tmp_path) == [first.path.name]
    remove(first.path, tmp_path)
    assert kept(tmp_path) == []
    once_more = spool(io.BytesIO(b"a" * 3_000_000), "x", tmp_path)
    assert (once_more.path, once_more.is_new) == (first.path, True)
    others = {
        spool(io.BytesIO(data), name, tmp_path).path
        for data, name in ((b"b", "x"), (b"", "x"), (b"b", "a b"), (b"b", "a_b"))
    }
    assert len(others - {first.path}) == 4


HOLDER = """
import io, sys
from pathlib import Path
from poolkeeper.operations.load.spool import spool

class Stream(io.BytesIO):
    def read(self, size=-1, /):
        if sys.argv[2] == "spooling" and self.tell():
            print("held", flush=True)
            sys.stdin.read()
        return super().read(size)

spool(Stream(b"a"), "x", Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def holder(directory, state):
    """Another process, which has the bytes ``a`` locked, or a part of them, until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    return process


def test_file_another_process_loads_stays(tmp_path):
    """Into another database, say: the last one removes it."""
    with holder(tmp_path, "spooled") as other:
        mine = spool(io.BytesIO(b"a"), "x", tmp_path)
        assert not mine.is_new
        assert remove(mine.path, tmp_path)
        assert mine.path.exists()
        other.kill()
        other.communicate()
    assert remove(mine.path, tmp_path)
    assert not mine.path.exists()


def test_what_killed_processes_have_left_is_removed(tmp_path):
    """And nothing of those that live."""
    with holder(tmp_path, "spooling") as other:
        [incomplete] = kept(tmp_path)
        mine = spool(io.BytesIO(b"b"), "x", tmp_path)
        assert incomplete in kept(tmp_path)
        other.kill()
        other.communicate()
    assert incomplete in kept(tmp_path)
    spool(io.BytesIO(b"b"), "x", tmp_path)
    assert kept(tmp_path) == [mine.path.name]


def test_interrupted_stream_leaves_nothing(tmp_path):
    """Nor does a disk that is full."""

    class Torn(io.BytesIO):
        def read(self, size=-1, /):
            if self.tell() > 1 << 20:
                raise OSError(28, "No space left on device")
            return super().read(size)

    with pytest.raises(SourceError, match=r"No space left.*XDG_STATE_HOME"):
        spool(Torn(bytes(4 << 20)), "x", tmp_path)
    assert kept(tmp_path) == []


def test_only_spooled_files_are_removed(tmp_path):
    """A user's file of any name is not ours."""
    path = spool(io.BytesIO(b"a"), "x", tmp_path).path
    mine = tmp_path / "mine.csv"
    mine.write_bytes(b"")
    elsewhere = tmp_path / "sub" / "x.spool"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"")
    assert not remove(mine, tmp_path)
    assert not remove(elsewhere, tmp_path)
    assert remove(path, tmp_path)
    assert remove(path, tmp_path)
    assert mine.exists()
    assert elsewhere.exists()
    assert not path.exists()


def test_directory_is_that_of_the_user():
    """$XDG_STATE_HOME, if it is a path."""
    assert str(spool_dir({"XDG_STATE_HOME": "/state"})) == "/state/poolkeeper/spool"
    assert spool_dir({"XDG_STATE_HOME": "state"}) == spool_dir({})
