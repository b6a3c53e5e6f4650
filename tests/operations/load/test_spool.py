"""What comes from a pipe is kept until it is loaded."""

import io
import stat

import pytest

from poolkeeper.operations.load.errors import SourceError
from poolkeeper.operations.load.spool import remove, spool, spool_dir


def test_stream_becomes_a_private_file(tmp_path):
    """Complete, under a name of its own, readable by this user alone."""
    directory = tmp_path / "spool"
    data = bytes(range(256)) * 10_000
    path = spool(io.BytesIO(data), "../orders 2024", directory)
    other = spool(io.BytesIO(b""), "../orders 2024", directory)
    assert path.read_bytes() == data
    assert other.read_bytes() == b""
    assert path.parent == other.parent == directory
    assert path != other
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_interrupted_stream_leaves_nothing(tmp_path):
    """Nor does a disk that is full."""

    class Torn(io.BytesIO):
        def read(self, size=-1, /):
            if self.tell() > 1 << 20:
                raise OSError(28, "No space left on device")
            return super().read(size)

    with pytest.raises(SourceError, match=r"No space left.*XDG_STATE_HOME"):
        spool(Torn(bytes(4 << 20)), "x", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_spooled_files_are_removed(tmp_path):
    """A user's file of any name is not ours."""
    path = spool(io.BytesIO(b"a"), "x", tmp_path)
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
