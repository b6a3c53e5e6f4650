"""How many clients the server takes in, how long it waits for them, and how it turns them away."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from poolkeeper.server.settings import ServerSettings

MEBIBYTE = 1024 * 1024

# Whoever watches or steers the server gets in when it is full.
_RESERVED_CONNECTIONS = 64
_RESERVED_PATHS = frozenset(
    {"/health", "/livez", "/readyz", "/startupz", "/metrics", "/status"}
    | {"/admin/pause", "/admin/resume", "/admin/reconnect", "/admin/drain"}
)
_LONGEST_HEAD_SECONDS = 10.0
_STALL_SECONDS = 10.0
_LEAST_PROGRESS = 16 * 1024
_MOST_UNREAD_BYTES = 128 * MEBIBYTE
_YOUNGEST_VICTIM_SECONDS = 1.0


class SlowReader(Protocol):
    """A connection whose client does not take what was written."""

    def unread(self) -> int:
        """Bytes that wait for it."""
        ...

    def cut(self) -> None:
        """Close it and forget them."""
        ...


class Door:
    """What the connections of one server share. Belongs to one event loop.

    Attributes:
        head_seconds: How long a client may take to send the head of a request.
        stall_seconds: Within this time a client must have read ``least_progress`` bytes of what
            waits for it.
        refused: Clients turned away since the start, by reason.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        head_seconds: float = _LONGEST_HEAD_SECONDS,
        stall_seconds: float = _STALL_SECONDS,
        most_unread: int = _MOST_UNREAD_BYTES,
    ) -> None:
        self.head_seconds = head_seconds
        self.stall_seconds = stall_seconds
        self.least_progress = _LEAST_PROGRESS
        self.refused: Counter[str] = Counter()
        self._max_connections = max_connections
        self._most_unread = most_unread
        # In the order in which they began to be slow.
        self._slow: dict[SlowReader, float] = {}
        self._review: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, settings: ServerSettings) -> Door:
        """The door of a server with these options."""
        return cls(
            max_connections=settings.max_connections,
            head_seconds=min(_LONGEST_HEAD_SECONDS, settings.request_timeout),
        )

    def is_full(self, connections: int) -> bool:
        """Whether only `is_reserved` paths are served on a new connection."""
        return connections > self._max_connections

    def is_overrun(self, connections: int) -> bool:
        """Whether not even those are."""
        return connections > self._max_connections + _RESERVED_CONNECTIONS

    def is_reserved(self, path: str) -> bool:
        """Whether a request to this path is let in when the server is full."""
        return path in _RESERVED_PATHS

    def slow(self, reader: SlowReader) -> None:
        """A client lets its answer wait. Too many of them are too much memory."""
        self._slow[reader] = asyncio.get_running_loop().time()
        self._bound_memory()

    def caught_up(self, reader: SlowReader) -> None:
        """It has read nearly everything, or is gone."""
        self._slow.pop(reader, None)

    def _bound_memory(self) -> None:
        """Cut off those who have let the server wait longest, until the rest is bearable."""
        if self._review is not None:
            return
        sizes = {reader: reader.unread() for reader in self._slow}
        excess = sum(sizes.values()) - self._most_unread
        now = asyncio.get_running_loop().time()
        for reader, since in list(self._slow.items()):
            if excess <= 0:
                return
            age = now - since
            if age < _YOUNGEST_VICTIM_SECONDS:
                # Perhaps it only began to read. The others are younger still.
                loop = asyncio.get_running_loop()
                self._review = loop.call_later(_YOUNGEST_VICTIM_SECONDS - age, self._look_again)
                return
            excess -= sizes[reader]
            self.refused["slow-reader"] += 1
            reader.cut()

    def _look_again(self) -> None:
        self._review = None
        self._bound_memory()


def refusal(status: int, kind: str, detail: str, *, code: str = "", retry_after: int = 0) -> bytes:
    """A whole response that ends the connection, in Neon's and RFC 9457's words at once."""
    body: dict[str, object] = {
        "message": detail,
        "code": code,
        "detail": detail,
        "type": f"urn:poolkeeper:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "outcome": "not_executed",
    }
    retry = ""
    if retry_after:
        body["retry_after"] = retry_after
        retry = f"retry-after: {retry_after}\r\n"
    text = json.dumps(body, ensure_ascii=False).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "content-type: application/problem+json\r\n"
        f"content-length: {len(text)}\r\n{retry}"
        "connection: close\r\n\r\n"
    )
    return head.encode() + text
