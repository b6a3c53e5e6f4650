"""Answers those who would speak Neon's protocol over WebSocket, at whatever path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.server.problem import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

DETAIL = (
    "Sessions over WebSocket are not offered; every request is a transaction of its own. "
    "Suggestion: set neonConfig.poolQueryViaFetch = true, and use sql.transaction([…]) for "
    "several statements."
)


class NoWebSocket:
    """ASGI middleware that answers 501 to whoever asks for an upgrade."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not an upgrade."""
        # A WebSocket begins with a GET: requests that do work are not searched for more.
        if scope["type"] == "http" and scope["method"] == "GET" and _upgrades(scope):
            response = problem(501, "no-websocket", DETAIL, {"Connection": "close"})
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _upgrades(scope: Scope) -> bool:
    return any(
        name == b"upgrade" and value.strip().lower() == b"websocket"
        for name, value in scope["headers"]
    )
