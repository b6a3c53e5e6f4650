"""The ASGI application: which path leads where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from poolkeeper.server.access import Access
from poolkeeper.server.frame import Frame
from poolkeeper.server.metrics import ServerMetrics
from poolkeeper.server.probes import Probes
from poolkeeper.server.problem import problem
from poolkeeper.server.sql import SqlEndpoint
from poolkeeper.server.status import UnauthorizedError

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.server.lifecycle import Lifecycle
    from poolkeeper.server.settings import ServerSettings

_FRONT_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>poolkeeper</title>
<style>body{font:16px/1.5 system-ui;margin:3rem auto;max-width:44rem;padding:0 1rem}
code{background:#8882;padding:.1em .3em}</style>
<h1>poolkeeper</h1>
<p>A PostgreSQL connection pool behind HTTP. It speaks Neon's SQL-over-HTTP protocol.</p>
<ul>
<li><code>POST /sql</code> runs <code>{"query": "select $1::int", "params": [1]}</code>,
or <code>{"queries": [...]}</code> as one transaction</li>
<li><a href="/health"><code>GET /health</code></a> state of database and pool</li>
<li><a href="/metrics"><code>GET /metrics</code></a> for Prometheus</li>
<li><a href="/livez"><code>/livez</code></a>, <a href="/readyz"><code>/readyz</code></a>,
<a href="/startupz"><code>/startupz</code></a> for an orchestrator</li>
</ul>
</html>
"""


def build_app(
    pool: ConnectionPoolManager, settings: ServerSettings, lifecycle: Lifecycle
) -> Starlette:
    """Put the endpoints in front of a pool; opening and closing it is the caller's matter."""
    access = Access(settings.token)
    metrics = ServerMetrics(pool)
    sql = SqlEndpoint(pool, settings, access, metrics)
    probes = Probes(pool, lifecycle)

    async def scrape(request: Request) -> Response:
        access.check(request.headers)
        content_type, body = metrics.scrape(request.headers.get("accept"))
        return Response(body, headers={"Content-Type": content_type})

    async def front_page(_request: Request) -> Response:
        return HTMLResponse(_FRONT_PAGE)

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
            Route("/", front_page),
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
