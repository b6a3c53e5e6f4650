"""Create an operation and see it through in this process, as a person wants to see it."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import typer
from rich.console import Console

from poolkeeper.cli.errors import RUNTIME_FAILURE
from poolkeeper.cli.operations.bar import Bar
from poolkeeper.cli.operations.database import Database, loop_factory
from poolkeeper.cli.operations.interrupt import Interrupt
from poolkeeper.cli.operations.logs import logs_told_to
from poolkeeper.cli.operations.view import Lines, Silent, View
from poolkeeper.cli.operations.words import (
    clean,
    duration,
    outages,
    place,
    printable,
    rows,
    same_command,
)
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.operations import OperationError, OperationState
from poolkeeper.operations.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from poolkeeper.operations import Operation, Operations, OperationStatus

AWAY_SECONDS = 1.0
"""A worker that waits for the database when it is asked to stop gets so much time to leave."""


@dataclass(frozen=True, kw_only=True)
class How:
    """What the common options ask for.

    Attributes:
        detach: Create it only.
        lease: See ``Operations.lease_seconds``.
        give_up_after: Seconds the database may be away.
        quiet: Show errors only.
        as_json: Print the final status as JSON.
        go_on: The command that goes on with it; by default the same.
        again: What to add to do again what is done; None if nothing can be added.
        ended: Called with the last status, once nothing can happen to it any more.
    """

    detach: bool = False
    lease: float | None = None
    give_up_after: float | None = None
    quiet: bool = False
    as_json: bool = False
    go_on: Callable[[str], str] | None = None
    again: str | None = None
    ended: Callable[[OperationStatus], None] | None = None


def carry_out(
    where: Database, title: str, create: Callable[[Operations], Awaitable[Operation]], how: How
) -> None:
    """Create an operation and do it.

    Args:
        where: The database.
        title: What to call it until it has a name.
        create: Creates the operation, or finds it.
        how: What the user wants.

    Raises:
        CommandError: It cannot be created, has failed or was stopped by somebody.
        typer.Exit: It was interrupted.
    """
    with where.readable_errors(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = runner.run(_carry_out(where, title, create, how))
    if code:
        raise typer.Exit(code)


def make_view(title: str, *, quiet: bool) -> View:
    """A bar on a terminal, else lines."""
    if quiet:
        return Silent()
    console = Console(stderr=True, highlight=False, soft_wrap=False)
    # Not console.is_terminal: FORCE_COLOR, which many CI systems set, makes no terminal of a log.
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return Bar(title, console)
    return Lines()


async def _carry_out(
    where: Database, title: str, create: Callable[[Operations], Awaitable[Operation]], how: How
) -> int:
    view = make_view(title, quiet=how.quiet)
    ticking = asyncio.ensure_future(keep_ticking(view))
    try:
        with (
            Interrupt(view.close, lambda: _promise(view)) as interrupt,
            logs_told_to(view, where.url),
        ):
            async with where.pool() as pool:
                if how.lease is not None:
                    pool.operations.lease_seconds = how.lease
                operation = await _unless_interrupted(create(pool.operations), interrupt)
                if operation is None:
                    view.close()
                    return interrupt.exit_code or RUNTIME_FAILURE
                if operation.status.state is OperationState.DONE:
                    view.close()
                    _say_done_before(operation.status, how)
                    return 0
                if how.detach:
                    view.close()
                    _say_detached(operation.status, how)
                    return 0
                return await _see_through(operation, view, interrupt, how)
    finally:
        ticking.cancel()
        await asyncio.wait({ticking})
        view.close()


async def _see_through(operation: Operation, view: View, interrupt: Interrupt, how: How) -> int:
    stopped_by: ConnectionPoolError | None = None
    running = asyncio.ensure_future(
        operation.run(report=view.report, stop=interrupt.stop, patience=how.give_up_after)
    )
    leaving = asyncio.ensure_future(leave_when_away(running, view, interrupt))
    try:
        await running
    except asyncio.CancelledError:
        if interrupt.exit_code is None:
            raise
    except ConnectionPoolError as error:
        stopped_by = error
    finally:
        leaving.cancel()
        await asyncio.wait({leaving})
        if not running.done():
            running.cancel()
            await asyncio.wait({running})
    if isinstance(stopped_by, OperationError):
        await _refresh(operation)
    status = operation.status
    view.close()
    if how.ended is not None and status.finished:
        how.ended(status)
    if how.as_json:
        print(json.dumps(status.to_dict(), default=str))
    if stopped_by is not None:
        if status.state is OperationState.FAILED:
            if not _says_itself(status):
                print(_failed(status), file=sys.stderr)
        elif not isinstance(stopped_by, OperationError):
            print(printable(_interrupted(status, how)), file=sys.stderr)
        raise stopped_by
    if status.state is OperationState.DONE:
        if not (how.quiet or how.as_json):
            print(_summary(status, view))
        return 0
    print(printable(_interrupted(status, how)), file=sys.stderr)
    return interrupt.exit_code or RUNTIME_FAILURE


class Waiting(Protocol):
    """Who knows whether the database is away."""

    @property
    def waiting(self) -> bool:
        """Whether it is."""


async def leave_when_away(running: asyncio.Future[Any], who: Waiting, interrupt: Interrupt) -> None:
    """Nobody who pressed Ctrl-C wants to wait for a database that is away.

    A chunk that is under way is let finish, though.
    """
    await interrupt.stop.wait()
    while not running.done():
        await asyncio.wait({running}, timeout=AWAY_SECONDS)
        if who.waiting:
            running.cancel()


async def _unless_interrupted(
    creating: Awaitable[Operation], interrupt: Interrupt
) -> Operation | None:
    task = asyncio.ensure_future(creating)
    stopping = asyncio.ensure_future(interrupt.stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        stopping.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait({task, stopping})


async def _refresh(operation: Operation) -> None:
    try:
        await operation.refresh()
    except ConnectionPoolError:
        return  # what was seen last has to do


async def keep_ticking(view: View) -> None:
    """Let the view know that time passes, until cancelled."""
    while True:
        view.tick()
        await asyncio.sleep(view.refresh_seconds)


def _promise(view: View) -> None:
    view.say("stopping after the present chunk; once more stops at once")


def _summary(status: OperationStatus, view: View) -> str:
    """One line: rows, rejected, time, rate, outages."""
    text = f"{clean(status.name)}: {rows(status.rows_done)}"
    if status.rows_rejected:
        text += f", {rows(status.rows_rejected)} rejected"
    left_out = status.cursor.get("left_out") if status.kind == "load" else None
    if left_out:
        text += f", {rows(left_out)} left out as their key was there already"
    seconds = view.pace.elapsed(view.clock())
    first = view.pace.first
    before = 0 if first is None else first.rows_done
    here = status.rows_done - before
    text += f", {here:,} of them in this run" if before else ""
    text += f", in {duration(seconds)}"
    working = view.pace.worked
    if here and working:
        text += f" ({here / working:,.0f} rows/s)"
    if status.outages:
        text += f", {outages(status.outages)}"
    return text


def _interrupted(status: OperationStatus, how: How) -> str:
    name = clean(status.name)
    command = same_command() if how.go_on is None else how.go_on(status.name)
    if status.state is OperationState.RUNNING and status.owner_place != Owner().place:
        return (
            f"{name}: {clean(status.owner_place or 'another worker')} has it, at {place(status)}. "
            f"To go on with it:\n  {command}"
        )
    return f"{name}: laid down after {place(status)}. To go on:\n  {command}"


def _says_itself(status: OperationStatus) -> bool:
    """Whether the error tells how far it is and how to go on."""
    return (status.error or "").startswith(f"{status.kind} {status.name!r} failed after ")


def _failed(status: OperationStatus) -> str:
    return (
        f"{clean(status.name)}: failed after {place(status)}, which stay; once it is mended, the "
        "same command goes on there. The reason:"
    )


def _say_done_before(status: OperationStatus, how: How) -> None:
    if how.as_json:
        print(json.dumps(status.to_dict(), default=str))
    elif not how.quiet:
        at = status.finished_at or status.updated_at
        advice = f" {how.again} does it once more." if how.again else ""
        print(
            f"{clean(status.name)}: done already on {at:%Y-%m-%d %H:%M:%S %Z}, "
            f"{rows(status.rows_done)}; nothing to do.{advice}"
        )


def _say_detached(status: OperationStatus, how: How) -> None:
    if how.as_json:
        print(json.dumps(status.to_dict(), default=str))
    elif not how.quiet:
        print(
            f"{clean(status.name)}: {status.state.value}, at {place(status)}. `poolkeeper worker` "
            "does it, on any machine that can reach what it needs."
        )
