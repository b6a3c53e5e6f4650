"""uvicorn's HTTP/1.1, with bounds on what a client may send and on how long it may take.

uvicorn waits for ever for a request that does not come or does not end, keeps a head of any
length, and keeps an answer for as long as nobody reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NoReturn, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from poolkeeper.server.door import refusal
from poolkeeper.server.system import bytes_in_flight

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from poolkeeper.server.door import Door

_MAX_HEAD = 64 * 1024
_MAX_HEADERS = 100
_MAX_TARGET = 8 * 1024
# For a client to read why it is turned away: closing at once could make it see a reset instead.
_LAST_WORDS_SECONDS = 2.0

_FULL = refusal(
    503,
    "too-many-connections",
    "The server has as many connections as it may have. The request was not executed. "
    "Suggestion: send it again after Retry-After, over fewer connections, or raise the limit with "
    "--max-connections.",
    code="53300",
    retry_after=1,
)
_NOT_HTTP = refusal(
    400,
    "bad-request",
    "That is not a request in HTTP/1.1. Suggestion: use http:// and not https:// where the server "
    "was started without a certificate, and no HTTP/2 without TLS.",
)
_NO_HOST = refusal(
    400,
    "bad-request",
    "A request in HTTP/1.1 names its host exactly once. Suggestion: send one Host header.",
)
_HEAD_TOO_LARGE = refusal(
    431,
    "head-too-large",
    f"The head of the request has more than {_MAX_HEADERS} headers or {_MAX_HEAD // 1024} KiB. "
    "Suggestion: send what is long in the body.",
)
_TARGET_TOO_LONG = refusal(
    414,
    "target-too-long",
    f"The target of the request is longer than {_MAX_TARGET // 1024} KiB. "
    "Suggestion: send what is long in the body.",
)
_HEAD_LATE = refusal(
    408,
    "request-timeout",
    "The head of the request did not arrive in time. Suggestion: send it faster, or open the "
    "connection later.",
)


def protocol_for(door: Door) -> type[HttpToolsProtocol]:
    """The protocol for uvicorn's ``http`` option; all its connections share ``door``."""
    return type("GuardedProtocol", (_Guarded,), {"door": door})


class _Guarded(HttpToolsProtocol):
    """One connection of a client."""

    door: ClassVar[Door]

    _in_head = False
    _head_bytes = 0
    _last_words: bytes | None = None
    _reserved_only = False
    _turned_away = False
    # Runs while the client owes us the head of a request, or the rest of a body nobody wants.
    _waiting: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _unread_before = 0

    # A connection ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connections = len(self.connections)
        if self.door.is_full(connections):
            if self.door.is_overrun(connections):
                self.door.refused["too-many-connections"] += 1
                self._turn_away(_FULL)
                return
            self._reserved_only = True
        self._await_client()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        self._caught_up()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._turned_away:
            self._take(data)

    def _take(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_with_http(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._end_of_sense()
        if self._turned_away:
            return
        if self._in_head and self._head_bytes > _MAX_HEAD:
            self._turn_away(_HEAD_TOO_LARGE)
        elif self._waiting is None and (self._in_head or not self._has_work()):
            self._await_client()

    def _has_work(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def _await_client(self) -> None:
        self._waiting = self.loop.call_later(self.door.head_seconds, self._client_late)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _client_late(self) -> None:
        self._waiting = None
        if self._has_work():
            # It sent the beginning of its next request, and we are the slow ones.
            self._await_client()
        elif self._in_head:
            self.door.refused["slow-head"] += 1
            self._turn_away(_HEAD_LATE)
        else:
            self.transport.close()

    # A head ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._is_upgrade():
            return
        self._in_head = False
        self._wait_no_more()
        headers = self.headers
        if len(self.url) > _MAX_TARGET:
            self._refuse(_TARGET_TOO_LONG)
        if len(headers) > _MAX_HEADERS:
            self._refuse(_HEAD_TOO_LARGE)
        version = self.parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            self._refuse(_NOT_HTTP)
        hosts = [name for name, _ in headers].count(b"host")
        if hosts != 1 and (hosts or version == "1.1"):
            self._refuse(_NO_HOST)
        if self._reserved_only and not self._is_reserved():
            self.door.refused["too-many-connections"] += 1
            self._refuse(_FULL)
        super().on_headers_complete()
        if self._reserved_only or self.parser.should_upgrade():
            # What follows a WebSocket handshake is no HTTP.
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        if not self._in_head:
            super().on_message_complete()

    def _is_upgrade(self) -> bool:
        """Whether to something we go on without; WebSockets get an answer that says so."""
        return (
            bool(self.parser.should_upgrade())
            and self._get_upgrade() != b"websocket"
            and self.parser.get_method() != b"CONNECT"
        )

    def _is_reserved(self) -> bool:
        return self.door.is_reserved(self.url.partition(b"?")[0].decode("latin-1"))

    def _refuse(self, last_words: bytes) -> NoReturn:
        """Leave the parser, which raises an error of its own for this one."""
        self._last_words = last_words
        raise ValueError

    def _end_of_sense(self) -> None:
        """What cannot be parsed is the end of the connection, but not of work that goes on."""
        self.door.refused["bad-request"] += 0 if self._last_words else 1
        if self._has_work() and (self.pipeline or not self.cycle.more_body):
            # The answers that are due come first: another in their place would be taken for one.
            self.cycle.keep_alive = False
            self._turned_away = True
        elif self._has_work() and self.cycle.response_started:
            self.transport.close()
        else:
            self._turn_away(self._last_words or _NOT_HTTP)

    def _stay_with_http(self, rest: bytes) -> None:
        """Go on as if no upgrade had been asked for, which a server may, with the same request.

        The parser takes what follows the head for another protocol. Java's client asks for HTTP/2
        with every first request, body and all.
        """
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name not in {b"connection", b"upgrade", b"http2-settings"}:
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self._take(b"".join([*head, b"\r\n", rest]))

    def _turn_away(self, last_words: bytes) -> None:
        """Say why and close, but not before the client could read it."""
        self._turned_away = True
        self._wait_no_more()
        self._unset_keepalive_if_required()
        if self._has_work():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(last_words)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self._waiting = self.loop.call_later(_LAST_WORDS_SECONDS, self.transport.abort)
        else:
            self.transport.close()

    # An answer ---------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_before = self._untaken()
        self._stall = self.loop.call_later(self.door.stall_seconds, self._look_at_reader)
        self.door.slow(self)

    def resume_writing(self) -> None:
        self._caught_up()
        super().resume_writing()

    def unread(self) -> int:
        """Bytes of answers that wait in this process."""
        return self.transport.get_write_buffer_size()

    def cut(self) -> None:
        """Close the connection and forget what waits for the client."""
        self._caught_up()
        self.transport.abort()

    def _untaken(self) -> int:
        """With what the system holds: it makes no room for more before much of that is gone."""
        return self.unread() + bytes_in_flight(self.transport.get_extra_info("socket"))

    def _look_at_reader(self) -> None:
        unread = self._untaken()
        if self._unread_before - unread < self.door.least_progress:
            self.door.refused["slow-reader"] += 1
            self.cut()
            return
        self._unread_before = unread
        self._stall = self.loop.call_later(self.door.stall_seconds, self._look_at_reader)

    def _caught_up(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
            self.door.caught_up(self)
