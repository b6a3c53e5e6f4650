"""``poolkeeper export``: a table or the rows of a query to files."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer looks at it
from typing import TYPE_CHECKING, Annotated

import typer

from poolkeeper.cli.errors import USAGE_FAILURE, CommandError
from poolkeeper.cli.operations.carry_out import How, carry_out
from poolkeeper.cli.operations.database import database
from poolkeeper.cli.operations.load import Compression, Format  # noqa: TC001 - so here
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
)

if TYPE_CHECKING:
    from poolkeeper.operations import Operation, Operations

HELP_TEXT = (
    "Write a table, or the rows of a query, to a file or to part files.\n\n"
    "It goes along the primary key, and a file that is there under its name is complete. An "
    "interrupted export goes on where it stopped, and writes no row twice. Different chunks see "
    "the table at different moments, unless --consistent.\n\n"
    f"{INTERRUPT_HELP}\n\n"
    "[bold]Examples[/bold]\n\n"
    "  poolkeeper export orders --to orders.csv\n\n"
    "  poolkeeper export orders --to parts/ --format parquet\n\n"
    '  poolkeeper export --query "select id, name from person" --key id --to names.csv.gz\n\n'
    f"{DATABASE_HELP}"
)
_FORMAT = "The files"


def export(
    table: Annotated[
        str | None,
        typer.Argument(help="The table, schema.table if need be; or --query.", show_default=False),
    ] = None,
    *,
    to: Annotated[
        Path, typer.Option(metavar="PATH", help="A file, or a directory for part files.")
    ],
    query: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="A SELECT; it needs --key.", show_default=False),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Columns of the table.", show_default="all"),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL", help="Only rows for which this holds.", show_default="all rows"
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="Columns to go along, none of them NULL.",
            show_default="the primary key",
        ),
    ] = None,
    consistent: Annotated[
        bool,
        typer.Option(
            "--consistent",
            help="See the table at one moment; an interruption then means a start from zero.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="What to write.",
            show_default="from the name, or csv",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    compression: Annotated[
        Compression | None,
        typer.Option(
            help="How to compress it.", show_default="from the name", rich_help_panel=_FORMAT
        ),
    ] = None,
    parts: Annotated[
        bool | None,
        typer.Option(
            "--parts/--one-file",
            help="Part files in a directory, or one file.",
            show_default="from the name",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    part_bytes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Size of a part file.",
            show_default="64 MiB",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether CSV begins with the names of the columns.",
            show_default="--header",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(help="Of CSV.", show_default=", or tab in .tsv", rich_help_panel=_FORMAT),
    ] = None,
    quote: Annotated[
        str | None, typer.Option(help="Of CSV.", show_default='"', rich_help_panel=_FORMAT)
    ] = None,
    null: Annotated[
        str | None,
        typer.Option(
            help="What stands for NULL in CSV.", show_default="nothing", rich_help_panel=_FORMAT
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
    """Export; the help of the command is `HELP_TEXT`."""
    if (table is None) == (query is None):
        raise CommandError(
            "An export needs either a table or --query. Suggestion: "
            "poolkeeper export orders --to orders.csv.",
            exit_code=USAGE_FAILURE,
        )
    chosen, along = names(columns, "--columns"), names(key, "--key")

    async def create(operations: Operations) -> Operation:
        return await operations.export(
            to,
            table=table,
            query=query,
            columns=chosen,
            where=where,
            key=along,
            consistent=consistent,
            format=format_ and format_.value,  # type: ignore[arg-type]
            compression=compression and compression.value,  # type: ignore[arg-type]
            parts=parts,
            part_bytes=part_bytes,
            header=header,
            delimiter=delimiter,
            quote=quote,
            null=null,
            overwrite=overwrite,
            name=name,
        )

    carry_out(
        database(database_url),
        name or f"{table or 'query'} to {to.name}",
        create,
        How(
            detach=detach,
            lease=lease,
            give_up_after=give_up_after,
            quiet=quiet,
            as_json=as_json,
        ),
    )
