"""Which path under ``/v1/operations`` leads where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from poolkeeper.server.operations.endpoints import (
    ControlEndpoint,
    CreateEndpoint,
    DeleteEndpoint,
    EventsEndpoint,
    ListEndpoint,
    RejectsEndpoint,
    ShowEndpoint,
)
from poolkeeper.server.operations.requests import VERBS

if TYPE_CHECKING:
    from poolkeeper.server.engine import Engine
    from poolkeeper.server.parts import Parts

ROOT = "/v1/operations"


def operation_routes(parts: Parts, engine: Engine) -> list[Route]:
    """The routes of this part; the more special ones first, because a name may hold slashes."""
    one = f"{ROOT}/{{key:path}}"
    verbs = [
        Route(f"{one}/{verb}", ControlEndpoint(engine, parts, verb=verb), methods=["POST"])
        for verb in VERBS
    ]
    return [
        Route(ROOT, CreateEndpoint(engine, parts), methods=["POST"]),
        Route(ROOT, ListEndpoint(engine, parts), methods=["GET"]),
        *verbs,
        Route(f"{one}/rejects", RejectsEndpoint(engine, parts), methods=["GET"]),
        Route(f"{one}/events", EventsEndpoint(engine, parts), methods=["GET"]),
        Route(one, DeleteEndpoint(engine, parts), methods=["DELETE"]),
        Route(one, ShowEndpoint(engine, parts), methods=["GET"]),
    ]
