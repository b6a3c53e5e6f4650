"""Health and metrics of the pool: answered from what is known, never by using it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.manager import ConnectionPoolManager

_FRESH = {"Cache-Control": "no-store"}


def health_routes(pool: ConnectionPoolManager | None = None) -> list[Route]:
    """Make routes for orchestrators; none of them takes a connection or waits.

    ``/livez`` is 200 while the process answers. ``/readyz`` is 200 when requests should come here:
    a busy pool is ready, one without a database or one that closes is not. ``/health`` is the
    whole report as JSON, with the address of the database in its errors: not for strangers.

    Args:
        pool: None takes the pool of ``lifespan``.
    """

    async def live(_request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_FRESH)

    async def ready(request: Request) -> Response:
        report = await (pool or _pool_of(request)).health_check()
        if report.status == "unhealthy":
            text = f"database {report.database.status}\n"
            return PlainTextResponse(text, status_code=503, headers=_FRESH)
        return PlainTextResponse("ok\n", headers=_FRESH)

    async def health(request: Request) -> Response:
        report = await (pool or _pool_of(request)).health_check()
        return Response(
            json.dumps(report.to_dict(), ensure_ascii=False),
            status_code=report.http_status,
            media_type="application/json",
            headers=_FRESH,
        )

    return [Route("/livez", live), Route("/readyz", ready), Route("/health", health)]


def metrics_routes(*pools: ConnectionPoolManager) -> list[Route]:
    """Make the route ``/metrics`` for Prometheus and OpenMetrics.

    For metrics of the application beside the pool's, register a
    ``poolkeeper.observability.prometheus.PoolCollector`` where those are instead.

    Args:
        pools: None at all takes the pool of ``lifespan``.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    # Here, so that the rest of this module does without the package.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    from poolkeeper.observability.prometheus import PoolCollector, exposition  # noqa: PLC0415

    async def scrape(request: Request) -> Response:
        registry = CollectorRegistry()
        registry.register(PoolCollector(*(pools or (_pool_of(request),))))
        content_type, body = exposition(registry, request.headers.get("accept"))
        return Response(body, headers={"Content-Type": content_type})

    return [Route("/metrics", scrape)]


def _pool_of(request: Request) -> ConnectionPoolManager:
    found: ConnectionPoolManager | None = getattr(request.state, "pool", None)
    if found is None:
        # Clients that call the application without a server do not hand its state to requests.
        found = getattr(request.app.state, "pool", None)
    if found is None:
        raise RuntimeError(
            "The application has no pool in its state. Suggestion: start it with "
            "lifespan=poolkeeper.asgi.lifespan(pool), or pass the pool to the function that made "
            "this route."
        )
    return found
