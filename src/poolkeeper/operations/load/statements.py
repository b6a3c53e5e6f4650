"""The SQL of a load, made of its spec; pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.load import ndjson
from poolkeeper.operations.sql import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.operations.kind import Json

DOCUMENT: Final = "document"
KNOWN_OBJECT: Final = "a record is an object with known keys"
"""Name of a constraint of the temporary table."""
SAVEPOINT: Final = "savepoint poolkeeper_rows"
ROLL_BACK: Final = "rollback to savepoint poolkeeper_rows"
RELEASE: Final = "release savepoint poolkeeper_rows"


@dataclass(frozen=True, slots=True)
class Statements:
    """What a chunk runs.

    Attributes:
        begin: First of all; ends with a savepoint.
        staging: The temporary table that COPY fills; None: it fills the table itself.
        create: Makes that table.
        insert: Moves its rows into the table.
        copy: Arguments of asyncpg's ``copy_to_table``, but for the rows.
        counted: Whether every row that is taken is counted: no trigger leaves some out.
    """

    begin: str
    staging: str | None
    create: str
    insert: str
    copy: Mapping[str, Any]
    counted: bool

    @classmethod
    def of(cls, spec: Json) -> Statements:
        """Make them of a prepared spec."""
        begin = "".join(
            f"set local {name} = {literal(value)};" for name, value in spec["settings"].items()
        )
        # `set local search_path` takes a list of names, not a text
        begin += (
            f"select pg_catalog.set_config('search_path', {literal(spec['search_path'])}, true);"
        )
        if spec["deferred"]:
            # Only then a row that breaks such a constraint can be told from the others.
            begin += "set constraints all immediate;"
        staging = create = None
        insert = ""
        if spec["staging"] is not None:
            body = _body(spec)
            digest = hashlib.sha256(body.encode()).hexdigest()[:16]
            staging = f"poolkeeper_load_{digest}"
            create = f"create temporary table {staging} ({body}) on commit delete rows"
            insert = _insert(spec, staging)
        return cls(
            begin=begin + SAVEPOINT,
            staging=staging,
            create=create or "",
            insert=insert,
            copy=_copy(spec, staging),
            counted=not spec["suppressing"],
        )


def _copy(spec: Json, staging: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "table_name": staging or spec["table"],
        "schema_name": "pg_temp" if staging else spec["schema"],
        "columns": spec["staging"] if staging else spec["targets"],
        "format": "csv",
    }
    if spec["format"] == "csv":
        options |= {
            "delimiter": spec["delimiter"],
            "quote": spec["quote"],
            "escape": spec["escape"],
            "null": spec.get("null") or "",
        }
    elif spec["format"] == "ndjson":
        options |= {
            "delimiter": ndjson.DELIMITER,
            "quote": ndjson.QUOTE,
            "escape": ndjson.QUOTE,
            "null": "",
        }
    options["encoding"] = spec["copy_encoding"]
    return options


def _body(spec: Json) -> str:
    if spec["format"] != "ndjson":
        return ", ".join(f"{identifier(name)} text" for name in spec["staging"])
    column = f"{identifier(DOCUMENT)} jsonb"
    if spec["keys"] is None:
        return column
    known = f"array[{', '.join(literal(key) for key in spec['keys'])}]::text[]"
    return (
        f"{column}, constraint {identifier(KNOWN_OBJECT)} check (case"
        f" when jsonb_typeof({DOCUMENT}) = 'object' then {DOCUMENT} - {known} = '{{}}'"
        " else false end)"
    )


def _insert(spec: Json, staging: str) -> str:
    columns: list[str] = []
    values: list[str] = []
    for column, expression in spec["assign"]:
        columns.append(identifier(column))
        values.append(expression)
    source = f"pg_temp.{staging}"
    if spec["format"] == "ndjson" and spec["record"]:
        fields = ", ".join(f"{identifier(name)} {type_}" for name, type_ in spec["record"])
        source += f", lateral jsonb_to_record({identifier(DOCUMENT)}) as record({fields})"
    table = f"{identifier(spec['schema'])}.{identifier(spec['table'])}"
    return (
        f"insert into {table} ({', '.join(columns)}) overriding system value"
        f" select {', '.join(values)} from {source}"
        + (" on conflict do nothing" if spec.get("on_conflict") == "nothing" else "")
    )
