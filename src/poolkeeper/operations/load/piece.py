"""A stretch of a source, ready for COPY."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from poolkeeper.operations.kind import Json, Reject
    from poolkeeper.operations.load.csv_records import Bounds

_CONTROL: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(32), 127) if code != 9},
    10: "\\n",
    13: "\\r",
}
"""How control characters are shown: messages are kept in the database, which knows no NUL."""

REJECT_BYTES: Final = 64 << 10
"""How much of a row is kept in the table of rejects."""


@dataclass(slots=True)
class Piece:
    """Whole records, with where they are in the source.

    Attributes:
        data: What to send to COPY.
        records: How many rows that is; COPY must count the same.
        start: Cursor of its first byte; JSON.
        end: Cursor behind its last.
        first_line: Line of the source at which `data` begins, from 1; of Parquet, its row.
        checksum: CRC-32 of the source between the cursors.
        bytes_done: How far in the file, as it lies on disk, its reader has got.
        size: Bytes of the decoded source between the cursors.
        last: Whether nothing comes after it.
        rejects: Lines between the cursors that are no records.
    """

    data: bytes
    records: int
    start: Json
    end: Json
    first_line: int
    checksum: int
    bytes_done: int
    size: int
    last: bool
    rejects: list[Reject] = field(default_factory=list)
    find_bounds: Callable[[], Sequence[Bounds]] | None = None
    _bounds: Sequence[Bounds] | None = None

    def bounds(self) -> Sequence[Bounds]:
        """Where each record is in `data`; found when asked for first, as only bad rows need it."""
        if self._bounds is None:
            assert self.find_bounds is not None
            self._bounds = self.find_bounds()
        return self._bounds


class RecordReader(Protocol):
    """Reads a source in pieces. All methods block: call them in a thread.

    Not for two threads at a time.
    """

    @property
    def abandoned(self) -> threading.Event:
        """What a thread does with it ends within about a second once this is set, by any exception.

        Then it must be opened anew.
        """

    @property
    def bytes_total(self) -> int:
        """Size of the file as it lies on disk."""

    def open(self, cursor: Json) -> None:
        """Go to a cursor; the next piece begins there."""

    def read(self, size: int) -> Piece | None:
        """Read the next piece.

        Args:
            size: About how many bytes of data; a longer record is a piece of its own.

        Returns:
            None at the end of the source.

        Raises:
            SourceError: The source is damaged or has changed, or a record has no end.
        """

    def check(self) -> None:
        """See that the file has not changed since it was opened.

        Raises:
            SourceChangedError: It has.
        """

    def close(self) -> None:
        """Close the file; idempotent."""


def cut(raw: bytes) -> bytes:
    """As much of a row as is kept of it."""
    return raw[:REJECT_BYTES]


def snippet(raw: bytes, codec: str | None, limit: int = 200) -> str:
    """The beginning of a row as text for an error message."""
    text = raw[: limit * 4].decode(codec or "ascii", errors="backslashreplace").rstrip("\r\n")
    text = text.translate(_CONTROL)
    shown: str = text if len(text) <= limit else text[:limit] + "…"
    return shown.encode("utf-8", errors="backslashreplace").decode()
