"""One HTTP connection that tells what became of a request: answered, refused, or lost."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

IDLE_SECONDS = 3.0
"""A connection left alone for longer is not used again: the server may be about to close it."""


class RefusedError(Exception):
    """Nobody listens: the request was not sent."""


class NoAnswerError(Exception):
    """The connection ended after the request was sent and before its answer was complete."""


class HungError(Exception):
    """No answer in the time the client gives; the connection was closed."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class Connection:
    """A connection kept alive from request to request, opened when it is needed.

    An HTTP library would open it again silently, and cost most of a core with fifty clients.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname
        self._port = parts.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_at = 0.0

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        patience: float = 30.0,
    ) -> Response:
        """Send a request and wait for its answer.

        Raises:
            RefusedError: It was not sent.
            NoAnswerError: It was sent, and lost.
            HungError: ``patience`` seconds went by.
        """
        try:
            async with asyncio.timeout(patience):
                return await self._ask(method, path, body, headers or {})
        except TimeoutError as error:
            await self.close()
            raise HungError(f"{method} {path}: no answer within {patience:g} s") from error

    async def _ask(self, method, path, body, headers) -> Response:
        reader, writer = await self._open()
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        try:
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            await writer.drain()
            response = await _read(reader)
            self._used_at = asyncio.get_running_loop().time()
        except (OSError, EOFError) as error:
            await self.close()
            raise NoAnswerError(f"{method} {path}: {error!r}") from error
        if response.headers.get("connection") == "close":
            await self.close()
        return response

    async def _open(self):
        if self._streams is not None and (self._streams[0].at_eof() or self._is_stale()):
            await self.close()
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection(self._host, self._port)
            except OSError as error:
                raise RefusedError(str(error)) from error
        return self._streams

    def _is_stale(self) -> bool:
        return asyncio.get_running_loop().time() - self._used_at > IDLE_SECONDS

    async def close(self) -> None:
        """Close it; the next request opens another."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Response:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    length = int(headers.get("content-length", "0"))
    return Response(int(lines[0].split()[1]), headers, await reader.readexactly(length))
