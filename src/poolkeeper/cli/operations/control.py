"""``poolkeeper operations``: look at operations, and tell whoever works on them what to do."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path  # noqa: TC003 - typer looks at it
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolkeeper.cli.errors import RUNTIME_FAILURE
from poolkeeper.cli.operations import tables
from poolkeeper.cli.operations.carry_out import How, carry_out, keep_ticking, make_view
from poolkeeper.cli.operations.database import Database, database, loop_factory
from poolkeeper.cli.operations.interrupt import Interrupt
from poolkeeper.cli.operations.load import forget_spool
from poolkeeper.cli.operations.logs import logs_told_to
from poolkeeper.cli.operations.options import (
    DATABASE_HELP,
    INTERRUPT_HELP,
    AsJson,
    DatabaseUrl,
    GiveUpAfter,
    Imports,
    Lease,
    Quiet,
    StatusAsJson,
    import_all,
)
from poolkeeper.cli.operations.view import Silent
from poolkeeper.cli.operations.words import clean, command, in_options, place
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.operations import OperationError, OperationState
from poolkeeper.operations.export import unfinished_of
from poolkeeper.operations.runner import Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from poolkeeper.cli.operations.view import View
    from poolkeeper.operations import Operation, Operations, OperationStatus

DAY = 24 * 60 * 60

app = typer.Typer(
    help=(
        "Look at operations, pause, resume, cancel and retry them, from any machine.\n\n"
        "An operation is what load, backfill, export or a step of your own has begun; it is kept "
        "in the database, under a name. An id does for a name.\n\n"
        f"{DATABASE_HELP}"
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
)

OperationName = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the operation.")]


@app.command("list")
def list_(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that are finished.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at the most.")] = 100,
    database_url: DatabaseUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the unfinished operations, the latest first."""

    async def work(operations: Operations) -> list[OperationStatus]:
        return list(await operations.list(finished=every, limit=limit))

    found = _ask(database(database_url), work)
    if as_json:
        _print_json([status.to_dict() for status in found])
    elif found:
        tables.print_list(found)
    else:
        known = "operation" if every else "unfinished operation"
        print(f"There is no {known}." + ("" if every else " --all shows those that are finished."))


@app.command()
def show(
    name: OperationName, *, database_url: DatabaseUrl = None, as_json: StatusAsJson = False
) -> None:
    """Show everything that is known of an operation."""
    _show(_of(name, database_url, _nothing), as_json=as_json)


@app.command()
def pause(
    name: OperationName, *, database_url: DatabaseUrl = None, as_json: StatusAsJson = False
) -> None:
    """Let nobody work on it until it is resumed. The chunk at hand is undone."""
    status = _of(name, database_url, lambda operation: operation.pause())
    advice = f"`{command('operations', 'resume', status.name)}` lets it go on."
    _tell(status, f"paused at {place(status)}. {advice}", as_json=as_json)


@app.command()
def resume(
    name: OperationName, *, database_url: DatabaseUrl = None, as_json: StatusAsJson = False
) -> None:
    """Let workers go on with an operation that was paused."""
    status = _of(name, database_url, lambda operation: operation.resume())
    _tell(status, _waits(status), as_json=as_json)


@app.command()
def retry(
    name: OperationName, *, database_url: DatabaseUrl = None, as_json: StatusAsJson = False
) -> None:
    """Let workers go on with an operation that has failed, where it stopped."""
    status = _of(name, database_url, lambda operation: operation.retry())
    _tell(status, _waits(status), as_json=as_json)


@app.command()
def cancel(
    name: OperationName, *, database_url: DatabaseUrl = None, as_json: StatusAsJson = False
) -> None:
    """Give an operation up for good. What was committed stays."""
    status = _of(name, database_url, lambda operation: operation.cancel())
    forget_spool(status)
    text = f"cancelled at {place(status)}, which stay."
    if (unfinished := unfinished_of(status)) is not None:
        text += f" Its unfinished files stay as well, where its worker was: {unfinished}"
    _tell(status, text, as_json=as_json)


@app.command()
def delete(name: OperationName, *, database_url: DatabaseUrl = None) -> None:
    """Forget an operation that is done or cancelled, and its rejected rows."""
    status = _of(name, database_url, lambda operation: operation.delete())
    forget_spool(status)
    print(f"{clean(status.name)}: deleted")


@app.command()
def prune(
    *,
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Days since they ended.")
    ],
    database_url: DatabaseUrl = None,
) -> None:
    """Forget all that were done or cancelled long ago, and their rejected rows.

    What they did stays. A file that one of them has loaded can be loaded again without --again.
    """
    forgotten = _ask(
        database(database_url), lambda operations: operations.prune(older_than=older_than * DAY)
    )
    print(f"{forgotten:,} {'operation' if forgotten == 1 else 'operations'} deleted")


@app.command()
def rejects(
    name: OperationName,
    *,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write all of them to a CSV file; - for standard output."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many at the most.", show_default="100, of CSV all"
        ),
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show the rows that were left out: line, row, SQLSTATE and message."""
    most = limit or (100 if csv is None else tables.EVERY)

    async def work(operations: Operations) -> tuple[OperationStatus, list[dict[str, Any]]]:
        operation = await operations.get(name)
        return operation.status, await operation.rejects(most)

    status, found = _ask(database(database_url), work)
    if csv is not None:
        tables.write_rejects(found, csv)
        if str(csv) != "-":
            print(f"{clean(status.name)}: {len(found):,} rejected rows in {csv}", file=sys.stderr)
    elif found:
        tables.print_rejects(found, status)
    else:
        print(f"{clean(status.name)}: no row was rejected")


@app.command(
    help=f"Carry an existing operation out here, whoever has created it.\n\n{INTERRUPT_HELP}"
)
def run(
    name: OperationName,
    *,
    imports: Imports = None,
    lease: Lease = None,
    give_up_after: GiveUpAfter = None,
    database_url: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Carry it out; the help of the command is above."""
    import_all(imports)

    async def find(operations: Operations) -> Operation:
        operation = await operations.get(name)
        if operation.status.state is OperationState.PAUSED:
            await operation.resume()
        elif operation.status.state is OperationState.FAILED:
            await operation.retry()
        return operation

    how = How(
        lease=lease, give_up_after=give_up_after, quiet=quiet, as_json=as_json, ended=forget_spool
    )
    carry_out(database(database_url), name, find, how)


@app.command()
def watch(
    name: OperationName,
    *,
    database_url: DatabaseUrl = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Watch an operation until it ends, whoever works on it; the exit code says how.

    Ctrl-C ends the watching only.
    """
    where = database(database_url)
    with where.readable_errors(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        code, status = runner.run(_watch(where, name, quiet=quiet))
    if status is not None and as_json:
        _print_json(status.to_dict())
    elif status is not None and not code and not quiet:
        print(f"{clean(status.name)}: done, {place(status)}")
    elif status is not None and code == RUNTIME_FAILURE:
        said = f": {clean(in_options(status.error))}" if status.error else f" at {place(status)}"
        print(f"{clean(status.name)}: {status.state.value}{said}", file=sys.stderr)
    if code:
        raise typer.Exit(code)


async def _watch(where: Database, name: str, *, quiet: bool) -> tuple[int, OperationStatus | None]:
    view = make_view(name, quiet=quiet)
    ticking = asyncio.ensure_future(keep_ticking(view))
    try:
        with Interrupt(view.close) as interrupt, logs_told_to(view, where.url):
            async with where.pool() as pool:
                watching = asyncio.ensure_future(_follow(pool.operations, name, view))
                stopping = asyncio.ensure_future(interrupt.stop.wait())
                await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if not watching.done():
                    watching.cancel()
                    await asyncio.wait({watching, stopping})
                    return interrupt.exit_code or RUNTIME_FAILURE, view.status
                status = await watching
                done = status.state is OperationState.DONE
                return 0 if done else RUNTIME_FAILURE, status
    finally:
        ticking.cancel()
        await asyncio.wait({ticking})
        view.close()


async def _follow(operations: Operations, name: str, view: View) -> OperationStatus:
    operation = await operations.get(name)
    while True:
        try:
            async for status in operation.watch():
                view.report(Report(status, _why_not(status)))
        except OperationError:
            raise
        except ConnectionPoolError as error:
            view.report(Report(operation.status, str(error)))
        else:
            return operation.status


def _why_not(status: OperationStatus) -> str | None:
    if status.state is OperationState.RUNNING:
        return f"{status.owner_place} works on it"
    waits = {
        OperationState.PENDING: "no worker has it",
        OperationState.PAUSED: "it is paused",
    }
    return waits.get(status.state)


# ---------------------------------------------------------------------------------------------


def _ask(where: Database, work: Callable[[Operations], Awaitable[Any]]) -> Any:
    """Ask and be done: the logs of the pool have nothing to add."""

    async def ask() -> Any:
        with logs_told_to(Silent(), where.url):
            async with where.pool() as pool:
                return await work(pool.operations)

    with where.readable_errors(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(ask())


def _of(
    name: str, database_url: str | None, work: Callable[[Operation], Awaitable[Any]]
) -> OperationStatus:
    """Do something to an operation, and give how it is then."""

    async def find(operations: Operations) -> OperationStatus:
        operation = await operations.get(name)
        await work(operation)
        return operation.status

    status: OperationStatus = _ask(database(database_url), find)
    return status


async def _nothing(_operation: Operation) -> None:
    pass


def _waits(status: OperationStatus) -> str:
    if status.state is OperationState.RUNNING:
        return f"{clean(status.owner_place or 'a worker')} works on it, at {place(status)}"
    return (
        f"waits for a worker, at {place(status)}. `poolkeeper worker` or "
        f"`{command('operations', 'run', status.name)}` does it."
    )


def _show(status: OperationStatus, *, as_json: bool) -> None:
    if as_json:
        _print_json(status.to_dict())
    else:
        tables.print_one(status)


def _tell(status: OperationStatus, text: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(status.to_dict())
    else:
        print(clean(f"{status.name}: {text}"))


def _print_json(document: Any) -> None:
    print(json.dumps(document, default=str))
