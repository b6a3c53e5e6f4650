"""``poolkeeper backfill``: change or delete the rows of a table, range of keys by range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from poolkeeper.cli.errors import USAGE_FAILURE, CommandError
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
)

if TYPE_CHECKING:
    from poolkeeper.operations import Operation, Operations

HELP_TEXT = (
    "Change or delete many rows without locking the table for long.\n\n"
    "It goes along the primary key, a chunk at a time, each committed together with the place the "
    "next one begins at: each row is changed once, through outages, kills and restarts. It slows "
    "down when standbys fall behind or somebody holds locks.\n\n"
    f"{INTERRUPT_HELP}\n\n"
    "[bold]Examples[/bold]\n\n"
    '  poolkeeper backfill users --set "email = lower(email)"\n\n'
    "  poolkeeper backfill events --delete --where \"at < now() - interval '1 year'\"\n\n"
    '  poolkeeper backfill orders --set "state = \'old\'" --where "state is null" --sweep\n\n'
    f"{DATABASE_HELP}"
)
_PACE = "Consideration for others"


def backfill(
    table: Annotated[str, typer.Argument(help="The table, schema.table if need be.")],
    *,
    set_: Annotated[
        str | None,
        typer.Option("--set", metavar="SQL", help="What UPDATE is to set.", show_default=False),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete rows instead.")] = False,
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
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Go over the table again until no row fulfils --where. Only for a condition that "
            "the change makes false.",
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Run an update once more that is done already.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Most rows at a time.",
            show_default="50000",
            rich_help_panel=_PACE,
        ),
    ] = None,
    max_replica_lag: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Seconds a standby may be behind; more makes this wait.",
            show_default="10",
            rich_help_panel=_PACE,
        ),
    ] = None,
    lock_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.001,
            help="Seconds to wait for a locked row before trying again later.",
            show_default="1",
            rich_help_panel=_PACE,
        ),
    ] = None,
    pause: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Seconds to pause after each chunk.",
            show_default="none",
            rich_help_panel=_PACE,
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
    """Run a backfill; the help of the command is `HELP_TEXT`."""
    if set_ is not None and delete:
        raise CommandError(
            "A backfill takes --set or --delete, not both. Suggestion: leave one of them out.",
            exit_code=USAGE_FAILURE,
        )
    if set_ is None and not delete:
        raise CommandError(
            "A backfill needs either --set or --delete. Suggestion: "
            'poolkeeper backfill users --set "email = lower(email)".',
            exit_code=USAGE_FAILURE,
        )
    if sweep and where is None:
        raise CommandError(
            "--sweep needs --where: it ends when no row fulfils the condition any more. "
            "Suggestion: give a condition that the change makes false.",
            exit_code=USAGE_FAILURE,
        )
    along = names(key, "--key")

    async def create(operations: Operations) -> Operation:
        return await operations.backfill(
            table,
            set=set_,
            delete=delete,
            where=where,
            key=along,
            sweep=sweep,
            batch=batch,
            max_replica_lag=max_replica_lag,
            lock_timeout=lock_timeout,
            pause=pause,
            name=name,
            again=again,
        )

    carry_out(
        database(database_url),
        name or f"{'delete from' if delete else 'update'} {table}",
        create,
        How(
            detach=detach,
            lease=lease,
            give_up_after=give_up_after,
            quiet=quiet,
            as_json=as_json,
            again="--again",
        ),
    )
