"""The ASGI application: which path leads where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from poolkeeper.server.access import Access
from poolkeeper.server.activity import Activity
from poolkeeper.server.admin import admin_routes
from poolkeeper.server.api import api_routes
from poolkeeper.server.dashboard import dashboard_routes
from poolkeeper.server.frame import Frame
from poolkeeper.server.metrics import ServerMetrics
from poolkeeper.server.parts import Parts
from poolkeeper.server.probes import Probes
from poolkeeper.server.problem import problem
from poolkeeper.server.sql import SqlEndpoint
from poolkeeper.server.status import UnauthorizedError

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.server.lifecycle import Lifecycle
    from poolkeeper.server.settings import ServerSettings


def build_app(
    pool: ConnectionPoolManager, settings: ServerSettings, lifecycle: Lifecycle
) -> Starlette:
    """Put the endpoints in front of a pool; opening and closing it is the caller's matter."""
    access = Access(settings.tokens)
    metrics = ServerMetrics(pool)
    activity = Activity(settings.slow_query_seconds)
    parts = Parts(pool, settings, lifecycle, access, metrics, activity)
    sql = SqlEndpoint(parts)
    probes = Probes(pool, lifecycle)

    async def scrape(request: Request) -> Response:
        access.check(request.headers)
        content_type, body = metrics.scrape(request.headers.get("accept"))
        return Response(body, headers={"Content-Type": content_type})

    return Starlette(
        routes=[
            Route("/sql", sql.post, methods=["POST"]),
            Route("/sql", sql.options, methods=["OPTIONS"]),
            Route("/health", probes.health),
            Route("/livez", probes.live),
            Route("/readyz", probes.ready),
            Route("/startupz", probes.started),
            Route("/metrics", scrape),
            Route("/v1", _no_websocket),
            Route("/v2", _no_websocket),
            *api_routes(parts),
            *admin_routes(parts),
            *dashboard_routes(parts),
        ],
        middleware=[Middleware(Frame, metrics=metrics)],
        exception_handlers={HTTPException: _http_problem, UnauthorizedError: _unauthorized},
    )


async def _no_websocket(_request: Request) -> Response:
    return problem(
        501,
        "no-websocket",
        "Sessions over WebSocket are not offered; every request is a transaction of its own. "
        "Suggestion: set neonConfig.poolQueryViaFetch = true, and use sql.transaction([…]) for "
        "several statements.",
    )


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        detail = f"There is nothing at {path}. Suggestion: see / for what there is."
        return problem(404, "not-found", detail)
    allowed = (error.headers or {}).get("Allow", "")
    detail = f"{path} does not take {request.method}. Suggestion: use {allowed}."
    return problem(error.status_code, "method-not-allowed", detail, error.headers)


async def _unauthorized(_request: Request, error: Exception) -> Response:
    challenge = {"WWW-Authenticate": 'Bearer realm="poolkeeper"'}
    return problem(401, "unauthorized", str(error), challenge)
