"""A psycopg connection that tells whether somebody waits for the server on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from psycopg.abc import PQGen

Row = TypeVar("Row")
Result = TypeVar("Result")

CANCEL_SECONDS = 1.0
"""How long a cancelled task waits for the server to hear of it, and then for it to obey."""


class WatchedAsyncConnection(psycopg.AsyncConnection[Row]):
    """``psycopg.AsyncConnection`` that counts who waits for its peer, and how often anybody did.

    Statements, cursors, pipelines and COPY all come through ``wait``; psycopg's lock says less: it
    is held while notifications are waited for, and not during COPY.

    Attributes:
        waiting: Calls that wait now.
        waits: Calls that ever waited.
    """

    waiting = 0
    waits = 0

    async def wait(self, gen: PQGen[Result], *args: Any, **kwargs: Any) -> Result:
        """See psycopg."""
        self.waits += 1
        self.waiting += 1
        try:
            return await super().wait(gen, *args, **kwargs)
        finally:
            self.waiting -= 1

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
