"""Where records of CSV end, by the rules of PostgreSQL's own parser; pure.

A record ends at a line end outside of quotes. Which bytes are inside is a matter of counting: every
quote character switches, wherever it stands, and a doubled one switches twice. Only with an escape
character of another kind must the bytes be walked through. No field is parsed here: that is COPY's
work.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK: Final = 128 << 10
"""So much is looked at together: what fits into a processor's cache is looked at faster."""
END_OF_COPY: Final = b"\\."
"""Alone on a line of CSV it silently ends a COPY on servers before 18."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What is known of a stretch of bytes that begins with a record.

    Attributes:
        end: Behind the last whole record.
        records: How many whole ones there are.
        lines: How many line ends are among them, those within quotes included.
        open_quote: Whether what follows `end` breaks off inside of quotes.
    """

    end: int
    records: int
    lines: int
    open_quote: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """One record: where in its data, and the line of the file it begins at."""

    begin: int
    end: int
    line: int


class CsvRecords:
    """The rules for one file.

    Args:
        quote: The quote character; None: no byte is one.
        escape: What escapes a quote within quotes; None or the same: a second quote.
        line_end: A line feed, or a carriage return where lines end with nothing else.
    """

    def __init__(
        self, quote: bytes | None = b'"', escape: bytes | None = None, line_end: bytes = b"\n"
    ) -> None:
        self.quote = quote
        self.line_end = line_end
        self._walk: re.Pattern[bytes] | None = None
        if quote is not None:
            self._others = bytes(set(range(256)) - set(quote + line_end))
            self._pair = quote * 2
            if escape is not None and escape != quote:
                self._escape = escape
                self._walk = _walker(quote, escape, line_end)

    def scan(self, data: bytes, begin: int = 0, end: int | None = None) -> Scan:
        """Find the whole records in ``data[begin:end]``, which begins with one."""
        end = len(data) if end is None else end
        if self._walk is not None and data.find(self._escape, begin, end) >= 0:
            return self._scan_walking(self._walk, data, begin, end)
        newline = self.line_end
        if self.quote is None or data.find(self.quote, begin, end) < 0:
            last = data.rfind(newline, begin, end)
            if last < 0:
                return Scan(begin, 0, 0, open_quote=False)
            count = data.count(newline, begin, end)
            return Scan(last + 1, count, count, open_quote=False)
        return self._scan_counting(data, begin, end)

    def _scan_counting(self, data: bytes, begin: int, end: int) -> Scan:
        assert self.quote is not None
        newline = self.line_end
        # Quotes and line ends alone; of the quotes between two line ends only the last odd one.
        marks = b"".join(
            data[at : min(at + BLOCK, end)].translate(None, self._others)
            for at in range(begin, end, BLOCK)
        ).replace(self._pair, b"")
        if self.quote not in marks:
            last = data.rfind(newline, begin, end)
            if last < 0:
                return Scan(begin, 0, 0, open_quote=False)
            return Scan(last + 1, len(marks), len(marks), open_quote=False)
        # Outside, inside, outside, …: each part is a number of line ends.
        parts = [len(part) for part in marks.split(self.quote)]
        open_quote = len(parts) % 2 == 0
        skip = 0
        while parts and (len(parts) % 2 == 0 or parts[-1] == 0):
            skip += parts.pop()
        if not parts:
            return Scan(begin, 0, 0, open_quote=open_quote)
        last = end
        for _ in range(skip + 1):
            last = data.rfind(newline, begin, last)
        return Scan(last + 1, sum(parts[::2]), sum(parts), open_quote=open_quote)

    def _scan_walking(self, walk: re.Pattern[bytes], data: bytes, begin: int, end: int) -> Scan:
        records = 0
        at = begin
        while (match := walk.match(data, at, end)) is not None:
            at = match.end()
            records += 1
        return Scan(
            at, records, data.count(self.line_end, begin, at), open_quote=self._open(data, at, end)
        )

    def _open(self, data: bytes, at: int, end: int) -> bool:
        assert self._walk is not None
        # with a line end added, a record that is not within quotes would be whole
        return self._walk.fullmatch(data[at:end] + self.line_end) is None

    def bounds(self, data: bytes, line: int = 1) -> Iterator[Bounds]:
        """Every record of ``data``, which holds whole ones only; the last may lack its line end.

        Args:
            data: The records.
            line: The line of the file they begin at.
        """
        begin = 0
        size = len(data)
        while begin < size:
            end = self._next_end(data, begin)
            yield Bounds(begin, end, line)
            line += data.count(self.line_end, begin, end)
            begin = end

    def _next_end(self, data: bytes, begin: int) -> int:
        if self._walk is not None:
            match = self._walk.match(data, begin)
            return len(data) if match is None else match.end()
        at = begin
        quotes = 0
        while True:
            newline = data.find(self.line_end, at)
            if newline < 0:
                return len(data)
            if self.quote is not None:
                quotes += data.count(self.quote, at, newline)
            at = newline + 1
            if quotes % 2 == 0:
                return at

    def protect_end_of_copy(self, data: bytes) -> bytes:
        """Quote each record that is nothing but backslash and dot, for servers before 18."""
        if self.quote is None or END_OF_COPY not in data:
            return data
        quoted = self.quote + END_OF_COPY + self.quote
        parts = []
        kept = 0
        for record in self.bounds(data):
            line = data[record.begin : record.end]
            if line.rstrip(b"\r\n") == END_OF_COPY:
                parts += [data[kept : record.begin], quoted, line[len(END_OF_COPY) :]]
                kept = record.end
        parts.append(data[kept:])
        return b"".join(parts)


def _walker(quote: bytes, escape: bytes, newline: bytes) -> re.Pattern[bytes]:
    """One record. Within quotes an escape takes the byte after it along, whatever that is."""
    q, e, n = (re.escape(byte) for byte in (quote, escape, newline))
    inside = rb"[^%b%b]*+(?:%b.[^%b%b]*+)*+%b" % (q, e, e, q, e, q)
    return re.compile(rb"[^%b%b]*+(?:%b%b[^%b%b]*+)*+%b" % (q, n, q, inside, q, n, n), re.DOTALL)


def line_end_of(data: bytes, quote: bytes | None, escape: bytes | None) -> bytes | None:
    """How lines end, by the first one: a carriage return, or a line feed (alone or after one).

    Args:
        data: The beginning of a file.
        quote: See `CsvRecords`.
        escape: See `CsvRecords`.

    Returns:
        None if ``data`` holds no line end outside of quotes.
    """
    found = [
        (scan_end, line_end)
        for line_end in (b"\n", b"\r")
        if (scan_end := _first_end(data, CsvRecords(quote, escape, line_end)))
    ]
    if not found:
        return None
    end, line_end = min(found)
    if line_end == b"\r" and data[end : end + 1] == b"\n":
        return b"\n"
    return line_end


def _first_end(data: bytes, records: CsvRecords) -> int:
    first = next(records.bounds(data), None)
    if first is None or data[first.end - 1 : first.end] != records.line_end:
        return 0
    # The walk ends at the end of the data as well: there it may be inside of quotes.
    return first.end if records.scan(data, 0, first.end).records == 1 else 0


def parse_header(line: str, delimiter: str, quote: str | None, escape: str | None) -> list[str]:
    """The names in the first record of a file."""
    doubled = escape is None or escape == quote
    rows = csv.reader(
        [line],
        delimiter=delimiter,
        quotechar=quote,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        doublequote=doubled,
        escapechar=None if doubled else escape,
    )
    return [name.strip() for name in next(rows, [])]
