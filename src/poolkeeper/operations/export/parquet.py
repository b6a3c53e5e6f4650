"""Parquet files, made of rows that were written as CSV first.

A Parquet file ends with its index and cannot be cut back to a checkpoint; a CSV file can. So rows
are collected in an unfinished CSV file like those of any other export, and each file is converted
when it is complete. Of the same rows that makes the same bytes, so it may be done twice.
"""

from __future__ import annotations

import importlib
import os
import re
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_BLOCK_BYTES: Final = 16 * 1024 * 1024
"""How much CSV becomes one row group; no row may be longer."""
_LARGEST_BLOCK: Final = 2**31 - 1

DEFAULT_CODEC: Final = "snappy"


def arrow(module: str) -> Any:
    """A module of pyarrow.

    Raises:
        ExportError: It is not installed.
    """
    try:
        return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise ExportError(
            "Parquet needs the package 'pyarrow', which is not installed. Suggestion: pip install "
            "'poolkeeper[parquet]', or export to CSV or NDJSON."
        ) from error


def arrow_type(column: Mapping[str, Any]) -> Any:
    """The Arrow type of a described column; what has no counterpart becomes its text."""
    pa = arrow("")
    simple = {
        "bool": pa.bool_(),
        "int2": pa.int16(),
        "int4": pa.int32(),
        "int8": pa.int64(),
        "oid": pa.uint32(),
        "float4": pa.float32(),
        "float8": pa.float64(),
        "date": pa.date32(),
        "time": pa.time64("us"),
        "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", tz="UTC"),
    }
    name = column["type"]
    if name == "numeric" and column["modifier"] is not None and column["modifier"] >= 4:
        # numeric(p, s) is kept as p << 16 | s, plus 4; s has eleven bits and may be negative
        packed = column["modifier"] - 4
        precision, scale = packed >> 16, ((packed & 0x7FF) ^ 1024) - 1024
        if precision <= 38 and 0 <= scale <= precision:
            return pa.decimal128(precision, scale)
    return simple.get(name, pa.string())


def converter(described: Sequence[Mapping[str, Any]], compression: str | None) -> Any:
    """Make the function that makes a Parquet file of a CSV file.

    Args:
        described: The columns, in order.
        compression: Codec of the column chunks; None: `DEFAULT_CODEC`.
    """

    def convert(source: Path, target: Path) -> None:
        block = min(_BLOCK_BYTES, max(1024, source.stat().st_size + 1))
        while True:
            try:
                _convert(source, target, described, compression or DEFAULT_CODEC, block)
            except arrow("").ArrowInvalid as error:
                if "straddling" in str(error) and block < _LARGEST_BLOCK:
                    block = min(block * 8, _LARGEST_BLOCK)
                    continue
                raise _unfit(error, source) from error
            return

    return convert


def _convert(
    source: Path,
    target: Path,
    described: Sequence[Mapping[str, Any]],
    codec: str,
    block: int,
) -> None:
    pa, csv, parquet = arrow(""), arrow("csv"), arrow("parquet")
    names = [column["name"] for column in described]
    types = {column["name"]: arrow_type(column) for column in described}
    binary = {column["name"] for column in described if column["type"] == "bytea"}
    schema = pa.schema(
        [pa.field(name, pa.binary() if name in binary else types[name]) for name in names]
    )
    with target.open("wb") as file:
        with parquet.ParquetWriter(file, schema, compression=codec) as writer:
            if source.stat().st_size:
                batches = csv.open_csv(
                    source,
                    read_options=csv.ReadOptions(
                        column_names=names, block_size=block, use_threads=False
                    ),
                    parse_options=csv.ParseOptions(
                        newlines_in_values=True, ignore_empty_lines=False
                    ),
                    convert_options=csv.ConvertOptions(
                        column_types=types,
                        null_values=[""],
                        true_values=["t"],
                        false_values=["f"],
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                    ),
                )
                for batch in batches:
                    columns = [
                        _bytes(pa, values) if name in binary else values
                        for name, values in zip(names, batch.columns, strict=True)
                    ]
                    writer.write_batch(pa.record_batch(columns, schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _bytes(pa: Any, values: Any) -> Any:
    return pa.array(
        [None if text is None else bytes.fromhex(text[2:]) for text in values.to_pylist()],
        type=pa.binary(),
    )


def _unfit(error: Exception, source: Path) -> ExportError:
    detail = re.sub(r"\s+", " ", str(error))
    return ExportError(
        f"A value does not fit into Parquet: {detail}. Dates before the year 1, 'infinity' and "
        "'NaN' of numeric have no counterpart there. Suggestion: cancel the operation and export "
        "a query that casts this column to text.",
        path=source,
    )
