"""Check a load against its file and its table, and settle everything a run has to know."""

from __future__ import annotations

import asyncio
import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.kind import Prepared
from poolkeeper.operations.load import fingerprint
from poolkeeper.operations.load.mapping import Asked, match
from poolkeeper.operations.load.parquet import ParquetReader
from poolkeeper.operations.load.source import Source
from poolkeeper.operations.load.statements import DOCUMENT, Statements
from poolkeeper.operations.load.table import find_table
from poolkeeper.operations.sql import identifier
from poolkeeper.outcomes import is_driver_error
from poolkeeper.sqlstate import sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.operations.kind import Json
    from poolkeeper.operations.load.table import Column, Table

_SETTINGS: Final = ("DateStyle", "IntervalStyle", "TimeZone")
"""What decides what a text means as a value. Every worker must read the file alike."""

_NO_COLUMN: Final = re.compile(r'^column "([^".]+)" does not exist$')
_GENERAL: Final = "check options and expressions; --set takes SQL over columns of the file."

_CHOICES: Final = {"on_bad_row": ("fail", "reject"), "on_conflict": ("nothing",)}


@dataclass(frozen=True, slots=True)
class _Inspected:
    """What is known of the file."""

    source: Source
    found: Json
    names: list[str] | None
    fields: int
    cursor: Json
    rows_total: int | None


async def prepare(connection: Any, given: Mapping[str, Any]) -> Prepared:
    """See ``LoadKind.prepare``."""
    check_choices(given)
    inspected = await asyncio.to_thread(_inspect, given)
    source = inspected.source
    table = await find_table(connection, given["into"])
    spec: Json = {**given, **source.options()}
    spec["schema"], spec["table"] = table.schema, table.name
    spec["copy_encoding"] = source.encoding.postgres
    spec["deferred"], spec["suppressing"] = table.deferred, table.suppressing
    spec["settings"] = {
        name: await connection.fetchval("select current_setting($1)", name) for name in _SETTINGS
    }
    spec["search_path"] = await connection.fetchval("select current_setting('search_path')")
    spec |= _plan(inspected, table, given)
    if source.format == "parquet":
        # says which column cannot be loaded
        await asyncio.to_thread(_open_parquet, source.path, spec["read"])
    await _try(connection, spec)
    return Prepared(
        spec=spec,
        cursor=inspected.cursor,
        fingerprint=inspected.found,
        bytes_total=inspected.found["size"],
        rows_total=inspected.rows_total,
    )


def check_choices(given: Mapping[str, Any]) -> None:
    """Check what needs no file and no database.

    Raises:
        OperationError: An option is none that there is.
    """
    for option, allowed in _CHOICES.items():
        value = given.get(option)
        if value is not None and value not in allowed:
            raise OperationError(
                f"{option} is {value!r}. Suggestion: one of {', '.join(map(repr, allowed))}."
            )
    for option, least in (("max_rejects", 0), ("max_record_bytes", 1)):
        limit = given.get(option)
        if limit is not None and (
            isinstance(limit, bool) or not isinstance(limit, int) or limit < least
        ):
            raise OperationError(
                f"{option} is {limit!r}. Suggestion: a whole number, {least} or more."
            )


# The file -------------------------------------------------------------------------------------


def _inspect(given: Mapping[str, Any]) -> _Inspected:
    source = Source.detect(given["path"], given)
    found = fingerprint.fingerprint(source.path)
    columns = list(given["columns"]) if given.get("columns") else None
    for option in ("header", "delimiter", "quote", "escape", "null"):
        if source.format != "csv" and given.get(option) is not None:
            raise OperationError(
                f"{option} is an option of CSV, but {source.path} is {source.format}. "
                "Suggestion: leave it out, or name the format."
            )
    if given.get("column") and source.format != "ndjson":
        raise OperationError(
            f"column puts NDJSON records whole into one column, but {source.path} is "
            f"{source.format}. Suggestion: leave it out, or name the format."
        )
    if source.format == "parquet":
        reader = _open_parquet(source.path, [])
        names = _renamed(columns, reader.names, source)
        return _Inspected(
            source, found, names, len(names), {"row_group": 0, "row": 0}, reader.rows_total
        )
    with source.stream() as stream:
        start: Json = {"offset": stream.start, "line": 1}
    if source.format == "ndjson":
        keys = columns if columns is not None else source.keys()
        return _Inspected(source, found, keys, 0, start, None)
    header = given.get("header")
    if header is None:
        header = columns is None
        if columns is not None and source.begins_with(columns):
            raise OperationError(
                f"The first line of {source.path} holds the very names that were given as its "
                "columns. Suggestion: say whether that line is a header (header=True) or a row "
                "(header=False)."
            )
    if header:
        names, cursor = source.header()
        return _Inspected(source, found, _renamed(columns, names, source), 0, cursor, None)
    return _Inspected(source, found, columns, source.first_fields(), start, None)


def _open_parquet(path: str, columns: list[str] | None) -> ParquetReader:
    reader = ParquetReader(path, columns)
    reader.close()
    return reader


def _renamed(columns: list[str] | None, names: list[str], source: Source) -> list[str]:
    if columns is None:
        return names
    if len(columns) != len(names):
        raise OperationError(
            f"{len(columns)} columns were named, but {source.path} has {len(names)}: "
            f"{', '.join(names)}. Suggestion: name all of them, in order."
        )
    return columns


# File and table -------------------------------------------------------------------------------


def _plan(inspected: _Inspected, table: Table, given: Mapping[str, Any]) -> Json:
    """Decide which columns go where, and whether COPY can fill the table itself."""
    asked = Asked(
        given.get("map") or {},
        given.get("skip") or [],
        given.get("defaults") or {},
        given.get("set") or {},
    )
    simple = given.get("on_conflict") is None and not table.row_security
    source = inspected.source
    if source.format == "ndjson":
        if given.get("column"):
            return _plan_document(table, given["column"], asked, source, simple=simple)
        return _plan_records(inspected, table, asked, given)
    names = inspected.names or _by_position(inspected, table)
    _check_delimiter(names, table, source)
    found = match(names, table, asked, source.path)
    read = None
    if source.format == "parquet":
        skipped = {name.lower() for name in asked.skip}
        if given.get("columns") is None:
            read = [name for name in names if name.lower() not in skipped]
            names = read
    targets = {name: found.targets[name] for name in names}
    if simple and not found.assigned and None not in targets.values():
        return {
            "read": read,
            "staging": None,
            "targets": [column.name for column in targets.values() if column is not None],
        }
    assign = [
        [column.name, f"{identifier(name)}::{column.type}"]
        for name, column in targets.items()
        if column is not None
    ]
    return {
        "read": read,
        "staging": names,
        "assign": [*assign, *([name, value] for name, value in found.assigned.items())],
    }


def _plan_document(table: Table, name: str, asked: Asked, source: Source, *, simple: bool) -> Json:
    """Put every NDJSON record whole into one column."""
    found = match([name], table, Asked(asked.map, [], asked.defaults, asked.set), source.path)
    column = found.targets[name]
    if column is None:
        raise OperationError(f"Column {name!r} would get two values. Suggestion: give it one.")
    if simple and not found.assigned:
        return {"read": None, "staging": None, "targets": [column.name], "keys": None}
    assign = [[column.name, f"{identifier(DOCUMENT)}::{column.type}"]]
    return {
        "read": None,
        "staging": [DOCUMENT],
        "keys": None,
        "record": [],
        "assign": [*assign, *([name, value] for name, value in found.assigned.items())],
    }


def _plan_records(
    inspected: _Inspected, table: Table, asked: Asked, given: Mapping[str, Any]
) -> Json:
    """Put the values of NDJSON records into columns of their names."""
    names = list(inspected.names or [])
    if not names and inspected.found["size"]:
        raise OperationError(
            f"{inspected.source.path} has no JSON objects in its first lines, so what to load is "
            "not known. Suggestion: check the file; --column NAME loads each record whole into "
            "one column."
        )
    if given.get("columns") is None:
        # A key that comes up later fills its column, too, unless absence means a default.
        lower = {name.lower() for name in names}
        taken = {*asked.defaults, *asked.set, *asked.map.values()}
        names += [
            column.name
            for column in table.columns
            if column.name.lower() not in lower
            and column.name not in taken
            and not (column.has_default or column.generated or column.required)
        ]
    known = [*names, *(name for name in asked.skip if name not in names)]
    asked = Asked(
        asked.map, [name for name in asked.skip if name in names], asked.defaults, asked.set
    )
    found = match(names, table, asked, inspected.source.path)
    record = [
        [name, "text" if column is None else column.exact_type]
        for name, column in found.targets.items()
        if name not in asked.skip
    ]
    assign = [
        [column.name, f"record.{identifier(name)}"]
        for name, column in found.targets.items()
        if column is not None
    ]
    return {
        "read": None,
        "staging": [DOCUMENT],
        "keys": known,
        "record": record,
        "assign": [*assign, *([name, value] for name, value in found.assigned.items())],
    }


def _by_position(inspected: _Inspected, table: Table) -> list[str]:
    """Without any names the file must have as many columns as the table."""
    columns: list[Column] = [column for column in table.columns if not column.generated]
    if inspected.fields not in {0, len(columns)}:
        raise OperationError(
            f"The first line of {inspected.source.path} has {inspected.fields} fields, but "
            f"{table.label} has {len(columns)} columns to load: "
            f"{', '.join(column.name for column in columns)}. Suggestion: name the columns of the "
            "file with --columns, or check the delimiter."
        )
    return [column.name for column in columns]


def _check_delimiter(names: list[str], table: Table, source: Source) -> None:
    """A header that seems to be one long name was cut by the wrong character."""
    if source.format != "csv" or len(names) != 1:
        return
    if any(column.name.lower() == names[0].lower() for column in table.columns):
        return
    for delimiter, shown in ((";", "';'"), ("\t", r"$'\t'"), ("|", "'|'"), (",", "','")):
        if delimiter in names[0]:
            raise OperationError(
                f"The first line of {source.path} has no {source.delimiter!r}, which should be "
                f"between its columns: {names[0][:100]!r}. Suggestion: --delimiter {shown}"
            )


async def _try(connection: Any, spec: Json) -> None:
    """Run every statement once, without rows, and undo it."""
    statements = Statements.of(spec)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statements.begin)
        if statements.staging is not None:
            await connection.execute(statements.create)
        await connection.copy_to_table(source=memoryview(b""), **statements.copy)
        if statements.insert:
            await connection.execute(statements.insert)
    except Exception as error:
        if not is_driver_error(error) or connection.is_closed():
            raise
        raise _refusal(error, spec, statements.staging) from error
    finally:
        if not connection.is_closed():
            await transaction.rollback()


def _refusal(error: Exception, spec: Json, staging: str | None) -> OperationError:
    """What the database says, without the name of the temporary table."""
    said = str(getattr(error, "message", None) or error)
    advice = getattr(error, "hint", None) or _GENERAL
    missing = _NO_COLUMN.search(said)
    if staging is not None:
        said = said.replace(f"{staging}.", "")
        advice = _GENERAL if staging in advice else advice
        if missing is not None:
            names = [name for name, _ in spec.get("record") or []] or list(spec["staging"])
            close = difflib.get_close_matches(missing[1], names, n=1)
            said = f'column "{missing[1]}" of the file does not exist'
            advice = f'did you mean "{close[0]}"?' if close else f"it has {', '.join(names)}."
    return OperationError(
        f"The database refuses to load into {spec['schema']}.{spec['table']}: {said} "
        f"(SQLSTATE {sqlstate_of(error)}). Suggestion: {advice}"
    )
