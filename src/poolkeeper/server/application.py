"""Starlette, and a way past its router for what is asked for most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send


class Application(Starlette):
    """An application in which some requests come past all but the frame.

    The router and the middleware cost as much as a simple statement does. The same paths have
    routes, too, which answer other methods.

    Args:
        shortcuts: What answers, by method and path.
        frame: Puts around it what is around every endpoint.
        options: Starlette's.
    """

    def __init__(
        self,
        *,
        shortcuts: Mapping[tuple[str, str], ASGIApp],
        frame: Callable[[ASGIApp], ASGIApp],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._shortcuts = dict(shortcuts)
        self._framed = frame(_enter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            endpoint = self._shortcuts.get((scope["method"], scope["path"]))
            if endpoint is not None:
                # As the router does, so that the request is counted under its path.
                scope["endpoint"] = endpoint
                await self._framed(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


async def _enter(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["endpoint"](scope, receive, send)
