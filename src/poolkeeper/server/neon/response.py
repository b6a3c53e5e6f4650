"""The answer of ``POST /sql`` on success, exactly as Neon's clients expect it."""

from __future__ import annotations

import json
from functools import lru_cache
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, NamedTuple

from poolkeeper.server.neon.values import json_fragment

if TYPE_CHECKING:
    from collections.abc import Sequence


class Field(NamedTuple):
    """One column as PostgreSQL describes it."""

    name: str
    type_oid: int
    table_oid: int
    column_number: int
    type_size: int
    type_modifier: int


class StatementResult(NamedTuple):
    """What one statement returned, every cell in PostgreSQL's text format; ``size`` in bytes."""

    fields: tuple[Field, ...]
    rows: Sequence[Sequence[str | None]]
    command_tag: str
    size: int = 0


def is_large(results: Sequence[StatementResult]) -> bool:
    """Whether encoding them takes long enough for others to notice: do it beside the event loop."""
    return sum([result.size + _CELL * len(result.rows) for result in results]) > _LARGE


_LARGE = 256 * 1024
# What a row costs beside its bytes.
_CELL = 32


def encode_result(result: StatementResult, *, raw_text: bool, array_mode: bool) -> str:
    """The JSON object for one statement.

    Of two columns with one name, row objects keep the last, as Neon's client does.
    """
    words = result.command_tag.split()
    # The count is the last word of a tag that has one: "INSERT 0 3", "SELECT 1".
    count = words[-1] if words and words[-1].isdigit() else "null"
    return (
        f'{{"fields":{_encode_fields(result.fields)},'
        f'"rows":{_encode_rows(result, raw_text=raw_text, array_mode=array_mode)},'
        f'"command":{encode_basestring(words[0] if words else "")},'
        f'"rowCount":{count},"rowAsArray":{"true" if array_mode else "false"}}}'
    )


def encode_batch(results: Sequence[str]) -> str:
    """The JSON object for a batch, from its encoded results."""
    return f'{{"results":[{",".join(results)}]}}'


def _encode_fields(fields: tuple[Field, ...]) -> str:
    """Clients repeat their statements; very wide results are not worth the memory."""
    return (_fields_by_heart if len(fields) <= _NOT_WIDE else _fields_anew)(fields)


def _fields_anew(fields: tuple[Field, ...]) -> str:
    return _dump(
        [
            {
                "name": field.name,
                "dataTypeID": field.type_oid,
                "tableID": field.table_oid,
                "columnID": field.column_number,
                "dataTypeSize": field.type_size,
                "dataTypeModifier": field.type_modifier,
                "format": "text",
            }
            for field in fields
        ]
    )


_NOT_WIDE = 50
_FEW_ROWS = 16
_PORTION = 1000
_fields_by_heart = lru_cache(maxsize=500)(_fields_anew)


def _encode_rows(result: StatementResult, *, raw_text: bool, array_mode: bool) -> str:
    if raw_text and array_mode:
        if len(result.rows) <= _FEW_ROWS:
            # The encoder below costs more to set up than a few rows do.
            return "[" + ",".join([_encode_texts(row) for row in result.rows]) + "]"
        return _dump_rows(result.rows)
    names = [field.name for field in result.fields]
    if raw_text:
        return _dump_rows([dict(zip(names, row, strict=True)) for row in result.rows])
    oids = [field.type_oid for field in result.fields]
    rows = [
        [
            "null" if cell is None else json_fragment(cell, oid)
            for cell, oid in zip(row, oids, strict=True)
        ]
        for row in result.rows
    ]
    if array_mode:
        return "[" + ",".join(["[" + ",".join(row) + "]" for row in rows]) + "]"
    keys = [encode_basestring(name) + ":" for name in names]
    return "[" + ",".join([_encode_object(keys, row) for row in rows]) + "]"


def _dump_rows(rows: Sequence[object]) -> str:
    """In portions: the encoder lets no other thread work before it is done."""
    starts = range(0, len(rows), _PORTION)
    return "[" + ",".join([_dump(rows[start : start + _PORTION])[1:-1] for start in starts]) + "]"


def _encode_texts(row: Sequence[str | None]) -> str:
    cells = ["null" if cell is None else encode_basestring(cell) for cell in row]
    return "[" + ",".join(cells) + "]"


def _encode_object(keys: list[str], row: list[str]) -> str:
    pairs = dict(zip(keys, row, strict=True))
    return "{" + ",".join([key + value for key, value in pairs.items()]) + "}"


_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
