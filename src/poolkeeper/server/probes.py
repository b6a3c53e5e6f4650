"""Health and probes: cached evidence only, never a connection, never a wait."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.server.lifecycle import Lifecycle

_FRESH = {"Cache-Control": "no-store"}


class Probes:
    """The answers an orchestrator or a person asks for."""

    def __init__(self, pool: ConnectionPoolManager, lifecycle: Lifecycle) -> None:
        self._pool = pool
        self._lifecycle = lifecycle

    async def health(self, _request: Request) -> Response:
        """Everything that is known, for people and monitoring."""
        report = await self._pool.health_check()
        return Response(
            json.dumps(report.to_dict(), ensure_ascii=False),
            status_code=report.http_status,
            media_type="application/json",
            headers=_FRESH,
        )

    async def live(self, _request: Request) -> Response:
        """Whether the process should be left running: it answers, so yes."""
        return PlainTextResponse("ok\n", headers=_FRESH)

    async def ready(self, _request: Request) -> Response:
        """Whether new requests should come here. A full pool is busy, not broken."""
        if self._lifecycle.draining:
            return self._not_ready("draining")
        if not self._lifecycle.started:
            return self._not_ready("starting")
        report = await self._pool.health_check()
        if report.status == "unhealthy":
            return self._not_ready(f"database {report.database.status}")
        return PlainTextResponse("ok\n", headers=_FRESH)

    async def started(self, _request: Request) -> Response:
        """Whether the first start is over; an outage later does not undo it."""
        if self._lifecycle.started:
            return PlainTextResponse("ok\n", headers=_FRESH)
        return self._not_ready("starting")

    def _not_ready(self, reason: str) -> Response:
        return PlainTextResponse(f"{reason}\n", status_code=503, headers=_FRESH)
