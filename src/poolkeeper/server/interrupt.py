"""Ends a statement at its deadline or when its client leaves, and tells what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from poolkeeper.drivers.psycopg_exchange import cut, is_half_read
from poolkeeper.server.execute import OutcomeUnknownError, ask_to_cancel

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from poolkeeper.server.execute import Connection
    from poolkeeper.server.timers import Timers

T = TypeVar("T")

# From the interruption to the cut: a cancel request may take its time, and then the statement.
_PATIENCE = 4.0


class DeadlineExceededError(Exception):
    """The work was cancelled, at its deadline or because the client left, and had no effect."""


async def interruptible(
    conn: Connection,
    work: Coroutine[Any, Any, T],
    *,
    deadline: float,
    leaving: asyncio.Future[None],
    timers: Timers | None = None,
) -> T:
    """Await ``work`` on ``conn``; at the deadline or when the client leaves, cancel in the server.

    The server has the last word: a statement that finished before the cancel request reached it
    is reported as the success it was. Cancelling this closes the connection.

    Args:
        conn: The connection ``work`` uses.
        work: Calls of `run_statement`.
        deadline: In the event loop's time.
        leaving: Done when nobody waits for the answer any more.
        timers: Of the event loop, cheaper than its own.

    Raises:
        DeadlineExceededError: The statement was cancelled and had no effect.
        OutcomeUnknownError: The connection was lost, or cut because the server did not answer
            the cancel request.
    """
    interruption = _Interruption(conn)
    begin = interruption.begin
    timer = (timers or asyncio.get_running_loop()).call_at(deadline, begin)
    leaving.add_done_callback(begin)
    ended = False
    try:
        result = await work
        ended = not interruption.begun
        return result  # noqa: TRY300 - most come this way, and leave nothing to look at
    except psycopg.errors.QueryCanceled as error:
        if interruption.begun:
            raise DeadlineExceededError(str(error)) from error
        raise
    except OutcomeUnknownError as error:
        if interruption.cut:
            reason = f"no answer to a cancel request within {_PATIENCE:g} s"
            raise OutcomeUnknownError(reason) from error
        raise
    finally:
        timer.cancel()
        leaving.remove_done_callback(begin)
        interruption.over = True
        if not ended:
            try:
                if interruption.begun:
                    await interruption.end()
            finally:
                if is_half_read(conn):
                    # Nobody knows the end of this.
                    conn.pgconn.finish()


class _Interruption:
    """A cancel request, and the cut of the connection if it does not help."""

    __slots__ = ("_conn", "_cutter", "_request", "cut", "over")

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._request: asyncio.Task[bool] | None = None
        self._cutter: asyncio.TimerHandle | None = None
        self.over = False
        self.cut = False

    @property
    def begun(self) -> bool:
        return self._request is not None

    def begin(self, _leaving: object = None) -> None:
        if self.over or self.begun:
            return
        loop = asyncio.get_running_loop()
        self._request = loop.create_task(ask_to_cancel(self._conn))
        self._cutter = loop.call_later(_PATIENCE, self._cut)

    def _cut(self) -> None:
        self.cut = True
        cut(self._conn)

    async def end(self) -> None:
        """Leave nothing that could hit whoever gets the connection next."""
        assert self._request is not None
        try:
            if not await asyncio.shield(self._request):
                # It may still arrive, when the statement of another client runs.
                cut(self._conn)
        except asyncio.CancelledError:
            self._conn.pgconn.finish()
            raise
        finally:
            if self._cutter is not None:
                self._cutter.cancel()
