"""Parquet in pieces of CSV, row group by row group."""

from __future__ import annotations

import importlib
import io
import json
import threading
import zlib
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.load.csv_records import CsvRecords
from poolkeeper.operations.load.errors import AbandonedError, SourceError
from poolkeeper.operations.load.piece import Piece
from poolkeeper.operations.load.raw_file import RawFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poolkeeper.operations.kind import Json

MAGIC: Final = b"PAR1"
FIRST_BATCH: Final = 1024
MOST_ROWS: Final = 1 << 16
READ_BUFFER: Final = 1 << 20


class ParquetReader:
    """A `RecordReader` of a Parquet file. Its cursor is ``{"row_group", "row"}``.

    Rows become CSV in which text is quoted and null is not, so that empty text and null differ.
    Lists, structs and maps become JSON; binary becomes what ``bytea`` reads.

    Args:
        path: The file.
        columns: Which of its columns to hand out, in this order; None: all.

    Raises:
        SourceError: It is no Parquet file, lacks a column, or has one that cannot become text.
    """

    def __init__(self, path: str, columns: Sequence[str] | None = None) -> None:
        self._path = path
        self.abandoned = threading.Event()
        self._pa, self._pc, self._pq, self._csv = _import_pyarrow(path)
        # looked at through our own eyes first, for its errors and to see it change
        self._raw = RawFile(path)
        try:
            self._file = self._pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BUFFER)
            schema = self._file.schema_arrow
        except (self._pa.ArrowException, OSError) as error:
            self._raw.close()
            raise SourceError(
                f"{path} is no Parquet file that can be read: {_first_line(error)}. Suggestion: "
                "copy or download it again if it should be one, or name its format.",
                path=path,
            ) from error
        except BaseException:
            self._raw.close()
            raise
        self.names: list[str] = list(schema.names)
        """All columns of the file."""
        self._columns = list(self.names if columns is None else columns)
        try:
            self._convert = [self._converter_of(name, schema) for name in self._columns]
        except BaseException:
            self.close()
            raise
        metadata = self._file.metadata
        self._groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._group_bytes = [
            metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)
        ]
        self.rows_total: int = metadata.num_rows
        self._bytes_per_row: float | None = None
        self.open({"row_group": 0, "row": 0})

    @property
    def bytes_total(self) -> int:
        """Size of the file."""
        return self._raw.size

    def open(self, cursor: Json) -> None:
        """Go to a cursor; within a row group that means decoding what is before it."""
        self._group = int(cursor["row_group"])
        self._row = int(cursor["row"])
        self._steps: Iterator[Any] | None = None
        self._rest: Any = None

    def check(self) -> None:
        """See that the file has not changed."""
        self._raw.check()

    def close(self) -> None:
        """Close the file."""
        self._steps = None
        self._file.close()
        self._raw.close()

    def read(self, size: int) -> Piece | None:
        """Read the next piece; see `RecordReader.read`. It never spans two row groups."""
        while self._group < len(self._groups) and self._row >= self._groups[self._group]:
            self._next_group()
        if self._group >= len(self._groups):
            return None
        start = self._cursor()
        first_line = sum(self._groups[: self._group]) + self._row + 1
        parts: list[bytes] = []
        records = done = 0
        while done < size:
            batch = self._next_rows(self._rows_for(size - done))
            if batch is None:
                break
            data = self._to_csv(batch)
            parts.append(data)
            done += len(data)
            records += batch.num_rows
            self._bytes_per_row = len(data) / batch.num_rows
        self._row += records
        if self._row >= self._groups[self._group]:
            self._next_group()
        self._raw.check()
        data = b"".join(parts)
        return Piece(
            data=data,
            records=records,
            start=start,
            end=self._cursor(),
            first_line=first_line,
            checksum=zlib.crc32(data),
            bytes_done=self._bytes_done(),
            size=len(data),
            last=self._group >= len(self._groups),
            find_bounds=lambda: list(CsvRecords().bounds(data, first_line)),
        )

    def _cursor(self) -> Json:
        return {"row_group": self._group, "row": self._row}

    def _next_group(self) -> None:
        self.open({"row_group": self._group + 1, "row": 0})
        while self._group < len(self._groups) and not self._groups[self._group]:
            self._group += 1

    def _bytes_done(self) -> int:
        done = sum(self._group_bytes[: self._group])
        if self._group < len(self._groups):
            rows = self._groups[self._group] or 1
            done += self._group_bytes[self._group] * self._row // rows
        whole = sum(self._group_bytes) or 1
        return int(self._raw.size * (done / whole))

    def _rows_for(self, size: int) -> int:
        if self._bytes_per_row is None:
            return FIRST_BATCH
        return max(1, min(MOST_ROWS, int(size / self._bytes_per_row)))

    def _next_rows(self, wanted: int) -> Any:
        """Up to ``wanted`` rows of this group; None at its end."""
        if self._steps is None:
            self._steps = self._file.iter_batches(
                batch_size=MOST_ROWS, row_groups=[self._group], columns=self._columns
            )
            self._skip(self._row)
        if self._rest is None:
            self._rest = self._step()
            if self._rest is None:
                return None
        batch = self._rest.slice(0, wanted)
        left = self._rest.num_rows - batch.num_rows
        self._rest = self._rest.slice(batch.num_rows) if left else None
        return batch

    def _skip(self, rows: int) -> None:
        while rows and (batch := self._step()) is not None:
            if batch.num_rows > rows:
                self._rest = batch.slice(rows)
                return
            rows -= batch.num_rows

    def _step(self) -> Any:
        assert self._steps is not None
        if self.abandoned.is_set():
            raise AbandonedError
        try:
            return next(self._steps, None)
        except (self._pa.ArrowException, OSError) as error:
            self._raw.check()
            raise SourceError(
                f"{self._path} is damaged in row group {self._group}: {_first_line(error)}. Rows "
                "committed so far stay. Suggestion: copy or download the file again.",
                path=self._path,
            ) from error

    # To CSV ------------------------------------------------------------------------------------

    def _to_csv(self, batch: Any) -> bytes:
        columns = [
            convert(batch.column(batch.schema.get_field_index(name)))
            for name, convert in zip(self._columns, self._convert, strict=True)
        ]
        names = [str(number) for number in range(len(columns))]
        output = io.BytesIO()
        self._csv.write_csv(
            self._pa.RecordBatch.from_arrays(columns, names=names),
            output,
            self._csv.WriteOptions(include_header=False),
        )
        return output.getvalue()

    def _converter_of(self, name: str, schema: Any) -> Callable[[Any], Any]:
        if name not in self.names:
            raise SourceError(
                f"{self._path} has no column {name!r}. It has: {', '.join(self.names)}.",
                path=self._path,
            )
        return self._converter(name, schema.field(self.names.index(name)).type)

    def _converter(self, name: str, type_: Any) -> Callable[[Any], Any]:
        """What makes of a column one that `write_csv` can write and PostgreSQL can read."""
        t, pa, pc = self._pa.types, self._pa, self._pc
        if t.is_dictionary(type_):
            value = self._converter(name, type_.value_type)
            return lambda column: value(column.dictionary_decode())
        if isinstance(type_, pa.BaseExtensionType):
            storage = self._converter(name, type_.storage_type)
            return lambda column: storage(column.storage)
        if t.is_nested(type_):
            return _by_value(pa, _to_json)
        if _is_any(t, type_, "is_binary", "is_large_binary", "is_binary_view") or (
            t.is_fixed_size_binary(type_)
        ):
            return _by_value(pa, lambda value: "\\x" + value.hex())
        if t.is_duration(type_):
            unit = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}.get(type_.unit)
            if unit is not None:
                return lambda column: pc.binary_join_element_wise(
                    pc.cast(pc.cast(column, pa.int64()), pa.string()), pa.scalar(unit), " "
                )
        if t.is_timestamp(type_) or t.is_time(type_):
            return self._moment(type_)
        if t.is_float16(type_):
            return lambda column: pc.cast(column, pa.float32())
        if t.is_decimal(type_) or _is_any(t, type_, "is_string_view"):
            return lambda column: pc.cast(column, pa.string())
        if (
            t.is_null(type_)
            or t.is_boolean(type_)
            or t.is_integer(type_)
            or t.is_floating(type_)
            or t.is_date(type_)
            or t.is_string(type_)
            or t.is_large_string(type_)
        ):
            return lambda column: column
        raise SourceError(
            f"Column {name!r} of {self._path} has the type {type_}, which PostgreSQL has no text "
            f"for. Suggestion: leave it out with --skip {name}, or write the file with another "
            "type.",
            path=self._path,
        )

    def _moment(self, type_: Any) -> Callable[[Any], Any]:
        """In microseconds, which is what PostgreSQL keeps, and with a zone that it reads."""
        pa, pc = self._pa, self._pc
        if pa.types.is_time(type_):
            return lambda column: pc.cast(pc.cast(column, pa.time64("us"), safe=False), pa.string())
        target = pa.timestamp("us", tz=None if type_.tz is None else "UTC")
        return lambda column: pc.cast(column, target, safe=False)


def _is_any(types: Any, type_: Any, *names: str) -> bool:
    # older versions of pyarrow lack some of these
    return any(hasattr(types, name) and getattr(types, name)(type_) for name in names)


def _by_value(pa: Any, text: Callable[[Any], str]) -> Callable[[Any], Any]:
    def convert(column: Any) -> Any:
        values = column.to_pylist()
        return pa.array([None if v is None else text(v) for v in values], type=pa.string())

    return convert


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_json_of)


def _json_of(value: Any) -> str:
    return "\\x" + value.hex() if isinstance(value, bytes) else str(value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _import_pyarrow(path: str) -> tuple[Any, Any, Any, Any]:
    try:
        return tuple(  # type: ignore[return-value]
            importlib.import_module(name)
            for name in ("pyarrow", "pyarrow.compute", "pyarrow.parquet", "pyarrow.csv")
        )
    except ImportError as error:
        raise SourceError(
            f"{path} is a Parquet file, and pyarrow, which reads them, is not installed. "
            "Suggestion: pip install 'poolkeeper[parquet]'.",
            path=path,
        ) from error
