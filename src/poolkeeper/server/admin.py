"""What operators do to a running server: PgBouncer's verbs over HTTP, and ``/status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import Route

    from poolkeeper.server.parts import Parts


def admin_routes(_parts: Parts) -> list[Route]:
    """The routes of this part."""
    return []
