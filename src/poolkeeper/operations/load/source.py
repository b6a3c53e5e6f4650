"""What kind of file a source is: by what the user says, else by its name, else by its bytes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.formats import COMPRESSIONS, FORMATS, told_by
from poolkeeper.operations.load import parquet
from poolkeeper.operations.load.compression import GZIP_MAGIC, ZSTD_MAGIC
from poolkeeper.operations.load.csv_records import CsvRecords, line_end_of, parse_header
from poolkeeper.operations.load.encodings import Encoding, check_special_bytes, encoding_of
from poolkeeper.operations.load.errors import SourceError
from poolkeeper.operations.load.layers import UTF8_BOM, Stream
from poolkeeper.operations.load.ndjson import sample_keys
from poolkeeper.operations.load.raw_file import RawFile
from poolkeeper.operations.load.text_reader import MAX_RECORD_BYTES, TextReader, TextRules

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from poolkeeper.operations.formats import Told
    from poolkeeper.operations.kind import Json
    from poolkeeper.operations.load.piece import RecordReader

_OTHERS: Final = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet): unpack it, or save it as CSV",
    b"BZh": "compressed with bzip2: unpack it, or compress it with gzip or zstd",
    b"\xfd7zXZ": "compressed with xz: unpack it, or compress it with gzip or zstd",
    b"PGDMP": "a dump of pg_dump: pg_restore reads it",
    b"PGCOPY\n": "a binary COPY, which only COPY itself can read: psql's \\copy does",
}

HEAD: Final = 1 << 16
SAMPLE: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A file and everything one must know to read it.

    Attributes:
        path: Where it is.
        format: ``csv``, ``ndjson`` or ``parquet``.
        compression: ``none``, ``gzip`` or ``zstd``.
        encoding: Of its text.
        delimiter: Between fields of CSV.
        quote: Around fields of CSV.
        escape: Before a quote within quotes.
        line_end: How its lines end: a line feed (also after a carriage return), or a carriage
            return alone.
        max_record_bytes: Longest record there may be.
    """

    path: str
    format: str
    compression: str
    encoding: Encoding
    delimiter: str
    quote: str
    escape: str
    line_end: str
    max_record_bytes: int

    @classmethod
    def detect(cls, path: str, options: Mapping[str, Any]) -> Source:
        """Find out what is not given.

        Args:
            path: The file.
            options: ``format``, ``compression``, ``encoding``, ``delimiter``, ``quote``,
                ``escape``, ``line_end``, ``max_record_bytes``; None or missing: find out.

        Raises:
            SourceError: It cannot be read, an option has an impossible value, or what it is cannot
                be told.
        """
        _check_options(path, options)
        magic = _magic(path)
        told = told_by(path)
        compression = options.get("compression") or _compression(told, magic)
        format_ = options.get("format") or _format(path, told, compression, magic)
        if format_ == "parquet":
            if compression != "none":
                raise SourceError(
                    f"{path} is a compressed Parquet file. Parquet is compressed inside and must "
                    "be read from many places. Suggestion: unpack it first.",
                    path=path,
                )
            encoding = encoding_of("UTF8", b"", path)
            return cls(path, format_, compression, encoding, ",", '"', '"', "\n", MAX_RECORD_BYTES)
        head, whole = _head(path, compression, None)
        encoding = encoding_of(options.get("encoding"), head, path)
        if encoding.transcode_from is not None:
            head, whole = _head(path, compression, encoding.transcode_from)
        quote = options.get("quote") or '"'
        escape = options.get("escape") or quote
        if format_ == "csv":
            check_special_bytes(encoding, {"quote": quote, "escape": escape}, path)
        is_json = format_ == "ndjson"
        line_end = options.get("line_end") or _line_end(
            head, None if is_json else quote, escape, whole=whole
        )
        return cls(
            path=path,
            format=format_,
            compression=compression,
            encoding=encoding,
            delimiter=options.get("delimiter") or told.delimiter or ",",
            quote=quote,
            escape=escape,
            line_end=line_end,
            max_record_bytes=options.get("max_record_bytes") or MAX_RECORD_BYTES,
        )

    def options(self) -> Json:
        """Everything found out, as the options that ``detect`` takes."""
        return {
            "format": self.format,
            "compression": self.compression,
            "encoding": self.encoding.name,
            "delimiter": self.delimiter,
            "quote": self.quote,
            "escape": self.escape,
            "line_end": self.line_end,
            "max_record_bytes": self.max_record_bytes,
        }

    @property
    def records(self) -> CsvRecords:
        """Where its records end."""
        if self.format == "ndjson":
            return CsvRecords(None, None, self.line_end.encode())
        return CsvRecords(self.quote.encode(), self.escape.encode(), self.line_end.encode())

    def stream(self, abandoned: threading.Event | None = None) -> Stream:
        """Open it as a stream of what COPY will be sent."""
        compression = None if self.compression == "none" else self.compression
        return Stream(self.path, compression, self.encoding.transcode_from, abandoned)

    def reader(
        self,
        *,
        rejecting: bool = False,
        protect_end_of_copy: bool = True,
        columns: Sequence[str] | None = None,
    ) -> RecordReader:
        """Open it; the first piece begins at its very start, where CSV may have a header.

        Args:
            rejecting: Whether to leave out what is no record, instead of raising.
            protect_end_of_copy: Whether the server is older than 18, see `csv_records`.
            columns: Of Parquet: which to read.
        """
        if self.format == "parquet":
            return parquet.ParquetReader(self.path, columns)
        rules = TextRules(
            self.records,
            json=self.format == "ndjson",
            rejecting=rejecting,
            max_record_bytes=self.max_record_bytes,
            codec=self.encoding.codec,
            protect_end_of_copy=protect_end_of_copy,
        )
        return TextReader(self.stream(), rules)

    def header(self) -> tuple[list[str], Json]:
        """The names in the first record of CSV, and the cursor behind it.

        Raises:
            SourceError: There is none, or it cannot be read.
        """
        names, end = self._first_record("strict")
        if not any(names):
            what = "begins with an empty line" if end else "is empty"
            raise SourceError(
                f"{self.path} {what}: it has no header. Suggestion: check the file, or say that it "
                "has no header and name its columns.",
                path=self.path,
                line=1,
            )
        return names, end

    def first_fields(self) -> int:
        """How many fields the first record of CSV has; 0: there is none."""
        return len(self._first_record("replace")[0])

    def begins_with(self, names: Sequence[str]) -> bool:
        """Whether the first record of CSV consists of these names."""
        fields = self._first_record("replace")[0]
        return [field.lower() for field in fields] == [name.lower() for name in names]

    def _first_record(self, errors: str) -> tuple[list[str], Json]:
        with self.stream() as stream:
            rules = TextRules(
                self.records,
                max_record_bytes=self.max_record_bytes,
                codec=self.encoding.codec,
                protect_end_of_copy=False,
            )
            piece = TextReader(stream, rules).read(1)
        if piece is None:
            return [], {}
        record = piece.bounds()[0]
        data = piece.data[: record.end]
        end = {
            "offset": piece.start["offset"] + record.end,
            "line": piece.first_line + data.count(self.line_end.encode()),
        }
        try:
            # without a codec at least names of ASCII are read
            text = data.decode(self.encoding.codec or "latin-1", errors)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"The header of {self.path} is not in the encoding {self.encoding.name}: {error}. "
                "Suggestion: name the encoding the file really has.",
                path=self.path,
                line=1,
            ) from error
        try:
            fields = parse_header(text.rstrip("\r\n"), self.delimiter, self.quote, self.escape)
        except csv.Error as error:
            raise SourceError(
                f"The first line of {self.path} cannot be read as CSV: {error}. Suggestion: name "
                "the format, the delimiter and the quote character the file really has.",
                path=self.path,
                line=1,
            ) from error
        return fields, end

    def keys(self) -> list[str]:
        """The keys of the first objects of NDJSON."""
        with self.stream() as stream:
            return sample_keys(stream.read(SAMPLE), self.line_end.encode())


def _check_options(path: str, options: Mapping[str, Any]) -> None:
    for option, allowed in (("format", FORMATS), ("compression", COMPRESSIONS)):
        value = options.get(option)
        if value is not None and value not in allowed:
            raise SourceError(
                f"{option} is {value!r}. Suggestion: one of {', '.join(allowed)}.", path=path
            )
    for option in ("delimiter", "quote", "escape"):
        value = options.get(option)
        if value and (len(value) != 1 or ord(value) > 0x7F or value in "\r\n\0"):
            raise SourceError(
                f"{option} is {value!r}, but PostgreSQL takes one ASCII character. Suggestion: "
                r"for a tab pass '\t' as the shell's $'\t'.",
                path=path,
            )
    delimiter = options.get("delimiter") or ","
    if delimiter == (options.get("quote") or '"'):
        raise SourceError(f"delimiter and quote are both {delimiter!r}.", path=path)
    limit = options.get("max_record_bytes")
    if limit is not None and limit < 1:
        raise SourceError(f"max_record_bytes is {limit}, but must be positive.", path=path)


def _magic(path: str) -> bytes:
    raw = RawFile(path)
    try:
        return raw.read(16)
    finally:
        raw.close()


def _compression(told: Told, magic: bytes) -> str:
    # What a file contains counts more than its name: no text begins like this.
    if magic.startswith(GZIP_MAGIC):
        return "gzip"
    if magic.startswith(ZSTD_MAGIC):
        return "zstd"
    return told.compression or "none"


def _format(path: str, told: Told, compression: str, magic: bytes) -> str:
    if compression == "none":
        if magic.startswith(parquet.MAGIC):
            return "parquet"
        for beginning, what in _OTHERS.items():
            if magic.startswith(beginning):
                raise SourceError(f"{path} is {what}.", path=path)
    if told.format is not None:
        return told.format
    name = f"The name ends in {told.suffix!r}" if told.suffix else "Its name has no ending"
    raise SourceError(
        f"What format {path} has cannot be told. {name}, which says nothing. Suggestion: "
        "name the format (--format csv, ndjson or parquet).",
        path=path,
    )


def _head(path: str, compression: str, transcode_from: str | None) -> tuple[bytes, bool]:
    """The first bytes, and whether that is all."""
    with Stream(path, None if compression == "none" else compression, transcode_from) as stream:
        mark = UTF8_BOM[: stream.start]
        head = stream.read(HEAD)
        return mark + head if transcode_from is None else head, len(head) < HEAD


def _line_end(head: bytes, quote: str | None, escape: str, *, whole: bool) -> str:
    if not whole and head.endswith(b"\r"):
        # it may be the first half of one
        head = head[:-1]
    found = line_end_of(
        head.removeprefix(b"\xef\xbb\xbf"),
        None if quote is None else quote.encode(),
        escape.encode(),
    )
    return "\r" if found == b"\r" else "\n"
