"""The commands and what they have in common: version, error messages, exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from poolkeeper import __version__
from poolkeeper.cli import drill as drill_command
from poolkeeper.cli import init_db as init_db_command
from poolkeeper.cli import serve as serve_command
from poolkeeper.cli.check import command as check_command
from poolkeeper.cli.errors import RUNTIME_FAILURE, CommandError
from poolkeeper.cli.operations import backfill as backfill_command
from poolkeeper.cli.operations import control
from poolkeeper.cli.operations import export as export_command
from poolkeeper.cli.operations import load as load_command
from poolkeeper.cli.operations import worker as worker_command

app = typer.Typer(
    name="poolkeeper",
    help="A PostgreSQL connection pool that keeps working when the database does not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(help=serve_command.HELP_TEXT)(serve_command.serve)
app.command(help=check_command.HELP_TEXT)(check_command.check)
app.command(help=init_db_command.HELP_TEXT)(init_db_command.init_db)
app.command(help=drill_command.HELP_TEXT)(drill_command.drill)
app.command(help=load_command.HELP_TEXT)(load_command.load)
app.command(help=backfill_command.HELP_TEXT)(backfill_command.backfill)
app.command(help=export_command.HELP_TEXT)(export_command.export)
app.add_typer(control.app, name="operations")
app.command(help=worker_command.HELP_TEXT)(worker_command.worker)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"poolkeeper {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback when a command fails.")
    ] = False,
) -> None:
    pass


def run() -> int:
    """Run the command in ``sys.argv`` and return its exit code."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else RUNTIME_FAILURE
    except CommandError as error:
        if _debug_wanted():
            raise
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _debug_wanted() -> bool:
    return "--debug" in sys.argv[1:]
