"""``poolkeeper drill``: its options; what it does needs the extra ``testing``."""

from __future__ import annotations

import importlib
from pathlib import Path  # noqa: TC003 - typer looks at it
from typing import Annotated, Any

import typer

from poolkeeper.cli.errors import RUNTIME_FAILURE, USAGE_FAILURE, CommandError
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.urls import mask_url, split_url

HELP_TEXT = (
    "Break a database in every way it can break, and see what the clients of a pool notice.\n\n"
    "Fifty clients read and insert through a pool while the server is killed, frozen or restarted "
    "and the network resets, refuses, delays or swallows. Afterwards their account is compared "
    "with what is in the database. Without --against this happens to a PostgreSQL of the drill's "
    "own in a temporary directory. Options of the pool come from the environment, POOL_…. "
    "The exit code is 1 when anything was lost, doubled or hung, or a call took longer than its "
    "bound.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  poolkeeper drill --list\n\n"
    "  poolkeeper drill --fault crash --fault silent-connections\n\n"
    "  poolkeeper drill --report drill-report"
)
CONSENT = "--i-know-this-breaks-connections"


def drill(
    *,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Only this fault; may be given several times.", show_default="all"),
    ] = None,
    list_faults: Annotated[bool, typer.Option("--list", help="List the faults and exit.")] = False,
    driver: Annotated[
        str | None,
        typer.Option(help="asyncpg or psycopg.", show_default="that of the URL, or asyncpg"),
    ] = None,
    clients: Annotated[int, typer.Option(min=2, help="Clients working at the same time.")] = 50,
    seconds: Annotated[
        float,
        typer.Option(min=0.5, help="Seconds of undisturbed work before and after each fault."),
    ] = 1.5,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.html, report.md and report.json.", show_default="none"
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A database of yours instead; its server is left alone, the way to it is not.",
            show_default="a PostgreSQL of its own",
        ),
    ] = None,
    consent: Annotated[
        bool, typer.Option(CONSENT, help="What --against needs: you have read what it does.")
    ] = False,
) -> None:
    """Run the drill; the help of the command is `HELP_TEXT`."""
    if against is not None:
        named = _driver_of(against)
        if driver is not None and driver != named and "+" in against.partition("://")[0]:
            raise CommandError(
                f"The URL {mask_url(against)} names the driver {named}, and --driver names "
                f"{driver}. Suggestion: leave one of them out.",
                exit_code=USAGE_FAILURE,
            )
        driver = driver or named
        if not consent and not list_faults:
            raise CommandError(_what_it_does(against), exit_code=USAGE_FAILURE)
    if driver not in {None, "asyncpg", "psycopg"}:
        raise CommandError(
            f"There is no driver {driver!r}. Suggestion: --driver asyncpg or --driver psycopg.",
            exit_code=USAGE_FAILURE,
        )
    command = _command()
    names = command.chosen(fault or [], given=against is not None)
    if list_faults:
        command.list_faults(names)
        return
    kept = command.run(
        names,
        driver=driver or "asyncpg",
        clients=clients,
        seconds=seconds,
        folder=report,
        against=against,
    )
    if not kept:
        raise typer.Exit(RUNTIME_FAILURE)


def _driver_of(url: str) -> str:
    try:
        return split_url(url)[0]
    except PoolConfigurationError as error:
        raise CommandError(str(error), exit_code=USAGE_FAILURE) from error


def _what_it_does(url: str) -> str:
    return (
        f"A drill against {mask_url(url)} opens about a dozen connections, puts full load on them "
        "for some minutes, and breaks the way to the database through a proxy of its own: silence, "
        "resets, refusals, delays. Sessions of the drill are terminated; nobody else's are. It "
        "creates the schema poolkeeper_drill, and poolkeeper for the ledger of transactions where "
        "there is none, and drops its own schema at the end. "
        f"Suggestion: use a database that may be disturbed, and add {CONSENT}."
    )


def _command() -> Any:
    """By name: the command line must start where the test kit is not installed."""
    try:
        return importlib.import_module("poolkeeper.drill.command")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("poolkeeper"):
            raise
        raise CommandError(
            f"The drill needs a package that is not installed ({error.name}). "
            "Suggestion: pip install 'poolkeeper[testing]'"
        ) from error
