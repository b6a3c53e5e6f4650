"""``GET /openapi.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def serve_openapi(_request: Request) -> Response:
    """The description of this API for programs."""
    return JSONResponse({})
