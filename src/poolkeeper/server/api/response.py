"""Answers of the native API on success."""

from __future__ import annotations

import json
from functools import lru_cache
from json.encoder import encode_basestring
from typing import TYPE_CHECKING

import psycopg

from poolkeeper.server.neon.values import fragment_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from poolkeeper.server.neon.response import Field, StatementResult

NDJSON = b"application/x-ndjson"


def encode_result(result: StatementResult, *, arrays: bool) -> str:
    """What one statement returned, as members of a JSON object without its braces."""
    count = row_count(result.command_tag)
    encode = row_encoder(result.fields, arrays=arrays)
    return (
        f'"columns":{encode_columns(result.fields)},'
        f'"rows":[{",".join([encode(row) for row in result.rows])}],'
        f'"row_count":{"null" if count is None else count},'
        f'"command":{encode_basestring(command(result.command_tag))}'
    )


NO_RESULT = '"columns":null,"rows":null,"row_count":null,"command":null'
"""In place of a result that is not kept."""


def encode_query(result: str, transaction: UUID | None) -> bytes:
    """The answer of ``/v1/query``; with the id and outcome of its transaction if it has one."""
    if transaction is None:
        return f"{{{result}}}".encode()
    return f'{{"transaction_id":"{transaction}","outcome":"committed",{result}}}'.encode()


def encode_transaction(results: Sequence[str] | None, transaction: UUID | None) -> bytes:
    """The answer of ``/v1/transaction``; None stands for results that are not kept."""
    listed = "null" if results is None else f"[{','.join([f'{{{one}}}' for one in results])}]"
    name = "null" if transaction is None else f'"{transaction}"'
    return f'{{"transaction_id":{name},"outcome":"committed","results":{listed}}}'.encode()


def encode_columns(fields: Sequence[Field]) -> str:
    """The columns of a result, as a JSON array."""
    return json.dumps(
        [
            {"name": field.name, "type_oid": field.type_oid, "type": type_name(field.type_oid)}
            for field in fields
        ],
        ensure_ascii=False,
        separators=(",", ":"),
    )


@lru_cache(maxsize=1024)
def type_name(oid: int) -> str | None:
    """The name of a built-in type; None for types that are made in the database."""
    info = psycopg.postgres.types.get(oid)
    if info is None:
        return None
    return info.name if info.oid == oid else f"{info.name}[]"


def row_encoder(fields: Sequence[Field], *, arrays: bool) -> Callable[[Sequence[str | None]], str]:
    """A function that writes a row as JSON; of two columns with one name, objects keep the last."""
    encoders = [fragment_encoder(field.type_oid) for field in fields]
    names = [encode_basestring(field.name) for field in fields]
    if arrays:

        def as_array(row: Sequence[str | None]) -> str:
            cells = [
                "null" if cell is None else encode(cell)
                for cell, encode in zip(row, encoders, strict=True)
            ]
            return f"[{','.join(cells)}]"

        return as_array
    last = {name: number for number, name in enumerate(names)}
    columns = [(f"{name}:", number, encoders[number]) for name, number in last.items()]

    def as_object(row: Sequence[str | None]) -> str:
        pairs = [
            key + ("null" if (cell := row[number]) is None else encode(cell))
            for key, number, encode in columns
        ]
        return f"{{{','.join(pairs)}}}"

    return as_object


def row_count(command_tag: str) -> int | None:
    """The number at the end of a command tag that has one: "INSERT 0 3"."""
    last = command_tag.rpartition(" ")[2]
    return int(last) if last.isdigit() else None


def command(command_tag: str) -> str:
    """The words of a command tag: "CREATE TABLE"."""
    return " ".join(word for word in command_tag.split() if not word.isdigit())
