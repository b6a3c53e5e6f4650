"""What every response has: an id of its request, and a place in the request counter."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from poolkeeper.server.context import RequestContext

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from poolkeeper.server.metrics import ServerMetrics

_ACCEPTABLE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Frame:
    """ASGI middleware around all endpoints."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the request, pass it on, count the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ACCEPTABLE_ID.fullmatch(given) else str(uuid.uuid4())
        context = RequestContext(request_id, time.perf_counter())
        scope.setdefault("state", {})["context"] = context

        async def send_framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["neon-request-id"] = request_id
                # Only paths that lead somewhere: whoever scans us must not make series.
                route = scope["path"] if "endpoint" in scope else "other"
                self._metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, send_framed)
