"""What a server process knows of the others behind the same port, and how it reaches them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poolkeeper.server.channel import Channel
from poolkeeper.server.merged_metrics import dump
from poolkeeper.server.status_page import status_document

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Self

    from poolkeeper.server.controls import Controls
    from poolkeeper.server.parts import Parts

VARIABLE = "POOLKEEPER_PROCESS"
# Beyond the time that the question itself may take.
_MARGIN = 5.0
_LIMITS = (
    "select current_setting('max_connections')::int,"
    " current_setting('superuser_reserved_connections')::int"
)


@dataclass(frozen=True)
class Birth:
    """What a supervisor gives a process on its way.

    Attributes:
        number: Of this process, from 0.
        sockets: To listen on.
        control: To the supervisor.
    """

    number: int
    sockets: list[socket.socket]
    control: socket.socket

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self | None:
        """Take it out of ``environ``; None for a process that nobody supervises."""
        text = environ.pop(VARIABLE, None)
        if text is None:
            return None
        given = json.loads(text)
        sockets = [_adopt(descriptor) for descriptor in given["sockets"]]
        return cls(given["number"], sockets, _adopt(given["control"]))


def _adopt(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - of the standard library
    sock = socket.socket(fileno=descriptor)
    sock.settimeout(0)
    return sock


class Siblings:
    """The processes behind one port, this one included, seen from one of them."""

    def __init__(self, channel: Channel, number: int) -> None:
        self.channel = channel
        self.number = number
        self._waiting: asyncio.Task[None] | None = None

    @classmethod
    async def join(cls, birth: Birth, parts: Parts, controls: Controls) -> Self:
        """Begin to answer what the others ask."""

        async def status(owner: str | None) -> dict[str, Any]:
            return await status_document(parts, owner)

        async def metrics() -> list[Any]:
            return dump(parts.metrics.collect())

        async def limits() -> dict[str, Any]:
            async with parts.pool.acquire() as conn:
                cursor = await conn.execute(_LIMITS)
                most, reserved = await cursor.fetchone()
            return {"max_size": parts.pool.get_max_size(), "most": most, "reserved": reserved}

        async def work() -> None:
            await parts.operations.wake_here()

        handlers: dict[str, Any] = {
            "obey": controls.obey,
            "work": work,
            "status": status,
            "metrics": metrics,
            "limits": limits,
        }
        return cls(await Channel.open(birth.control, handlers), birth.number)

    def ready(self) -> None:
        """Tell the supervisor that this process serves."""
        self.channel.tell("ready")

    def beat(self) -> None:
        """Tell the supervisor that the event loop turns."""
        self.channel.tell("alive")

    def when_alone(self, action: Callable[[], object]) -> None:
        """Do this when the supervisor is gone: nobody would ever stop this process."""
        self._waiting = asyncio.create_task(self._wait_for_the_end(action))

    async def _wait_for_the_end(self, action: Callable[[], object]) -> None:
        await self.channel.closed.wait()
        action()

    async def leave(self) -> None:
        """Say nothing more."""
        if self._waiting is not None:
            self._waiting.cancel()
        await self.channel.close()

    async def everyone(self, name: str, *, wait: float = 0.0, **parameters: Any) -> list[Any]:
        """Ask all processes; each answer has ``process``, and ``answer`` or ``error``.

        Raises:
            ChannelError: The supervisor does not answer.
        """
        timeout = wait + _MARGIN
        answers: list[Any] = await self.channel.ask(
            "everyone",
            question=name,
            given={**parameters, "wait": wait} if wait else parameters,
            patience=timeout,
            timeout=timeout + 1,
        )
        return answers
