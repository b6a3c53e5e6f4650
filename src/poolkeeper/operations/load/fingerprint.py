"""Whether a file is still the one an operation was created for."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.load.errors import SourceChangedError
from poolkeeper.operations.load.raw_file import RawFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poolkeeper.operations.load.layers import Stream

ENDS: Final = 64 << 10
"""How many bytes at each end are hashed."""
BLOCK: Final = 1 << 20

UNCHANGED: Final = "unchanged"
TOUCHED: Final = "touched"


def fingerprint(path: str) -> dict[str, Any]:
    """What tells this file from others: its size, its time, and hashes of both ends.

    Raises:
        SourceError: It cannot be read.
    """
    raw = RawFile(path)
    try:
        head = raw.read(ENDS)
        raw.seek(max(0, raw.size - ENDS))
        tail = raw.read(ENDS)
        raw.check()
    finally:
        raw.close()
    return {
        "size": raw.size,
        "mtime_ns": raw.mtime_ns,
        "head": hashlib.sha256(head).hexdigest(),
        "tail": hashlib.sha256(tail).hexdigest(),
    }


def check(path: str, before: dict[str, Any]) -> str:
    """Compare a file with the fingerprint it had.

    Returns:
        `UNCHANGED`, or `TOUCHED` if it has another time but the same size and ends: only reading
        it tells whether it is the same, see `verify_prefix`.

    Raises:
        SourceChangedError: It is another file now.
        SourceError: It cannot be read.
    """
    now = fingerprint(path)
    differences = []
    if now["size"] != before["size"]:
        verb = "has grown" if now["size"] > before["size"] else "has shrunk"
        differences.append(f"it {verb} from {before['size']:,} to {now['size']:,} bytes")
    if now["head"] != before["head"]:
        differences.append(f"its first {ENDS >> 10} KiB differ")
    if now["tail"] != before["tail"] and now["size"] == before["size"]:
        differences.append(f"its last {ENDS >> 10} KiB differ")
    if not differences:
        return UNCHANGED if now["mtime_ns"] == before["mtime_ns"] else TOUCHED
    raise SourceChangedError(
        f"{path} is not the file this operation was created for: {', and '.join(differences)}. "
        "Nothing more was loaded; rows committed so far stay. Suggestion: restore the file as it "
        "was and retry the operation, or load the new one under a new name.",
        path=path,
    )


def verify_prefix(stream: Stream, chunks: Iterable[tuple[int, int, int]], line: int = 1) -> None:
    """Read again what was loaded, and compare.

    Args:
        stream: The file.
        chunks: Of what was loaded: offsets of its first byte and of the one after its last, and
            the CRC-32 of what is between.
        line: The line the first chunk begins at.

    Raises:
        SourceChangedError: A chunk is not what was loaded; says which bytes and lines.
        SourceError: The file is damaged.
    """
    for begin, end, checksum in chunks:
        stream.seek(begin)
        crc = 0
        lines = 0
        left = end - max(begin, stream.start)
        while left > 0 and (data := stream.read(min(BLOCK, left))):
            crc = zlib.crc32(data, crc)
            lines += data.count(b"\n")
            left -= len(data)
        if left > 0 or crc != checksum:
            raise SourceChangedError(
                f"{stream.path} has changed where it was already loaded, between bytes {begin:,} "
                f"and {end:,} (about lines {line:,} to {line + lines:,}); size and both ends are "
                "as they were. Nothing more was loaded; rows committed so far stay. Suggestion: "
                "restore the file as it was and retry the operation, or load the new one under a "
                "new name.",
                path=stream.path,
                line=line,
                offset=begin,
            )
        line += lines
