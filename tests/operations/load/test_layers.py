"""Compressed and encoded files as streams with positions."""

import gzip
import os
import threading
import zlib

import pytest

from poolkeeper.operations.load.errors import AbandonedError, SourceError
from poolkeeper.operations.load.forward import Skipping
from poolkeeper.operations.load.layers import Stream

zstd = pytest.importorskip("backports.zstd")

TEXT = "".join(f"{i},Zoë {i},\N{SNOWMAN}\n" for i in range(20_000))
DATA = TEXT.encode()

PACKED = {
    "plain": (None, None, DATA),
    "gzip": ("gzip", None, gzip.compress(DATA)),
    "gzip of three members": (
        "gzip",
        None,
        gzip.compress(DATA[:5]) + gzip.compress(b"") + gzip.compress(DATA[5:]),
    ),
    "gzip padded with zeros": ("gzip", None, gzip.compress(DATA) + bytes(1000)),
    "zstd": (
        "zstd",
        None,
        zstd.compress(DATA, options={zstd.CompressionParameter.checksum_flag: 1}),
    ),
    "zstd of two frames": ("zstd", None, zstd.compress(DATA[:9]) + zstd.compress(DATA[9:])),
    "utf-16": (None, "utf-16", TEXT.encode("utf-16")),
    "utf-16-be": (None, "utf-16-be", TEXT.encode("utf-16-be")),
    "utf-32 in gzip": ("gzip", "utf-32", gzip.compress(TEXT.encode("utf-32"))),
}


@pytest.fixture(params=PACKED.values(), ids=PACKED)
def stream(request, tmp_path):
    compression, codec, packed = request.param
    path = tmp_path / "file"
    path.write_bytes(packed)
    with Stream(str(path), compression, codec) as opened:
        yield opened


def test_every_layer_gives_the_same_bytes(stream):
    """In reads of any size; only the last one is short."""
    parts = []
    while part := stream.read(99_991):
        parts.append(part)
    assert b"".join(parts) == DATA
    assert {len(part) for part in parts[:-1]} == {99_991}
    assert stream.raw_position == stream.raw_size


def test_seek_goes_forward_and_back(stream):
    """Positions are those of the decoded bytes."""
    for offset in (100, 5, 300_000, 299_999, 0, len(DATA)):
        stream.seek(offset)
        assert stream.read(1000) == DATA[offset : offset + 1000]
    with pytest.raises(SourceError, match="already loaded up to byte"):
        stream.seek(len(DATA) + 1)


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("kept", [0.5, 0.999, 3, -1])
def test_truncated_file_is_an_error_with_its_place(tmp_path, name, kept):
    """Wherever it was cut."""
    packed = PACKED[name][2]
    cut = packed[: int(len(packed) * kept)] if isinstance(kept, float) else packed[:kept]
    path = tmp_path / "file"
    path.write_bytes(cut)
    with pytest.raises(SourceError) as caught, Stream(str(path), name, None) as stream:
        while stream.read(1000):
            pass
    message = str(caught.value)
    assert "truncated" in message
    assert "Suggestion: " in message
    assert f"at byte {len(cut):,} of {len(cut):,}" in message


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_damage_is_an_error(tmp_path, name):
    """Flipped bits and what follows the end, and files that are something else or empty."""
    packed = PACKED[name][2]
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    for data, word in (
        (bytes(flipped), "damaged|truncated"),
        (packed + b"garbage", "something after the end"),
        (b"id,name\n", "is no"),
        (b"", "is empty"),
    ):
        path = tmp_path / "file"
        path.write_bytes(data)
        with pytest.raises(SourceError, match=word), Stream(str(path), name, None) as stream:
            while stream.read(100_000):
                pass


def test_bomb_is_unpacked_in_bounded_blocks(tmp_path):
    """A file of zeros a thousand times its size is not held whole."""
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(bytes(64 << 20)))
    with Stream(str(path), "gzip", None) as stream:
        assert len(stream.read(100)) == 100
        assert len(stream._layer._pending) <= 1 << 18
        crc, size = 0, 100
        while data := stream.read(1 << 20):
            size += len(data)
            crc = zlib.crc32(data, crc)
        assert size == 64 << 20


@pytest.mark.parametrize("data", [b"a\x00b", "a".encode("utf-16") + b"\x00\xd8\x41\x00"])
def test_undecodable_text_is_an_error(tmp_path, data):
    """Half a character, half a surrogate pair."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(SourceError, match="is not in the encoding utf-16"):
        Stream(str(path), None, "utf-16").read(100)


def test_what_cannot_be_opened_is_said(tmp_path):
    """Missing files, directories, pipes."""
    os.mkfifo(tmp_path / "pipe")
    for name, word in (
        ("missing", "does not exist"),
        (".", "is a directory"),
        ("pipe", "standard input"),
    ):
        with pytest.raises(SourceError, match=word) as caught:
            Stream(str(tmp_path / name), None, None)
        assert "Suggestion: " in str(caught.value)


def test_unreadable_file_is_said(tmp_path):
    """By whom it cannot be read does not matter: not by us."""
    path = tmp_path / "secret.csv"
    path.write_bytes(b"a\n")
    path.chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(SourceError, match="may not be read by this user"):
            Stream(str(path), None, None)
    finally:
        os.seteuid(was)


def test_long_way_is_not_gone_to_its_end_when_nobody_waits():
    """A skip looks after every block; so does whoever reads a stream."""
    abandoned = threading.Event()

    class Endless(Skipping):
        def _decode(self, size):
            if self.position > 4 * size:
                abandoned.set()
            return bytes(size)

    endless = Endless("x", abandoned)
    with pytest.raises(AbandonedError):
        endless.seek(1 << 60)
    assert endless.position < 1 << 24


@pytest.mark.parametrize("options", [(None, None), ("gzip", None), ("gzip", "utf-16")])
def test_abandoned_stream_is_not_read(tmp_path, options):
    """Until it is taken up again."""
    path = tmp_path / "x"
    data = b"text\n" * 1000
    raw = data.decode().encode("utf-16") if options[1] else data
    path.write_bytes(gzip.compress(raw) if options[0] else raw)
    with Stream(str(path), *options) as stream:
        stream.abandoned.set()
        with pytest.raises(AbandonedError):
            stream.read(5)
        if options[0]:
            with pytest.raises(AbandonedError):
                stream.seek(1000)
        stream.abandoned.clear()
        stream.seek(1000)
        assert stream.read(5) == b"text\n"
