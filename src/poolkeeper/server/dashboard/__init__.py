"""The page at ``/``: the pool, its queue and its outages as they happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from poolkeeper.server.dashboard.assets import load_assets
from poolkeeper.server.dashboard.feed import Feed
from poolkeeper.server.problem import problem

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.server.parts import Parts

_LIVE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def dashboard_routes(parts: Parts) -> list[Route]:
    """The page, what it loads, and the numbers it shows; only the numbers need a token."""
    assets = load_assets()
    feed = Feed(parts)
    parts.lifecycle.heartbeat.add_listener(feed.beat)

    async def page(request: Request) -> Response:
        return await assets["index.html"](request)

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["file"])
        if found is None:
            detail = f"There is nothing at {request.url.path}. Suggestion: see / for what there is."
            return problem(404, "not-found", detail)
        return await found(request)

    async def events(request: Request) -> Response:
        token = parts.access.check(request.headers)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=_LIVE)
        return StreamingResponse(feed.follow(token), media_type="text/event-stream", headers=_LIVE)

    return [
        Route("/", page),
        Route("/dashboard/events", events),
        Route("/dashboard/{file}", asset),
    ]
