"""A psycopg connection that tells whether somebody waits for the server on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import generators, pq, waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from psycopg.abc import PQGen, PQGenConn
    from psycopg.pq.abc import PGconn

Row = TypeVar("Row")
Result = TypeVar("Result")

CANCEL_SECONDS = 1.0
"""How long a cancelled task waits for the server to hear of it, and then for it to obey."""

SETTLED = frozenset(
    {
        pq.TransactionStatus.IDLE,
        pq.TransactionStatus.INTRANS,
        pq.TransactionStatus.INERROR,
    }
)
"""What the server says between two statements; on a lost connection libpq knows nothing."""


class WatchedAsyncConnection(psycopg.AsyncConnection[Row]):
    """``psycopg.AsyncConnection`` that counts who waits for its peer, and how often anybody did.

    Statements, cursors, pipelines and COPY all come through ``wait``; psycopg's lock says less: it
    is held while notifications are waited for, and not during COPY.

    Attributes:
        waiting: Calls that wait now.
        waits: Calls that ever waited.
        on_refusal: Called when the server refuses a statement because it is read-only.
    """

    waiting = 0
    waits = 0
    on_refusal: Callable[[Exception], None] | None = None
    _status: int = pq.TransactionStatus.IDLE

    async def wait(self, gen: PQGen[Result], *args: Any, **kwargs: Any) -> Result:
        """See psycopg."""
        self.waits += 1
        self.waiting += 1
        try:
            return await super().wait(gen, *args, **kwargs)
        except psycopg.errors.ReadOnlySqlTransaction as error:
            if self.on_refusal is not None:
                self.on_refusal(error)
            raise
        finally:
            self.waiting -= 1
            self._note_status()

    def _note_status(self) -> None:
        status = self.pgconn.transaction_status
        if status in SETTLED:
            self._status = status

    def in_transaction(self) -> bool:
        """Whether the server has a transaction open, or had when it was last heard of."""
        self._note_status()
        return self._status != pq.TransactionStatus.IDLE

    async def _try_cancel(self, *, timeout: float = CANCEL_SECONDS) -> None:
        # psycopg then waits up to 5 s for the statement to end; a server that is silent never
        # ends it, and the cancelled task would be held for as long.
        asyncio.get_running_loop().call_later(2 * CANCEL_SECONDS, self._give_up, self.waits)
        await super()._try_cancel(timeout=min(timeout, CANCEL_SECONDS))

    def _give_up(self, waits: int) -> None:
        """Cut the connection off if what was cancelled then is still waited for."""
        if self.waiting and self.waits == waits and not self.closed:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.fileno())) as ours:
                ours.shutdown(socket.SHUT_RDWR)


def cancel_request(pgconn: PGconn) -> Callable[[], Awaitable[object]]:
    """A request to cancel what runs on ``pgconn``, which may have been closed when it is sent."""
    if not psycopg.capabilities.has_cancel_safe():
        return partial(asyncio.to_thread, pgconn.get_cancel().cancel)
    request = pgconn.cancel_conn()

    def steps() -> PQGenConn[None]:
        request.start()
        yield from generators.cancel(request)

    async def ask() -> None:
        await waiting.wait_conn_async(steps(), interval=CANCEL_SECONDS, timeout=CANCEL_SECONDS)

    return ask
