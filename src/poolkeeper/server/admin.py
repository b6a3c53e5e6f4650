"""What operators see of a running server and do to it: PgBouncer's verbs over HTTP."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from poolkeeper.server.controls import Controls
from poolkeeper.server.merged_metrics import merged
from poolkeeper.server.problem import problem
from poolkeeper.server.status_page import owner_for, status_document

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.server.parts import Parts

VERBS = ("pause", "resume", "reconnect", "drain")

_FRESH = {"Cache-Control": "no-store"}
_DEFAULT_WAIT = 30.0
_LONGEST_WAIT = 3600.0


def admin_routes(parts: Parts) -> list[Route]:
    """``GET /status``, ``GET /metrics`` and ``POST /admin/…``."""
    operator = Operator(parts)
    return [
        Route("/status", operator.status),
        Route("/metrics", operator.metrics),
        *(Route(f"/admin/{verb}", operator.command(verb), methods=["POST"]) for verb in VERBS),
    ]


class Operator:
    """Lets those who may, look at the server and steer it; all its processes, if it has several."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._controls = Controls(parts.pool, parts.lifecycle)

    async def status(self, request: Request) -> Response:
        """What this client may know; of the other processes under ``processes``."""
        owner = owner_for(self._parts.access.check(request.headers))
        document = await status_document(self._parts, owner)
        siblings = self._parts.lifecycle.siblings
        if siblings is not None:
            document["server"]["process"] = siblings.number
            document["processes"] = await siblings.everyone("status", owner=owner)
        return _json(200, document)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus; a process that does not answer is left out."""
        self._parts.access.check(request.headers)
        accept = request.headers.get("accept")
        siblings = self._parts.lifecycle.siblings
        if siblings is None:
            content_type, body = self._parts.metrics.scrape(accept)
        else:
            answers = await siblings.everyone("metrics")
            dumps = {one["process"]: one["answer"] for one in answers if "answer" in one}
            content_type, body = merged(dumps, accept)
        return Response(body, headers={"Content-Type": content_type})

    def command(self, verb: str) -> Any:
        """The endpoint for one verb."""

        async def endpoint(request: Request) -> Response:
            self._parts.access.check_admin(request.headers)
            if not self._parts.lifecycle.started:
                return problem(
                    503,
                    "starting",
                    "The server is starting; there is nothing to steer yet. "
                    "Suggestion: send the request again after Retry-After.",
                    {"Retry-After": "1"},
                )
            wait = _wait(request) if verb == "pause" else 0.0
            if wait is None:
                return problem(
                    400,
                    "bad-request",
                    f"wait={request.query_params['wait']!r} is not a number of seconds between 0 "
                    f"and {_LONGEST_WAIT:g}. Suggestion: /admin/pause?wait=10",
                )
            siblings = self._parts.lifecycle.siblings
            if siblings is None:
                return _answer(verb, await self._controls.obey(verb, wait), wait)
            answers = await siblings.everyone("obey", wait=wait, verb=verb)
            return _answer(verb, _together(answers), wait)

        return endpoint


def _together(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The state of all processes; one that did not answer is in the way of everything."""
    states = [one["answer"] for one in answers if "answer" in one]
    silent = [f"{one['pid']}: {one['error']}" for one in answers if "error" in one]
    return {
        "state": states[0]["state"] if states else "starting",
        "paused": all(state["paused"] for state in states),
        "draining": any(state["draining"] for state in states),
        "active": sum(state["active"] for state in states),
        "waiting": sum(state["waiting"] for state in states),
        "processes": answers,
        "silent": silent,
    }


def _wait(request: Request) -> float | None:
    """How long to wait for running statements; None if that is not a sensible number."""
    try:
        seconds = float(request.query_params.get("wait", _DEFAULT_WAIT))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= _LONGEST_WAIT else None


def _answer(verb: str, state: dict[str, Any], wait: float) -> Response:
    """200 when it is done, 202 while it is being done, 504 when it was not done in time."""
    silent = state.pop("silent", [])
    if verb == "drain":
        return _json(202, state)
    if silent:
        return problem(
            503,
            "process-silent",
            f"Not every process of the server answered (pid {', '.join(silent)}). "
            "Suggestion: send the request again.",
            {"Retry-After": "1"},
        )
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
