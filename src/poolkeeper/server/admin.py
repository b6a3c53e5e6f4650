"""What operators do to a running server: PgBouncer's verbs over HTTP, and ``/status``."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from poolkeeper.server.controls import Controls
from poolkeeper.server.problem import problem
from poolkeeper.server.status_page import status_document

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.server.parts import Parts

VERBS = ("pause", "resume", "reconnect", "drain")

_FRESH = {"Cache-Control": "no-store"}
_DEFAULT_WAIT = 30.0
_LONGEST_WAIT = 3600.0


def admin_routes(parts: Parts) -> list[Route]:
    """``GET /status`` and ``POST /admin/…``."""
    operator = Operator(parts)
    return [
        Route("/status", operator.status),
        *(Route(f"/admin/{verb}", operator.command(verb), methods=["POST"]) for verb in VERBS),
    ]


class Operator:
    """Lets those who may, look at the server and steer it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._controls = Controls(parts.pool, parts.lifecycle)

    async def status(self, request: Request) -> Response:
        """Everything that is known."""
        self._parts.access.check(request.headers)
        return _json(200, await status_document(self._parts))

    def command(self, verb: str) -> Any:
        """The endpoint for one verb."""

        async def endpoint(request: Request) -> Response:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            wait = _wait(request) if verb == "pause" else 0.0
            if wait is None:
                return problem(
                    400,
                    "bad-request",
                    f"wait={request.query_params['wait']!r} is not a number of seconds between 0 "
                    f"and {_LONGEST_WAIT:g}. Suggestion: /admin/pause?wait=10",
                )
            return _answer(verb, await self._controls.obey(verb, wait), wait)

        return endpoint

    def _refusal(self, request: Request) -> Response | None:
        self._parts.access.check_admin(request.headers)
        if not self._parts.lifecycle.started:
            return problem(
                503,
                "starting",
                "The server is starting; there is nothing to steer yet. "
                "Suggestion: send the request again after Retry-After.",
                {"Retry-After": "1"},
            )
        return None


def _wait(request: Request) -> float | None:
    """How long to wait for running statements; None if that is not a sensible number."""
    try:
        seconds = float(request.query_params.get("wait", _DEFAULT_WAIT))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= _LONGEST_WAIT else None


def _answer(verb: str, state: dict[str, Any], wait: float) -> Response:
    """200 when it is done, 202 while it is being done, 504 when it was not done in time."""
    if verb == "drain":
        return _json(202, state)
    if verb == "pause" and not state["paused"]:
        return problem(
            409,
            "resumed",
            "Somebody resumed the server while this request waited for running statements. "
            "Suggestion: pause again, and agree on who steers.",
        )
    if verb == "pause" and state["active"]:
        if not wait:
            return _json(202, state)
        return problem(
            504,
            "still-running",
            f"The server is paused, but {state['active']} requests still hold connections after "
            f"{wait:g} s. Suggestion: pause again with a longer wait, or resume.",
        )
    return _json(200, state)


def _json(status: int, content: dict[str, Any]) -> Response:
    text = json.dumps(content, ensure_ascii=False)
    return Response(text, status, _FRESH, media_type="application/json")
