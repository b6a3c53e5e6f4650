"""What the command does: choose faults, run them one after another, say how it went."""

from __future__ import annotations

import asyncio
import logging
import platform
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from poolkeeper import __version__
from poolkeeper.cli.errors import USAGE_FAILURE, CommandError
from poolkeeper.drill import report as reports
from poolkeeper.drill.arena import EmbeddedArena, GivenArena
from poolkeeper.drill.display import display
from poolkeeper.drill.engine import Pace, Progress, Range
from poolkeeper.drill.faults import FAULTS, fault_named
from poolkeeper.drill.poolkeepers import PoolkeeperAsyncpg, PoolkeeperPsycopg
from poolkeeper.drill.terms import environment_terms
from poolkeeper.embedded import EmbeddedPostgresError
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.outcomes import is_driver_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from poolkeeper.drill.arena import Arena
    from poolkeeper.drill.faults import Fault

CONTENDERS = {"asyncpg": PoolkeeperAsyncpg, "psycopg": PoolkeeperPsycopg}


def chosen(names: Sequence[str], *, given: bool) -> list[type[Fault]]:
    """The faults of these names, or all that can be made.

    Raises:
        CommandError: There is no such fault, or it needs control of the server.
    """
    possible = [fault for fault in FAULTS if not given or fault.needs in GivenArena.controls]
    faults = []
    for name in names:
        fault = fault_named(name)
        if fault is None:
            raise CommandError(
                f"There is no fault {name!r}. Suggestion: one of "
                f"{', '.join(each.name for each in possible)}.",
                exit_code=USAGE_FAILURE,
            )
        if fault not in possible:
            raise CommandError(
                f"The fault {name} needs control of the server, which a database of yours is not "
                f"asked for. Suggestion: one of {', '.join(each.name for each in possible)}.",
                exit_code=USAGE_FAILURE,
            )
        faults.append(fault)
    return faults or possible


def list_faults(faults: Sequence[type[Fault]]) -> None:
    """Print names and what happens."""
    grid = Table.grid(padding=(0, 2))
    for fault in faults:
        grid.add_row(fault.name, fault.what)
    Console(highlight=False).print(grid)


def run(
    faults: Sequence[type[Fault]],
    *,
    driver: str,
    clients: int,
    seconds: float,
    folder: Path | None,
    against: str | None,
) -> bool:
    """Drill; returns whether every promise was kept.

    Raises:
        CommandError: The database cannot be used.
    """
    # What the pool logs is what the drill shows; and connections that are cut off in the middle of
    # a login leave futures in the drivers that nobody awaits, of which asyncio tells.
    for name in ("poolkeeper", "asyncio"):
        quiet = logging.getLogger(name)
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
    try:
        result = asyncio.run(
            _run(faults, driver=driver, clients=clients, seconds=seconds, against=against)
        )
    except (ConnectionPoolError, EmbeddedPostgresError) as error:
        raise CommandError(str(error)) from error
    except Exception as error:
        if not is_driver_error(error):
            raise
        raise CommandError(
            f"The drill cannot work there: {error}. Suggestion: use a role that may create schemas "
            "in the database (GRANT CREATE ON DATABASE)."
        ) from error
    console = Console(highlight=False)
    console.print()
    if result.kept:
        console.print(Text(reports.conclusion(result), "bold green"))
    else:
        console.print(Text("Broken promises", "bold red"))
        for each in reports.verdicts(result):
            console.print(Text(f"  {each}"))
    if folder is not None:
        for path in reports.write(result, folder):
            console.print(Text(f"  {path}", "dim"))
    return result.kept


async def _run(
    faults: Sequence[type[Fault]],
    *,
    driver: str,
    clients: int,
    seconds: float,
    against: str | None,
) -> reports.Run:
    terms = environment_terms(clients)
    pace = replace(Pace(), before=seconds, after=seconds)
    # a network of its own is not needed where only a cluster is broken, but cheap
    arena: Arena = EmbeddedArena() if against is None else GivenArena(against)
    done = []
    with display(len(faults)) as shown:
        shown.preparing(arena)
        async with Range(arena) as ground:
            place = "embedded" if against is None else arena.masked_url
            database = f"PostgreSQL {await ground.server_version()} ({place})"
            shown.started(f"poolkeeper {__version__} on {driver}, {database}")
            for kind in faults:
                fault, progress = kind(), Progress()
                with shown.fault(fault, progress):
                    found = await ground.drill(
                        fault, CONTENDERS[driver], terms, pace=pace, progress=progress
                    )
                shown.finished(found)
                done.append(found)
    return reports.Run(
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        database=database,
        machine=(
            f"poolkeeper {__version__}, {platform.python_implementation()} "
            f"{platform.python_version()}, {platform.system()} {platform.machine()}."
        ),
        terms=terms,
        reports=done,
    )
