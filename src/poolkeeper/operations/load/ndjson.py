"""Lines of JSON, which pass through as they are; pure.

They are sent to COPY as CSV of one column whose quote and delimiter are control characters. Those
cannot occur in JSON, so COPY finds no structure in a line, and a backslash means nothing to it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from poolkeeper.operations.kind import Reject
from poolkeeper.operations.load.csv_records import Bounds
from poolkeeper.operations.load.piece import cut

if TYPE_CHECKING:
    from collections.abc import Iterator

QUOTE: Final = "\x01"
DELIMITER: Final = "\x02"
INVALID_JSON: Final = "22P02"

_CONTROL: Final = (b"\x00", b"\x01", b"\x02")
_SPACE: Final = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Tidied:
    """Lines without those that are no records.

    Attributes:
        data: What is left.
        records: How many lines that is.
        rejects: Lines that cannot be JSON.
    """

    data: bytes
    records: int
    rejects: list[Reject]


def tidy(data: bytes, line: int, line_end: bytes) -> Tidied | None:
    """Leave out blank lines and lines that would confuse COPY; None: there are none.

    Args:
        data: Whole lines.
        line: Line of the file the first of them is.
        line_end: How each ends.
    """
    if not _suspicious(data, line_end):
        return None
    kept: list[bytes] = []
    rejects: list[Reject] = []
    for bounds in _lines(data, line, line_end):
        text = data[bounds.begin : bounds.end]
        reason = _why_not(text)
        if reason is not None:
            rejects.append(Reject(bounds.line, cut(text.rstrip(_SPACE)), INVALID_JSON, reason))
        elif text.strip(_SPACE):
            kept.append(text)
    return Tidied(b"".join(kept), len(kept), rejects)


def bounds_of(data: bytes, line: int, line_end: bytes) -> Iterator[Bounds]:
    """Where the records of ``data`` are once it is tidied, with their lines in the file."""
    begin = 0
    for bounds in _lines(data, line, line_end):
        text = data[bounds.begin : bounds.end]
        if text.strip(_SPACE) and _why_not(text) is None:
            yield Bounds(begin, begin + len(text), bounds.line)
            begin += len(text)


def sample_keys(data: bytes, line_end: bytes = b"\n", limit: int = 1000) -> list[str]:
    """The keys of the first objects, in the order they appear; lines that are none are skipped."""
    keys: dict[str, None] = {}
    for line in data.split(line_end, limit)[:limit]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            keys.update(dict.fromkeys(value))
    return list(keys)


def _suspicious(data: bytes, line_end: bytes) -> bool:
    # A line that begins with space may be blank; one with a backslash may end a COPY.
    return (
        data[:1] in {b" ", b"\t", b"\r", b"\n", b"\\"}
        or any(byte in data for byte in _CONTROL)
        or any(line_end + first in data for first in (b"\n", b"\r", b" ", b"\t", b"\\"))
    )


def _why_not(line: bytes) -> str | None:
    for byte in _CONTROL:
        if byte in line:
            return f"the control character 0x{byte.hex()} cannot occur in JSON"
    if line.startswith(b"\\"):
        return "JSON does not begin with a backslash"
    return None


def _lines(data: bytes, line: int, line_end: bytes) -> Iterator[Bounds]:
    begin = 0
    while begin < len(data):
        end = data.find(line_end, begin) + 1 or len(data)
        yield Bounds(begin, end, line)
        begin = end
        line += 1
