"""``poolkeeper load``: a file, or what comes through a pipe, into a table."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolkeeper.cli.errors import CommandError
from poolkeeper.cli.operations.carry_out import How, carry_out
from poolkeeper.cli.operations.database import database
from poolkeeper.cli.operations.options import (
    DATABASE_HELP,
    INTERRUPT_HELP,
    AsJson,
    DatabaseUrl,
    Detach,
    GiveUpAfter,
    Lease,
    Name,
    Quiet,
    names,
    pairs,
)
from poolkeeper.cli.operations.stdin import Ending, heedful
from poolkeeper.cli.operations.words import clean, command, rows
from poolkeeper.operations import OperationConflictError, OperationNotFoundError
from poolkeeper.operations.load.spool import Spooled, remove, spool

if TYPE_CHECKING:
    from poolkeeper.cli.operations.database import Database
    from poolkeeper.operations import Operation, Operations, OperationStatus

HELP_TEXT = (
    "Load a file into a table: every row once, through outages, kills and restarts.\n\n"
    "CSV, NDJSON and Parquet; .gz and .zst of the first two; - is standard input, which is kept in "
    "a file first. It goes in by COPY, chunk by chunk, and each chunk is committed together with "
    "the place the next one begins at. A file that has been loaded is not loaded again, nor are "
    "the same bytes on standard input.\n\n"
    f"{INTERRUPT_HELP} It is 0 also when rows were rejected; --max-rejects bounds them.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  poolkeeper load orders.csv --into orders\n\n"
    "  poolkeeper load events.ndjson.gz --into log.events --column body --detach\n\n"
    "  poolkeeper load old.csv --into person --map Name=name --skip Fax --on-bad-row reject\n\n"
    "  psql -c 'copy t to stdout csv header' | poolkeeper load - --into t\n\n"
    f"{DATABASE_HELP}"
)
_FORMAT = "The file"
_ROWS = "Rows and columns"
STDIN = "-"


class Format(StrEnum):
    """What is in a file."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


class Compression(StrEnum):
    """How it is compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"
    NONE = "none"


class OnBadRow(StrEnum):
    """What becomes of the load when the table refuses a row."""

    FAIL = "fail"
    REJECT = "reject"


class OnConflict(StrEnum):
    """What becomes of a row whose key is there already."""

    NOTHING = "nothing"


def load(
    file: Annotated[str, typer.Argument(help="The file; - for standard input.")],
    *,
    into: Annotated[str, typer.Option(metavar="TABLE", help="The table, schema.table if need be.")],
    again: Annotated[
        bool,
        typer.Option("--again", help="Load a file once more that has been loaded already."),
    ] = False,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="What is in the file.",
            show_default="from its name; csv of standard input",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    compression: Annotated[
        Compression | None,
        typer.Option(
            help="How it is compressed.", show_default="from its name", rich_help_panel=_FORMAT
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Of its text.", show_default="utf-8", rich_help_panel=_FORMAT),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            help="Of CSV.", show_default=", or tab in .tsv and .tab", rich_help_panel=_FORMAT
        ),
    ] = None,
    quote: Annotated[
        str | None, typer.Option(help="Of CSV.", show_default='"', rich_help_panel=_FORMAT)
    ] = None,
    escape: Annotated[
        str | None, typer.Option(help="Of CSV.", show_default="the quote", rich_help_panel=_FORMAT)
    ] = None,
    null: Annotated[
        str | None,
        typer.Option(
            help="What stands for NULL in CSV.",
            show_default="an empty unquoted field",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether CSV begins with the names of its columns.",
            show_default="--header",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="Names of the columns of the file, in place of its header.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FILE=TABLE",
            help="A column of the file, and that of the table it goes to; repeatable.",
            show_default="the same names",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="A column of the file to leave out; repeatable.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="A value for a column in all rows; repeatable.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="COLUMN=SQL",
            help="An SQL expression over the columns of the file, as texts; repeatable.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Put each NDJSON record whole into this column.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    on_conflict: Annotated[
        OnConflict | None,
        typer.Option(
            help="nothing leaves out rows whose key is there already.",
            show_default="fail",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    on_bad_row: Annotated[
        OnBadRow,
        typer.Option(
            help="reject keeps rows the table refuses aside, see `operations rejects`.",
            rich_help_panel=_ROWS,
        ),
    ] = OnBadRow.FAIL,
    max_rejects: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Fail when there are more than that.",
            show_default="no limit",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    max_record_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The longest record.",
            show_default="64 MiB",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    name: Name = None,
    detach: Detach = False,
    lease: Lease = None,
    give_up_after: GiveUpAfter = None,
    database_url: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Load; the help of the command is `HELP_TEXT`."""
    options = {
        "again": again,
        "format": format_ and format_.value,
        "compression": compression and compression.value,
        "encoding": encoding,
        "delimiter": delimiter,
        "quote": quote,
        "escape": escape,
        "null": null,
        "header": header,
        "columns": names(columns, "--columns"),
        "map": pairs(map_, "--map", "'Full name=name'"),
        "skip": skip or None,
        "defaults": pairs(default, "--default", "source=import"),
        "set": pairs(set_, "--set", "'email=lower(email)'"),
        "column": column,
        "on_conflict": on_conflict and on_conflict.value,
        "on_bad_row": on_bad_row.value,
        "max_rejects": max_rejects,
        "max_record_bytes": max_record_bytes,
    }
    where = database(database_url)
    how = How(
        detach=detach,
        lease=lease,
        give_up_after=give_up_after,
        quiet=quiet,
        as_json=as_json,
        again="--again",
    )
    if file != STDIN:

        async def create(operations: Operations) -> Operation:
            return await operations.load(file, into=into, name=name, **options)  # type: ignore[arg-type]

        carry_out(where, name or f"{Path(file).name} into {into}", create, how)
        return
    # A pipe has no name to tell it from.
    options["format"] = options["format"] or Format.CSV.value
    with Ending() as ending:
        _load_stdin(where, name or f"stdin into {into}", into, options, how, ending)


def _load_stdin(
    where: Database, title: str, into: str, options: dict[str, Any], how: How, ending: Ending
) -> None:
    with where.readable_errors():
        kept = _read_stdin(title, ending)
    # What was there before is that of an operation.
    needed = not kept.is_new

    async def create(operations: Operations) -> Operation:
        nonlocal needed
        await _refuse_other_bytes(operations, title, kept.path)
        operation = await operations.load(kept.path, into=into, name=title, **options)
        needed = not operation.status.finished
        return operation

    how = replace(how, go_on=lambda name: command("operations", "run", name), ended=forget_spool)
    try:
        carry_out(where, title, create, how)
    finally:
        if not needed:
            remove(kept.path)


def forget_spool(status: OperationStatus) -> None:
    """Delete what was kept of standard input for an operation that has ended."""
    path = status.spec.get("path")
    if isinstance(path, str):
        remove(path)


def _read_stdin(title: str, ending: Ending) -> Spooled:
    """Keep standard input: a load must be able to read it again.

    Raises:
        CommandError: It is a terminal.
        SourceError: It cannot be kept.
    """
    if sys.stdin.isatty():
        raise CommandError(
            "Standard input is the keyboard. Suggestion: name a file, or pipe something into it: "
            "producer | poolkeeper load - --into TABLE.",
            exit_code=2,
        )
    with heedful(sys.stdin.fileno(), ending) as source:
        return spool(source, title)


async def _refuse_other_bytes(operations: Operations, name: str, path: Path) -> None:
    """See that an unfinished load of that name is of these bytes.

    Raises:
        OperationConflictError: It is of others.
    """
    try:
        status = (await operations.get(name)).status
    except OperationNotFoundError:
        return
    if status.finished or status.kind != "load" or status.spec.get("path") == str(path):
        return
    raise OperationConflictError(
        f"An unfinished load named {clean(name)!r} ({status.state.value}, "
        f"{rows(status.rows_done)}) is of other input than what came now, which was not kept. "
        f"Suggestion: `{command('operations', 'run', name)}` finishes it, "
        f"`{command('operations', 'cancel', name)}` gives it up, --name begins another one.",
        operation=name,
    )
