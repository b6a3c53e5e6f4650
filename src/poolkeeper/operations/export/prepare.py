"""Check an export against the database and the directory it goes to, and complete its options."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.export.copy_options import copy_options, rows_of
from poolkeeper.operations.export.errors import ExportError, file_error
from poolkeeper.operations.export.options import normalized
from poolkeeper.operations.export.position import Position
from poolkeeper.operations.export.publish import refuse_to_overwrite
from poolkeeper.operations.export.relation import SETTINGS, Relation, identifier
from poolkeeper.operations.export.target import Target
from poolkeeper.operations.kind import Prepared
from poolkeeper.outcomes import is_driver_error
from poolkeeper.sqlstate import sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_SORTED_ROWS: Final = 500_000
"""Without an index in the order of the key every chunk sorts all rows: that is for small ones."""

_TABLE: Final = """
select c.oid, c.relkind::text as kind,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name,
       array(select a.attname::text from pg_index i, unnest(i.indkey) with ordinality k(n, place)
               join pg_attribute a on a.attnum = k.n and a.attrelid = $1
              where i.indrelid = $1 and i.indisprimary order by k.place) as primary_key
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1"""

_MODIFIERS: Final = """
select attname::text, nullif(atttypmod, -1) as modifier, attnotnull as filled
  from pg_attribute where attrelid = $1 and attnum > 0 and not attisdropped"""

_TYPES: Final = """
select t.oid, quote_ident(n.nspname) || '.' || quote_ident(t.typname) as name
  from pg_type t join pg_namespace n on n.oid = t.typnamespace where t.oid = any ($1::oid[])"""


async def prepare(connection: Any, given: Mapping[str, Any]) -> Prepared:
    """See `ExportKind.prepare`."""
    spec = normalized(given)
    # one snapshot, and nothing the query calls can change anything
    async with connection.transaction(readonly=True):
        await connection.execute(SETTINGS)
        try:
            filled: set[str] = set()
            if spec["table"] is not None:
                filled = await _look_at_table(connection, spec)
            await _describe(connection, spec)
            rows = await _estimate(connection, spec)
            await _check_key(connection, spec, filled, rows)
            await _try_copy(connection, spec)
        except Exception as error:
            if not is_driver_error(error) or sqlstate_of(error) is None:
                raise
            raise ExportError(
                f"The database refuses the export: {error} ({sqlstate_of(error)}). Suggestion: "
                "see that psql runs what you want to export; it has to be a SELECT."
            ) from error
    target = target_of(spec, secrets.token_hex(4))
    await asyncio.to_thread(_check_directory, target)
    if not spec["overwrite"]:
        await asyncio.to_thread(refuse_to_overwrite, target)
    return Prepared(spec=spec, cursor=Position(export=target.export).to_cursor(), rows_total=rows)


def target_of(spec: Mapping[str, Any], export: str) -> Target:
    """Where the files of an export are."""
    return Target(Path(spec["directory"]), spec["file"], spec["suffix"], export)


async def _look_at_table(connection: Any, spec: dict[str, Any]) -> set[str]:
    """Complete a table's name, columns and key; which of its columns cannot be NULL."""
    name = spec["table"]
    oid = await connection.fetchval("select to_regclass($1)::oid", name)
    if oid is None:
        # written as it is, and not as SQL: My Table
        oid = await connection.fetchval(
            "select to_regclass($1)::oid", ".".join(identifier(part) for part in name.split("."))
        )
    if oid is None:
        raise ExportError(
            f"There is no table {name!r}. Suggestion: check its name and schema, and the "
            "search_path; as in SQL, capital letters need quotes."
        )
    table = await connection.fetchrow(_TABLE, oid)
    if table["kind"] not in {"r", "p", "v", "m", "f"}:
        raise ExportError(f"{name} is no table. Suggestion: name a table or a view.")
    columns = {row["attname"]: row for row in await connection.fetch(_MODIFIERS, oid)}
    spec["table"] = table["name"]
    spec["columns"] = list(columns) if spec["columns"] is None else spec["columns"]
    for column in (*spec["columns"], *spec["key"]):
        if column not in columns:
            raise _no_column(column, columns, table["name"])
    if not spec["columns"]:
        raise ExportError(f"{name} has no columns. Suggestion: name another table.")
    if not spec["key"] and not spec["consistent"]:
        spec["key"] = list(table["primary_key"])
    return {column for column, row in columns.items() if row["filled"]}


async def _describe(connection: Any, spec: dict[str, Any]) -> None:
    """Note names and types of the columns."""
    if spec["query"] is not None:
        # by itself first: an error in it is then told as its author wrote it
        await connection.prepare(spec["query"])
    key, spec["key"] = spec["key"], []
    relation = Relation.of(spec)
    found = (await connection.prepare(relation.nothing())).get_attributes()
    spec["described"] = [
        {"name": attribute.name, "type": attribute.type.name, "modifier": None}
        for attribute in found
    ]
    everything = found
    if spec["columns"] is not None:
        every = await connection.prepare(f"SELECT * FROM {relation.source} AS q WHERE false")
        everything = every.get_attributes()
    names = [attribute.name for attribute in everything]
    types = {attribute.name: attribute.type.oid for attribute in everything}
    for column in key:
        if column not in types:
            raise _no_column(column, names, "The query")
        if names.count(column) > 1:
            raise ExportError(
                f"The query has several columns {column!r}. Suggestion: give them names of their "
                "own (AS …)."
            )
    qualified = {
        row["oid"]: row["name"]
        for row in await connection.fetch(_TYPES, [types[column] for column in key])
    }
    spec["key"] = [{"column": column, "type": qualified[types[column]]} for column in key]
    if spec["format"] == "parquet":
        await _describe_for_parquet(connection, spec)


async def _describe_for_parquet(connection: Any, spec: dict[str, Any]) -> None:
    names = [column["name"] for column in spec["described"]]
    if len(set(names)) < len(names) or not names:
        raise ExportError(
            "Parquet needs columns with names of their own. Suggestion: name them (AS …)."
        )
    if spec["table"] is not None:
        oid = await connection.fetchval("select to_regclass($1)::oid", spec["table"])
        modifiers = {row["attname"]: row for row in await connection.fetch(_MODIFIERS, oid)}
        for column in spec["described"]:
            column["modifier"] = modifiers[column["name"]]["modifier"]


async def _check_key(connection: Any, spec: dict[str, Any], filled: set[str], rows: int) -> None:
    if spec["consistent"]:
        return
    if not spec["key"]:
        what = spec["table"] or "The query"
        raise ExportError(
            f"{what} has no {'primary key' if spec['table'] else 'key'} to go on by after an "
            "interruption. Suggestion: name the columns of a key (unique or not, but never NULL, "
            "and with an index), or export it consistent=True, which begins anew when it is "
            "interrupted."
        )
    relation = Relation.of(spec)
    # also says whether the key has an order at all
    plan = await _explain(connection, relation.bound(after=None, rows=1))
    columns = [key["column"] for key in spec["key"] if key["column"] not in filled]
    if columns and await connection.fetchval(relation.null_key(columns)):
        raise ExportError(
            f"The key ({', '.join(columns)}) is NULL in some rows, which could not be found by it. "
            "Suggestion: choose a key that is never NULL, leave those rows out with a condition, "
            "or export consistent=True."
        )
    if rows > MOST_SORTED_ROWS and _sorts(plan):
        names = ", ".join(key["column"] for key in spec["key"])
        raise ExportError(
            f"PostgreSQL would have to sort about {rows:,} rows for every chunk: there is "
            f"no index it could read them from in the order of ({names}). Suggestion: create one "
            "on these columns in this order, choose a key that has one, or export "
            "consistent=True."
        )


async def _estimate(connection: Any, spec: dict[str, Any]) -> int:
    plan = await _explain(connection, Relation.of(spec | {"key": []}).select())
    return int(plan["Plan Rows"])


async def _explain(connection: Any, query: str) -> dict[str, Any]:
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}")
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return plan


def _sorts(plan: Mapping[str, Any]) -> bool:
    """Whether the plan reads all rows to sort them."""
    below: Sequence[Mapping[str, Any]] = plan.get("Plans", ())
    return plan["Node Type"] == "Sort" or any(map(_sorts, below))


async def _try_copy(connection: Any, spec: dict[str, Any]) -> None:
    """Have the server check the options of COPY."""

    async def ignore(_: bytes) -> None:
        pass

    select = rows_of(Relation.of(spec).nothing(), spec)
    await connection.copy_from_query(select, output=ignore, **copy_options(spec))


def _check_directory(target: Target) -> None:
    directory = target.directory
    try:
        if target.file is None and not directory.exists():
            directory.mkdir()
        # the only test of permissions that cannot be wrong
        probe = target.unfinished(0, 0)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        probe.unlink()
    except OSError as error:
        raise file_error(error, directory, "export to") from error


def _no_column(column: object, columns: Any, where: str) -> ExportError:
    return ExportError(
        f"{where} has no column {column!r}. Suggestion: use {', '.join(map(repr, columns))}."
    )
