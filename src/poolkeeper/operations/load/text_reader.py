"""CSV and NDJSON in pieces of whole records."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from poolkeeper.operations.kind import Reject
from poolkeeper.operations.load import ndjson
from poolkeeper.operations.load.csv_records import CsvRecords, Scan
from poolkeeper.operations.load.errors import MalformedRecordError
from poolkeeper.operations.load.piece import REJECT_BYTES, Piece, cut, snippet

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from poolkeeper.operations.kind import Json
    from poolkeeper.operations.load.csv_records import Bounds
    from poolkeeper.operations.load.layers import Stream

MAX_RECORD_BYTES: Final = 64 << 20
MOST_REJECTS: Final = 1000
"""Of one piece: they are held in memory."""
SKIP_BLOCK: Final = 1 << 20
BAD_COPY_FILE_FORMAT: Final = "22P04"


@dataclass(frozen=True, slots=True)
class TextRules:
    """How a text is cut.

    Attributes:
        records: Where its records end.
        json: Whether they are JSON, one a line.
        rejecting: Whether to leave out lines that are no records; else they are errors.
        max_record_bytes: Longest record there may be.
        codec: To show text in messages; None: unknown.
        protect_end_of_copy: Whether the server would take a line of backslash and dot for the end.
    """

    records: CsvRecords
    json: bool = False
    rejecting: bool = False
    max_record_bytes: int = MAX_RECORD_BYTES
    codec: str | None = "utf-8"
    protect_end_of_copy: bool = True


class TextReader:
    """A `RecordReader` of a text. Its cursor is ``{"offset", "line"}`` of the decoded stream.

    It holds the piece it hands out and as much again; with a record that has no end, up to
    ``max_record_bytes``.
    """

    def __init__(self, stream: Stream, rules: TextRules) -> None:
        self._stream = stream
        self._rules = rules
        self._records = rules.records
        self.open({"offset": stream.start, "line": 1})

    @property
    def abandoned(self) -> threading.Event:
        """See `RecordReader.abandoned`."""
        return self._stream.abandoned

    @property
    def bytes_total(self) -> int:
        """Size of the file."""
        return self._stream.raw_size

    def open(self, cursor: Json) -> None:
        """Go to a cursor."""
        self._offset = max(int(cursor["offset"]), self._stream.start)
        self._line = int(cursor["line"])
        self._stream.seek(self._offset)
        self._buffer = b""
        self._at = 0
        self._ended = False

    def check(self) -> None:
        """See that the file has not changed."""
        self._stream.check()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._buffer = b""

    def read(self, size: int) -> Piece | None:
        """Read the next piece; see `RecordReader.read`."""
        start = self._cursor()
        checksum = 0
        rejects: list[Reject] = []
        size = max(1, min(size, self._rules.max_record_bytes))
        while len(rejects) < MOST_REJECTS:
            scan = self._scan(size)
            if scan is not None and scan.records:
                source = self._take(scan.end)
                first_line = self._line
                self._line += scan.lines
                checksum = zlib.crc32(source, checksum)
                return self._piece(start, source, scan.records, first_line, checksum, rejects)
            if scan is not None:
                break
            checksum = self._reject(rejects, checksum)
        if not rejects:
            return None
        return self._piece(start, b"", 0, self._line, checksum, rejects)

    def _cursor(self) -> Json:
        return {"offset": self._offset, "line": self._line}

    def _piece(
        self,
        start: Json,
        source: bytes,
        records: int,
        first_line: int,
        checksum: int,
        rejects: list[Reject],
    ) -> Piece:
        data = source
        if self._rules.json:
            tidied = ndjson.tidy(source, first_line, self._records.line_end)
            if tidied is not None:
                data, records = tidied.data, tidied.records
                self._note(rejects, tidied.rejects)
        elif self._rules.protect_end_of_copy:
            data = self._records.protect_end_of_copy(source)
        self._stream.check()
        last = self._ended and self._at == len(self._buffer)
        return Piece(
            data=data,
            records=records,
            start=start,
            end=self._cursor(),
            first_line=first_line,
            checksum=checksum,
            bytes_done=self._bytes_done(),
            size=self._offset - start["offset"],
            last=last,
            rejects=rejects,
            find_bounds=self._bounds_finder(source, data, first_line),
        )

    def _bounds_finder(
        self, source: bytes, data: bytes, first_line: int
    ) -> Callable[[], Sequence[Bounds]]:
        if self._rules.json:
            return lambda: list(ndjson.bounds_of(source, first_line, self._records.line_end))
        return lambda: list(self._records.bounds(data, first_line))

    def _bytes_done(self) -> int:
        raw = self._stream.raw_position
        unread = len(self._buffer) - self._at
        # Of a compressed file it is not known where the unread part begins; there it is small.
        return max(0, raw - unread) if self._stream.is_plain else raw

    def _fill(self, size: int) -> None:
        """Have ``size`` unread bytes in the buffer, if the source has as many."""
        missing = size - (len(self._buffer) - self._at)
        if missing <= 0 or self._ended:
            return
        more = self._stream.read(missing)
        self._ended = len(more) < missing
        self._buffer = self._buffer[self._at :] + more
        self._at = 0

    def _take(self, end: int) -> bytes:
        data = self._buffer[self._at : end]
        self._offset += end - self._at
        self._at = end
        return data

    def _scan(self, size: int) -> Scan | None:
        """The whole records within ``size`` bytes, or the first one; None if it has no end."""
        while True:
            # one byte more tells whether the source ends here
            self._fill(size + 1)
            end = min(self._at + size, len(self._buffer))
            scan = self._records.scan(self._buffer, self._at, end)
            final = self._ended and end == len(self._buffer)
            if final and not scan.open_quote and scan.end < end:
                return Scan(end, scan.records + 1, scan.lines, open_quote=False)
            if scan.records or self._at == end:
                return scan
            if final or size >= self._rules.max_record_bytes:
                return None
            size = min(size * 2, self._rules.max_record_bytes)

    # Records without an end --------------------------------------------------------------------

    def _reject(self, rejects: list[Reject], checksum: int) -> int:
        """Step over the line that begins a record without an end, or raise."""
        line, offset = self._line, self._offset
        reason = self._reason()
        if not self._rules.rejecting:
            raise self._error(reason)
        raw, checksum = self._skip_line(checksum)
        rejects.append(Reject(line, raw, BAD_COPY_FILE_FORMAT, f"{reason} (byte {offset:,})"))
        return checksum

    def _skip_line(self, checksum: int) -> tuple[bytes, int]:
        """Go behind the end of this line, of which only the beginning is kept."""
        raw = b""
        while True:
            end = self._buffer.find(self._records.line_end, self._at) + 1
            part = self._take(end or len(self._buffer))
            checksum = zlib.crc32(part, checksum)
            raw += part[: REJECT_BYTES - len(raw)]
            if end:
                self._line += 1
            if end or self._ended:
                return cut(raw.rstrip(b"\r\n")), checksum
            self._fill(SKIP_BLOCK)

    def _reason(self) -> str:
        limit = self._rules.max_record_bytes
        unread = len(self._buffer) - self._at
        if unread > limit:
            what = f"the record is longer than {limit:,} bytes"
            quote = self._records.quote
            line_end = self._buffer.find(self._records.line_end, self._at, self._at + limit)
            if quote is None or line_end < 0:
                return what
            return f"{what}; most likely a quote in its first line is not closed"
        return (
            f"a quote is not closed: the file ends after {unread:,} more bytes, inside of a quoted "
            "field"
        )

    def _error(self, reason: str) -> MalformedRecordError:
        head = self._buffer[self._at : self._at + 1000]
        shown = snippet(head.partition(self._records.line_end)[0], self._rules.codec)
        mend = "mend the line"
        if self._records.quote is not None:
            mend += ", name the quote character the file really has"
        if len(self._buffer) - self._at > self._rules.max_record_bytes:
            mend += ", raise max_record_bytes if such records are meant"
        return MalformedRecordError(
            f"{self._stream.path}, line {self._line:,} (byte {self._offset:,}): {reason}. "
            f"The line begins: {shown}. Rows before it stay. Suggestion: {mend}, or leave such "
            "lines out with --on-bad-row reject.",
            path=self._stream.path,
            line=self._line,
            offset=self._offset,
        )

    def _note(self, rejects: list[Reject], more: list[Reject]) -> None:
        if more and not self._rules.rejecting:
            first = more[0]
            raise MalformedRecordError(
                f"{self._stream.path}, line {first.line:,}: {first.message}. The line begins: "
                f"{snippet(first.raw, self._rules.codec)}. Rows before it stay. Suggestion: mend "
                "the line, or leave such lines out with --on-bad-row reject.",
                path=self._stream.path,
                line=first.line,
            )
        rejects.extend(more)
