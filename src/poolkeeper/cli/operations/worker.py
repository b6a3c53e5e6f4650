"""``poolkeeper worker``: do whatever operations there are, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path  # noqa: TC003 - typer looks at it
from typing import TYPE_CHECKING, Annotated

import typer

from poolkeeper.cli.operations.carry_out import leave_when_away
from poolkeeper.cli.operations.database import Database, database, loop_factory
from poolkeeper.cli.operations.interrupt import Interrupt
from poolkeeper.cli.operations.logs import logs_told_to
from poolkeeper.cli.operations.options import (
    DATABASE_HELP,
    DatabaseUrl,
    Imports,
    Lease,
    Quiet,
    import_all,
)
from poolkeeper.cli.operations.tables import EVERY
from poolkeeper.cli.operations.view import Lines, Silent
from poolkeeper.cli.operations.words import duration, in_options, reason, rows
from poolkeeper.exceptions import ConnectionPoolError, DatabaseUnavailableError
from poolkeeper.observability.events import OperationClaimed, OperationEnded, OperationResumed
from poolkeeper.operations import OperationState
from poolkeeper.sqlstate import MISCONFIGURED, sqlstate_of

if TYPE_CHECKING:
    from poolkeeper.cli.operations.view import View
    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.observability.events import Event

HELP_TEXT = (
    "Do operations that wait for a worker, and those whose worker has died.\n\n"
    "Start as many workers as you like, on any machines: the database is all they share, and each "
    "chunk is committed once, whatever happens to them. One that cannot reach a file, or does not "
    "know a step, leaves the operation to others. Whoever may write to poolkeeper.operations "
    "decides what a worker reads and writes: --files-below sets limits to that.\n\n"
    "The first Ctrl-C or SIGTERM lays everything down after the present chunks (exit code 0), the "
    "second ends at once.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  poolkeeper worker --concurrency 4\n\n"
    "  poolkeeper worker --import shop.operations --files-below /var/lib/shop/imports\n\n"
    f"{DATABASE_HELP}"
)
RETRY_SECONDS = 1.0


def worker(
    *,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Operations at a time.")
    ] = 1,
    imports: Imports = None,
    files_below: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Touch no files but those below it.",
            show_default="any file",
            exists=True,
            file_okay=False,
            resolve_path=True,
        ),
    ] = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when nothing waits for a worker.")
    ] = False,
    lease: Lease = None,
    database_url: DatabaseUrl = None,
    quiet: Quiet = False,
) -> None:
    """Work; the help of the command is `HELP_TEXT`."""
    import_all(imports)
    where = database(database_url)
    with where.readable_errors(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(
            _work(
                where,
                concurrency=concurrency,
                files_below=files_below,
                until_idle=until_idle,
                lease=lease,
                quiet=quiet,
            )
        )


async def _work(
    where: Database,
    *,
    concurrency: int,
    files_below: Path | None,
    until_idle: bool,
    lease: float | None,
    quiet: bool,
) -> None:
    log = _Log(Silent() if quiet else Lines())
    with Interrupt(heard=log.stopping) as interrupt, logs_told_to(log, where.url):
        async with where.pool() as pool:
            pool.add_event_listener(log.event)
            if lease is not None:
                pool.operations.lease_seconds = lease
            if files_below is not None:
                pool.operations.confine_files(files_below)
            log.say(f"working at {where.shown}, {concurrency} at a time")
            working = asyncio.ensure_future(
                _as_long_as_it_takes(pool, interrupt, log, concurrency, until_idle=until_idle)
            )
            leaving = asyncio.ensure_future(leave_when_away(working, log, interrupt))
            try:
                await working
            except asyncio.CancelledError:
                if interrupt.exit_code is None:
                    raise
            else:
                if not interrupt.stop.is_set():
                    for line in await _left(pool):
                        log.say(line)
            finally:
                leaving.cancel()
                await asyncio.wait({leaving})
                if not working.done():
                    working.cancel()
                    await asyncio.wait({working})

    if interrupt.exit_code:
        log.say("stopped")


async def _left(pool: ConnectionPoolManager) -> list[str]:
    """What is said of operations that nobody does when there is nothing to do here."""
    try:
        found = await pool.operations.list(finished=False, limit=EVERY)
    except (ConnectionPoolError, OSError):
        return ["nothing is left that could be done here"]
    waiting = [status for status in found if status.state is OperationState.PENDING]
    if not waiting:
        return ["nothing is left to do"]
    many = len(waiting) > 1
    head = (
        f"{len(waiting):,} operation{'s' if many else ''} still wait{'' if many else 's'} for a "
        "worker that can do what this one cannot:"
    )
    return [
        head,
        *(f"{s.name}: {(s.error or 'just created').partition('. ')[0]}" for s in waiting),
    ]


async def _as_long_as_it_takes(
    pool: ConnectionPoolManager,
    interrupt: Interrupt,
    log: _Log,
    concurrency: int,
    *,
    until_idle: bool,
) -> None:
    """A worker may be started before its database."""
    while not interrupt.stop.is_set():
        try:
            await pool.operations.work(
                concurrency=concurrency, stop=interrupt.stop, until_idle=until_idle
            )
        except DatabaseUnavailableError as error:
            if error.__cause__ is not None and sqlstate_of(error.__cause__) in MISCONFIGURED:
                raise
            log.database_away(str(error.__cause__ or error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(interrupt.stop.wait(), RETRY_SECONDS)
        else:
            return


class _Log:
    """One line for each event.

    Args:
        view: Where they go.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._away_since: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether the database is away."""
        return self._away_since is not None

    def say(self, text: str) -> None:
        """See ``logs.Listener``."""
        self._view.say(text)

    def stopping(self) -> None:
        """Hear the first signal."""
        self.say("stopping after the present chunks; once more stops at once")

    def database_away(self, why: str) -> None:
        """See ``logs.Listener``."""
        if self._away_since is None:
            self._away_since = self._view.clock()
            self.say(f"the database is away: {reason(why)}")

    def database_back(self) -> None:
        """See ``logs.Listener``."""
        if self._away_since is not None:
            away = self._view.clock() - self._away_since
            self._away_since = None
            self.say(f"the database is back after {duration(away)}")

    def event(self, event: Event) -> None:
        """Hear of an operation."""
        match event:
            case OperationClaimed():
                how = "takes over" if event.taken_from else "begins"
                if event.rows_done and not event.taken_from:
                    how = "goes on"
                self.say(f"{event.operation}: {how} at {rows(event.rows_done)}")
            case OperationResumed():
                self.say(
                    f"{event.operation}: goes on at {rows(event.rows_done)} over a new connection, "
                    f"{duration(event.elapsed_seconds)} after its last chunk"
                )
            case OperationEnded():
                self.say(f"{event.operation}: {_end(event)}")


def _end(event: OperationEnded) -> str:
    far = rows(event.rows_done)
    if event.rows_rejected:
        far += f" ({rows(event.rows_rejected)} rejected)"
    if event.error is not None:
        return f"{event.state} at {far}: {in_options(event.error)}"
    if event.state == "pending":
        return f"laid down at {far}"
    if event.state == "running":
        return f"somebody else has it, at {far}"
    return f"{event.state} at {far}, {duration(event.elapsed_seconds)} after it began"
