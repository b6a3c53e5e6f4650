"""Questions and answers between two processes: one JSON object per line, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from itertools import count
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

# Metrics and status of a busy process fit many times.
_LONGEST_LINE = 64 * 1024 * 1024


class ChannelError(Exception):
    """The other process did not answer, or could not do what was asked; the message says which."""


class Channel:
    """One end of a socket between two processes that trust each other.

    Attributes:
        closed: Set when the other end is gone; questions without an answer have failed by then.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handlers: Mapping[str, Callable[..., Awaitable[Any]]],
    ) -> None:
        self.closed = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._ids = count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(
        cls, sock: socket.socket, handlers: Mapping[str, Callable[..., Awaitable[Any]]]
    ) -> Self:
        """Begin to listen on ``sock``, which belongs to the channel from here on.

        Args:
            sock: Connected to the other process.
            handlers: What the other may ask, by name; parameters come as keywords.
        """
        reader, writer = await asyncio.open_connection(sock=sock, limit=_LONGEST_LINE)
        return cls(reader, writer, handlers)

    def tell(self, name: str, **parameters: Any) -> None:
        """Say something that needs no answer; said to nobody if the other is gone."""
        if not self.closed.is_set():
            self._send({"name": name, "parameters": parameters})

    async def ask(self, name: str, *, timeout: float, **parameters: Any) -> Any:
        """Ask the other process and wait for its answer.

        Raises:
            ChannelError: It is gone, it failed, or ``timeout`` seconds were not enough.
        """
        if self.closed.is_set():
            raise ChannelError("the other process is gone")
        number = next(self._ids)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "name": name, "parameters": parameters})
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise ChannelError(f"no answer within {timeout:g} s") from None
        finally:
            del self._asked[number]

    async def close(self) -> None:
        """Hang up."""
        self._listening.cancel()
        for task in self._answering:
            task.cancel()
        await asyncio.wait({self._listening, *self._answering})

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _listen(self) -> None:
        try:
            with contextlib.suppress(OSError):
                while line := await self._reader.readline():
                    self._hear(json.loads(line))
        finally:
            self.closed.set()
            self._writer.close()
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(ChannelError("the other process is gone"))

    def _hear(self, message: dict[str, Any]) -> None:
        if "name" in message:
            task = asyncio.create_task(self._answer(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        answer = self._asked.get(message["id"])
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(ChannelError(message["error"]))
        else:
            answer.set_result(message["answer"])

    async def _answer(self, question: dict[str, Any]) -> None:
        reply: dict[str, Any]
        try:
            reply = {"answer": await self._handlers[question["name"]](**question["parameters"])}
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            reply = {"error": f"{type(error).__name__}: {error}"}
        if "id" in question and not self.closed.is_set():
            self._send({"id": question["id"], **reply})
