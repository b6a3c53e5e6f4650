"""During an outage, notice the moment the database can be dialled again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from poolkeeper.core.availability import Failure
from poolkeeper.deadlines import bounded
from poolkeeper.keepers.service import Keeper
from poolkeeper.observability.events import (
    DatabaseConnectionLost,
    DatabaseReconnected,
    PoolClosed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poolkeeper.observability.events import Event
    from poolkeeper.pool import Pool

KNOCK_INTERVAL = 0.05
KNOCK_TIMEOUT = 1.0


class ReconnectKeeper(Keeper):
    """Knock at the database's door while the pool is cut off, and tell the pool when it opens.

    The pool itself dials with a capped, jittered backoff: one login at a time, up to a second
    apart. A bare TCP connection costs a fraction of a login and none while it is refused, so it
    can be tried far more often. Only the change from refused to accepted breaks the backoff; a
    server that accepts and then fails the login must not be asked twenty times a second. One that
    is starting up says so at once, so it is asked itself.

    A door found open is knocked at again only after a dial has failed: a frozen server answers
    nobody, and every knock would stay in its queue for the moment it comes back.
    """

    def __init__(
        self, pool: Pool, endpoints: Callable[[], Sequence[tuple[str, int] | str]]
    ) -> None:
        super().__init__(KNOCK_INTERVAL)
        self._pool = pool
        self._endpoints = endpoints
        self._refused = False
        # Failed dials when the door was last found open.
        self._open_at: int | None = None

    def notice(self, event: Event) -> None:
        """Take the duty up when an outage begins, lay it down when it ends."""
        if isinstance(event, DatabaseConnectionLost):
            self._refused, self._open_at = False, None
            self.start()
        elif isinstance(event, DatabaseReconnected | PoolClosed):
            self.cancel()

    async def perform(self) -> None:
        """Knock once, if there is anything to learn from it."""
        outage = self._pool.state.outage
        if outage.last_failure is Failure.STARTING:
            self._pool.sign_of_life()
            return
        if self._open_at == outage.attempts:
            return
        opened = any([await self._knock(endpoint) for endpoint in self._endpoints()])
        if opened and self._refused:
            self._pool.sign_of_life()
        self._refused = not opened
        self._open_at = outage.attempts if opened else None

    async def _knock(self, endpoint: tuple[str, int] | str) -> bool:
        try:
            _reader, writer = await bounded(_open(endpoint), KNOCK_TIMEOUT, too_late=_hang_up)
        except OSError:
            return False
        _hang_up((_reader, writer))
        return True


async def _open(
    endpoint: tuple[str, int] | str,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(endpoint, str):
        return await asyncio.open_unix_connection(endpoint)
    return await asyncio.open_connection(*endpoint)


def _hang_up(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    with contextlib.suppress(OSError):
        streams[1].transport.abort()
