"""What operators may do to a running server, whoever tells it: a request, a signal or a sibling."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.server.lifecycle import Lifecycle

_log = logging.getLogger("poolkeeper.server")

_POLL_SECONDS = 0.02


class Controls:
    """PgBouncer's verbs for the pool of one process."""

    def __init__(self, pool: ConnectionPoolManager, lifecycle: Lifecycle) -> None:
        self._pool = pool
        self._lifecycle = lifecycle

    async def pause(self, wait: float = 0.0) -> dict[str, Any]:
        """Grant no more connections; requests queue, within their own time limits.

        Waits at most ``wait`` seconds until those who have a connection have given it back. The
        pause stays in force whether that succeeds or not, and when this is cancelled.
        """
        self.hold()
        deadline = time.monotonic() + wait
        while self._to_wait_for() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)  # nobody tells when the last one is back
        return self.state()

    def hold(self) -> None:
        """Pause without waiting for anybody."""
        if self._lifecycle.started and not self._lifecycle.paused:
            self._lifecycle.paused_at = time.time()
            self._pool.pause()
            _log.warning("server_paused", extra=self.state())

    def resume(self) -> dict[str, Any]:
        """Grant connections again, to those who wait first."""
        lifecycle = self._lifecycle
        if lifecycle.paused_at is not None:
            seconds = time.time() - lifecycle.paused_at
            lifecycle.paused_at = None
            self._pool.resume()
            _log.info("server_resumed", extra={"paused_seconds": round(seconds, 3), **self.state()})
        return self.state()

    async def reconnect(self) -> dict[str, Any]:
        """Replace every connection: idle ones now, those in use when they come back."""
        await self._pool.expire_connections()
        _log.info("server_reconnecting", extra=self.state())
        return self.state()

    def drain(self) -> dict[str, Any]:
        """Finish what runs, turn away what waits, and exit; as the first SIGTERM does."""
        self._lifecycle.draining = True
        self._lifecycle.stop.set()
        return self.state()

    async def obey(self, verb: str, wait: float = 0.0) -> dict[str, Any]:
        """Do what a verb says: pause, resume, reconnect or drain."""
        match verb:
            case "pause":
                return await self.pause(wait)
            case "resume":
                return self.resume()
            case "reconnect":
                return await self.reconnect()
            case _:
                return self.drain()

    def state(self) -> dict[str, Any]:
        """How things stand: in one word, and who is in the way of a restart."""
        statistics = self._pool.get_statistics()
        return {
            "state": self._lifecycle.state,
            "paused": self._lifecycle.paused,
            "draining": self._lifecycle.draining,
            "active": statistics.active_connections,
            "waiting": statistics.waiting_requests,
        }

    def _to_wait_for(self) -> bool:
        return self._lifecycle.paused and self._pool.get_statistics().active_connections > 0
