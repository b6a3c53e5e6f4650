"""What every response has: its names, where its time went, and a place in counters and log."""

from __future__ import annotations

import logging
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING

from poolkeeper.server.context import RequestContext
from poolkeeper.server.problem import problem
from poolkeeper.server.trace import names_of

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from poolkeeper.server.access_log import AccessLog
    from poolkeeper.server.metrics import ServerMetrics

_log = logging.getLogger("poolkeeper.server")

# nginx's number for a client that left before the answer; only log and counters see it.
_CLIENT_GONE = 499


class Frame:
    """ASGI middleware around all endpoints.

    Args:
        app: What answers.
        metrics: Where requests are counted.
        access_log: Where each is written down; None for nowhere.
        server_timing: Whether responses say where their time went.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        access_log: AccessLog | None = None,
        *,
        server_timing: bool = True,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log
        self._server_timing = server_timing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the request, pass it on, note the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        begun = False
        request_id, trace_id, parent_id = names_of(scope["headers"])
        context = RequestContext(request_id, started, trace_id, parent_id)
        scope.setdefault("state", {})["context"] = context
        name = request_id.encode("ascii")
        status = _CLIENT_GONE
        size = 0

        async def send_framed(message: Message) -> None:
            nonlocal begun, status, size
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                headers.append((b"x-request-id", name))
                headers.append((b"neon-request-id", name))
                if self._server_timing and context.timing:
                    headers.append((b"server-timing", _timing(context)))
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_framed)
        except Exception as error:
            if begun:
                raise
            context.kind = "internal-error"
            _log.error("request_failed", exc_info=error, extra={"request_id": request_id})
            await _failure(request_id)(scope, receive, send_framed)
        finally:
            seconds = perf_counter() - started
            self._metrics.answered(_route(scope), status, seconds, context)
            if self._access_log is not None:
                self._access_log.write(scope, context, status, size, seconds)


def _route(scope: Scope) -> str:
    """The path as it was declared; whoever scans us or names things must not make series."""
    route = scope.get("route")
    if route is not None:
        return getattr(route, "path", "other")
    declared = "endpoint" in scope and not scope.get("path_params")
    return scope["path"] if declared else "other"


def _failure(request_id: str) -> Response:
    return problem(
        500,
        "internal-error",
        "The server failed to handle the request. "
        f"Suggestion: look for request {request_id} in its log.",
    )


def _timing(context: RequestContext) -> bytes:
    """The phases in milliseconds, and all of it up to the first byte of the answer."""
    timing = context.timing
    milliseconds = [seconds * 1000 for seconds in timing.values()]
    milliseconds.append((perf_counter() - context.started) * 1000)
    return (_timing_format(tuple(timing)) % tuple(milliseconds)).encode("ascii")


@lru_cache(maxsize=100)
def _timing_format(phases: tuple[str, ...]) -> str:
    return ", ".join([f"{name};dur=%.2f" for name in (*phases, "total")])
