"""The native API: ``/v1/query`` and ``/v1/transaction``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from poolkeeper.server.api.endpoints import (
    OutcomeEndpoint,
    QueryEndpoint,
    TransactionEndpoint,
)
from poolkeeper.server.api.openapi import serve_openapi

if TYPE_CHECKING:
    from poolkeeper.server.engine import Engine


def api_routes(engine: Engine) -> list[Route]:
    """The routes of this part."""
    return [
        Route("/v1/query", QueryEndpoint(engine), methods=["POST"]),
        Route("/v1/transaction", TransactionEndpoint(engine), methods=["POST"]),
        Route("/v1/transactions/{key:path}", OutcomeEndpoint(engine), methods=["GET"]),
        Route("/openapi.json", serve_openapi),
    ]
