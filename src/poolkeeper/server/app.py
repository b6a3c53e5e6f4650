"""The ASGI application: which path leads where."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route

from poolkeeper.server.access import Access
from poolkeeper.server.access_log import AccessLog
from poolkeeper.server.activity import Activity
from poolkeeper.server.admin import admin_routes
from poolkeeper.server.api import api_routes
from poolkeeper.server.application import Application
from poolkeeper.server.context import context_of
from poolkeeper.server.cors import cors
from poolkeeper.server.dashboard import dashboard_routes
from poolkeeper.server.engine import Engine
from poolkeeper.server.frame import Frame
from poolkeeper.server.limits import Limits
from poolkeeper.server.metrics import ServerMetrics
from poolkeeper.server.neon.identity import Identity, Served
from poolkeeper.server.operations.routes import operation_routes
from poolkeeper.server.operations.watch import Watches
from poolkeeper.server.operations.work import OperationsWork
from poolkeeper.server.outages import OutageHistory
from poolkeeper.server.parts import Parts
from poolkeeper.server.probes import Probes
from poolkeeper.server.problem import problem
from poolkeeper.server.sql import SqlEndpoint, preflight
from poolkeeper.server.status import UnauthorizedError
from poolkeeper.server.turned_away import ForbiddenError
from poolkeeper.server.websocket import DETAIL, NoWebSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.server.lifecycle import Lifecycle
    from poolkeeper.server.settings import ServerSettings

_ASKED_FOR_MOST = frozenset({"/sql", "/v1/query"})
_ASKED_FOR_ALL_DAY = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics"})


def build_app(
    pool: ConnectionPoolManager, settings: ServerSettings, lifecycle: Lifecycle
) -> Application:
    """Put the endpoints in front of a pool; opening and closing it is the caller's matter."""
    access = Access(settings.tokens, cors_origins=settings.cors_origins, hosts=settings.hosts)
    metrics = ServerMetrics(pool, lifecycle)
    activity = Activity(settings.slow_query_seconds)
    outages = OutageHistory()
    pool.add_event_listener(outages)
    identity = Identity(access, Served.by(pool.config.require_database_url()))
    limits = Limits(pool, access)
    operations = OperationsWork(
        pool, lifecycle, concurrency=settings.operations, directory=settings.operations_dir
    )
    watches = Watches()
    operations.add_listener(watches.hear)
    parts = Parts(
        pool,
        settings,
        lifecycle,
        access,
        metrics,
        activity,
        outages,
        identity,
        limits,
        operations,
        watches,
    )
    watches.parts = parts
    engine = Engine(parts)
    probes = Probes(pool, lifecycle, settings, access=access, limits=limits)

    operation_paths = operation_routes(parts, engine)
    statements = [Route("/sql", SqlEndpoint(engine), methods=["POST"]), *api_routes(engine)]
    asked_all_day = {
        "/health": probes.health,
        "/livez": probes.live,
        "/readyz": probes.ready,
        "/startupz": probes.started,
    }
    short: dict[tuple[str, str], ASGIApp] = {
        ("POST", route.path): route.endpoint
        for route in statements
        if route.path in _ASKED_FOR_MOST
    }
    short |= {("GET", path): _responder(probe) for path, probe in asked_all_day.items()}
    app = Application(
        # Answers to web pages of others need what only the long way adds.
        shortcuts={} if settings.cors_origins else short,
        frame=partial(_frame, metrics=metrics, settings=settings),
        routes=[
            *statements,
            *operation_paths,
            Route("/sql", preflight, methods=["OPTIONS"]),
            *[Route(path, probe) for path, probe in asked_all_day.items()],
            Route("/v1", _no_websocket),
            Route("/v2", _no_websocket),
            *admin_routes(parts),
            *dashboard_routes(parts),
        ],
        middleware=[
            Middleware(_frame, metrics=metrics, settings=settings),
            Middleware(NoWebSocket),
            *cors(settings.cors_origins),
        ],
        exception_handlers={
            HTTPException: _http_problem,
            UnauthorizedError: _unauthorized,
            ForbiddenError: _forbidden,
        },
    )
    app.state.parts = parts
    # A redirect would name whatever host the client named.
    app.router.redirect_slashes = False
    return app


def _frame(app: ASGIApp, metrics: ServerMetrics, settings: ServerSettings) -> Frame:
    access_log = AccessLog(_ASKED_FOR_ALL_DAY) if settings.access_log else None
    return Frame(app, metrics=metrics, access_log=access_log, server_timing=settings.server_timing)


def _responder(endpoint: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """An endpoint as an application, for the way past the router."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope))
        await response(scope, receive, send)

    return respond


async def _no_websocket(_request: Request) -> Response:
    return problem(501, "no-websocket", DETAIL)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        detail = f"There is nothing at {path}. Suggestion: see /openapi.json for what there is."
        return problem(404, "not-found", detail)
    allowed = (error.headers or {}).get("Allow", "")
    detail = f"{path} does not take {request.method}. Suggestion: use {allowed}."
    return problem(error.status_code, "method-not-allowed", detail, error.headers)


async def _unauthorized(request: Request, error: Exception) -> Response:
    context_of(request.scope).kind = "unauthorized"
    challenge = {"WWW-Authenticate": 'Bearer realm="poolkeeper"'}
    return problem(401, "unauthorized", str(error), challenge)


async def _forbidden(request: Request, error: Exception) -> Response:
    context_of(request.scope).kind = "forbidden"
    return problem(403, "forbidden", str(error))
