"""Notices a client that leaves while nobody listens to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Scope


class Departure:
    """Stands between server and application, and listens once the request has been read.

    Before that the application listens itself, by reading. A request without a body counts as
    read from the beginning.
    """

    def __init__(self, scope: Scope, receive: Receive, on_leaving: Callable[[], None]) -> None:
        self._receive = receive
        self._on_leaving = on_leaving
        self._watching: asyncio.Task[Message] | None = None
        headers = Headers(scope=scope)
        self._unread = (
            "transfer-encoding" in headers or headers.get("content-length", "0").strip() != "0"
        )
        self._empty_body_given = self._unread
        if not self._unread:
            self._watch()

    async def receive(self) -> Message:
        """Take the client's next message, as an ASGI application does."""
        if not self._empty_body_given:
            self._empty_body_given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._watching is not None:
            # Shielded: whoever gives up asking does not end the watching.
            return await asyncio.shield(self._watching)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._on_leaving()
        elif not message.get("more_body", False):
            self._watch()
        return message

    async def close(self) -> None:
        """Stop listening."""
        if self._watching is None:
            return
        self._watching.cancel()
        await asyncio.wait({self._watching})
        if not self._watching.cancelled():
            # Whoever asked has been told; nobody may have asked.
            self._watching.exception()

    def _watch(self) -> None:
        self._watching = asyncio.ensure_future(self._until_left())

    async def _until_left(self) -> Message:
        while (message := await self._receive())["type"] != "http.disconnect":
            pass
        self._on_leaving()
        return message
