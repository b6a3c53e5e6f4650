"""Check an export against the database and the directory it goes to, and complete its options."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.catalog import find_oid, plan, primary_key, rows_sorted
from poolkeeper.operations.export.copy_options import copy_options, rows_of
from poolkeeper.operations.export.errors import ExportError, file_error
from poolkeeper.operations.export.options import normalized
from poolkeeper.operations.export.position import Position
from poolkeeper.operations.export.publish import refuse_to_overwrite
from poolkeeper.operations.export.relation import SETTINGS, Relation
from poolkeeper.operations.export.target import Target
from poolkeeper.operations.kind import Prepared
from poolkeeper.outcomes import is_driver_error
from poolkeeper.sqlstate import sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.operations.model import OperationStatus

MOST_SORTED_ROWS: Final = 500_000
"""Without an index in the order of the key every chunk sorts all rows: that is for small ones."""

_TABLE: Final = """
select c.oid, c.relkind::text as kind,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name
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
            await _check_key(connection, spec, filled)
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


def unfinished_of(status: OperationStatus) -> Path | None:
    """Where the unfinished files of an operation are, as a pattern; None if it is no export.

    A cancelled export leaves them, on the machine of its worker: it may still be writing.
    """
    if status.kind != "export" or "export" not in status.cursor:
        return None
    return target_of(status.spec, status.cursor["export"]).unfinished_pattern


async def _look_at_table(connection: Any, spec: dict[str, Any]) -> set[str]:
    """Complete a table's name, columns and key; which of its columns cannot be NULL."""
    name = spec["table"]
    oid = await find_oid(connection, name)
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
        spec["key"] = await primary_key(connection, oid)
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


async def _check_key(connection: Any, spec: dict[str, Any], filled: set[str]) -> None:
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
    sorted_rows = await rows_sorted(connection, relation.bound(after=None, rows=1))
    columns = [key["column"] for key in spec["key"] if key["column"] not in filled]
    if columns and await connection.fetchval(relation.null_key(columns)):
        raise ExportError(
            f"The key ({', '.join(columns)}) is NULL in some rows, which could not be found by it. "
            "Suggestion: choose a key that is never NULL, leave those rows out with a condition, "
            "or export consistent=True."
        )
    if sorted_rows > MOST_SORTED_ROWS:
        names = ", ".join(key["column"] for key in spec["key"])
        raise ExportError(
            f"PostgreSQL would have to sort about {sorted_rows:,.0f} rows for every chunk: there "
            f"is no index it could read them from in the order of ({names}). Suggestion: create "
            "one on these columns in this order, choose a key that has one, or export "
            "consistent=True."
        )


async def _estimate(connection: Any, spec: dict[str, Any]) -> int:
    query = Relation.of(spec | {"key": []}).select()
    return int((await plan(connection, query))["Plan Rows"])


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
