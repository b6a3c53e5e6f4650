"""The native API: ``/v1/query`` and ``/v1/transaction``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import Route

    from poolkeeper.server.parts import Parts


def api_routes(_parts: Parts) -> list[Route]:
    """The routes of this part."""
    return []
