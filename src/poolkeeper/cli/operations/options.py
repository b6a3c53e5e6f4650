"""Options that several commands have, and how their values are read."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from poolkeeper.cli.errors import USAGE_FAILURE, CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPERATION = "Operation"
_OUTPUT = "Output"

DATABASE_HELP = (
    "The database is named by DATABASE_URL. A password on the command line is visible to other "
    "users: use DATABASE_URL, PGPASSWORD or ~/.pgpass."
)

INTERRUPT_HELP = (
    "The first Ctrl-C or SIGTERM lays the operation down after the present chunk (exit code 130 or "
    "143), the second ends at once. The same command goes on where it stopped, also after kill -9; "
    "where another process is at it, it follows, and takes over if that one dies. The exit code is "
    "0 when all is done and 1 when it failed or somebody paused or cancelled it."
)

DatabaseUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="postgresql://user@host:5432/database; better given as DATABASE_URL.",
        show_default="DATABASE_URL",
        rich_help_panel=_OPERATION,
    ),
]
Name: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What to call the operation.",
        show_default="from what it does",
        rich_help_panel=_OPERATION,
    ),
]
Detach: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Only create the operation: a `poolkeeper worker` does it.",
        rich_help_panel=_OPERATION,
    ),
]
Lease: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.5,
        help="Seconds without a sign of life after which another process takes over.",
        show_default="15",
        rich_help_panel=_OPERATION,
    ),
]
GiveUpAfter: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Seconds the database may be away at a time.",
        show_default="never",
        rich_help_panel=_OPERATION,
    ),
]
Quiet: TypeAlias = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=_OUTPUT),
]
AsJson: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print how it ended as a JSON object.",
        rich_help_panel=_OUTPUT,
    ),
]

StatusAsJson: TypeAlias = Annotated[
    bool,
    typer.Option("--json", help="Print it as a JSON object.", rich_help_panel=_OUTPUT),
]

Imports: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="A module that defines steps (`@poolkeeper.operations.custom`); repeatable.",
        show_default=False,
        rich_help_panel=_OPERATION,
    ),
]


def import_all(modules: Sequence[str] | None) -> None:
    """Import modules as ``python -m`` would: also from the present directory.

    Raises:
        CommandError: One is not there.
    """
    if modules and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in modules or ():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise
            raise CommandError(
                f"There is no module {name!r} to import. Suggestion: name it as Python does, "
                "without .py, and start the command in its directory or set PYTHONPATH.",
                exit_code=USAGE_FAILURE,
            ) from error


def names(given: str | None, option: str) -> list[str] | None:
    """Read ``a,b,c``.

    Raises:
        CommandError: One of them is empty.
    """
    if given is None:
        return None
    found = [name.strip() for name in given.split(",")]
    if not all(found):
        raise CommandError(
            f"{option} {given!r} has an empty name in it. "
            f"Suggestion: write {option} id,name,created_at.",
            exit_code=USAGE_FAILURE,
        )
    return found


def pairs(given: Sequence[str] | None, option: str, example: str) -> dict[str, str] | None:
    """Read ``NAME=VALUE`` of an option that may be given several times.

    Raises:
        CommandError: One is none, or a name occurs twice.
    """
    if not given:
        return None
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise CommandError(
                f"{option} {text!r} is not of the form NAME=VALUE. "
                f"Suggestion: write {option} {example}.",
                exit_code=USAGE_FAILURE,
            )
        if name.strip() in found:
            raise CommandError(
                f"{option} names {name.strip()!r} twice. Suggestion: leave one of them out.",
                exit_code=USAGE_FAILURE,
            )
        found[name.strip()] = value
    return found
