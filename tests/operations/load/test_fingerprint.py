"""Whether a file is the one that was looked at before."""

import errno
import os
import zlib
from itertools import pairwise

import pytest

from poolkeeper.operations.errors import NotHereError
from poolkeeper.operations.load.errors import (
    SourceChangedError,
    SourceError,
    SourceMissingError,
)
from poolkeeper.operations.load.fingerprint import (
    ENDS,
    TOUCHED,
    UNCHANGED,
    check,
    fingerprint,
    verify_prefix,
)
from poolkeeper.operations.load.layers import Stream
from poolkeeper.operations.load.raw_file import cannot_open

DATA = b"".join(b"%07d\n" % n for n in range(50_000))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def test_same_file_is_the_same(path):
    """By size, time and ends."""
    before = fingerprint(str(path))
    assert before["size"] == len(DATA)
    assert check(str(path), before) == UNCHANGED
    os.utime(path, (1, 1))
    assert check(str(path), before) == TOUCHED


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA + b"x", "has grown from 400,000 to 400,001"),
        (DATA[:-1], "has shrunk"),
        (b"x" + DATA[1:], "first 64 KiB differ"),
        (DATA[:-1] + b"x", "last 64 KiB differ"),
        (b"", "has shrunk"),
    ],
)
def test_another_file_is_refused_with_what_differs(path, data, message):
    """And with what to do."""
    before = fingerprint(str(path))
    path.write_bytes(data)
    with pytest.raises(SourceChangedError, match=f"{message}.*under a new name"):
        check(str(path), before)


def test_missing_file_is_said(path):
    """It may be on another machine."""
    before = fingerprint(str(path))
    path.unlink()
    with pytest.raises(SourceMissingError):
        check(str(path), before)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ESTALE, errno.EIO])
def test_what_one_machine_cannot_open_another_one_may(number):
    """A file that is not one is so everywhere."""
    error = cannot_open("x", OSError(number, os.strerror(number)))
    assert isinstance(error, SourceError)
    assert isinstance(error, NotHereError)
    assert not isinstance(cannot_open("x", OSError(errno.ELOOP, "loop")), NotHereError)


def test_what_was_loaded_is_compared_chunk_by_chunk(path):
    """The chunk that differs is named by bytes and lines."""
    edges = [8, 80_000, 160_008, 240_000]
    chunks = [(begin, end, zlib.crc32(DATA[begin:end])) for begin, end in pairwise(edges)]
    with Stream(str(path), None, None) as stream:
        verify_prefix(stream, chunks, line=2)
    changed = bytearray(DATA)
    changed[ENDS + 20_000] ^= 1
    path.write_bytes(changed)
    with (
        Stream(str(path), None, None) as stream,
        pytest.raises(SourceChangedError, match=r"bytes 80,000 and 160,008 .*lines 10,001 to 20,0"),
    ):
        verify_prefix(stream, chunks, line=2)
