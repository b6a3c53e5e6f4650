"""COPY to the client through asyncpg, without losing rows to notices.

asyncpg (up to 0.32 at least) forgets rows that were received together with a notice behind them:
https://github.com/MagicStack/asyncpg/issues/1264. It is right as long as what it receives at a time
has no rows before a notice. So that is how it is given to it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Output: TypeAlias = "Callable[[bytes], Awaitable[None]]"

_NOTICE: Final = b"N\0\0"
"""How a notice of less than 64 KiB begins. Rows may look like it: to part those does no harm."""


async def copy_out(con: Any, copy: Callable[..., Awaitable[Any]], output: Output) -> Any:
    """Await ``copy(output=…)``, a COPY of ``con`` to the client.

    Raises:
        Exception: What ``copy`` raises.
    """
    transport, protocol = con._transport, con._protocol
    if transport is None or protocol is None or transport.get_protocol() is not protocol:
        # Closed, or in the middle of another COPY: asyncpg has an error for both.
        return await copy(output=output)
    parting = PartingProtocol(transport, protocol, output)
    transport.set_protocol(parting)
    try:
        return await copy(output=parting.pass_on)
    finally:
        transport.set_protocol(protocol)
        parting.end()


@contextlib.asynccontextmanager
async def as_function(output: Any) -> AsyncIterator[Output]:
    """Whatever asyncpg takes as the ``output`` of a COPY, as a function that takes rows.

    A path is opened and closed; files are written in a thread, as asyncpg does. What it would
    refuse is left as it is.

    Raises:
        OSError: The file cannot be opened.
    """
    in_thread = asyncio.get_running_loop().run_in_executor
    try:
        path = os.fspath(output)
    except TypeError:
        if not hasattr(output, "write"):
            yield output
            return
        file, opened = output, None
    else:
        file = opened = await in_thread(None, open, path, "wb")

    async def write(rows: bytes) -> None:
        await in_thread(None, file.write, rows)

    try:
        yield write
    finally:
        if opened is not None:
            opened.close()


class PartingProtocol(asyncio.Protocol):
    """Stands before asyncpg's protocol and parts what is received before each notice.

    asyncpg stops reading when it has rows to pass on, which it can do once at a time; until it
    reads again, what is behind a notice waits here.
    """

    def __init__(self, transport: Any, protocol: Any, output: Output) -> None:
        """Prepare; nothing happens before data are received.

        Args:
            transport: Where the data come from; asked only whether it is reading.
            protocol: asyncpg's.
            output: Where the rows go.
        """
        self._transport = transport
        self._protocol = protocol
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._passing_on = False
        self._next: asyncio.Handle | None = None

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if not self._waiting and _NOTICE not in data:
            self._protocol.data_received(data)
            return
        self._waiting.extend(parts(data))
        self._go_on()

    async def pass_on(self, rows: bytes) -> None:
        """What asyncpg calls with rows.

        Raises:
            Exception: What the output raises.
        """
        self._passing_on = True
        try:
            await self._output(rows)
        finally:
            self._passing_on = False
            self._go_on()

    def _go_on(self) -> None:
        """Give asyncpg what it can take now.

        It begins to read again a step or two of the event loop after it has passed on its rows,
        and nothing tells of that.
        """
        if self._next is not None:
            self._next.cancel()
            self._next = None
        while self._waiting and self._transport.is_reading():
            self._give()
        if self._waiting and not self._passing_on:
            self._next = self._loop.call_soon(self._go_on)

    def end(self) -> None:
        """Nobody waits for rows any more: asyncpg is given all the rest, and throws it away."""
        if self._next is not None:
            self._next.cancel()
        while self._waiting:
            self._give()

    def _give(self) -> None:
        try:
            self._protocol.data_received(self._waiting.popleft())
        except (AttributeError, asyncpg.InternalClientError):
            # As event loops do. asyncpg loses track of a COPY that is cancelled between the arrival
            # of rows and the moment they are passed on.
            self._waiting.clear()
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._waiting.clear()
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """See ``asyncio.Protocol``."""
        stays_open: bool | None = self._protocol.eof_received()
        return stays_open

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._protocol.resume_writing()


def parts(data: bytes) -> list[bytes]:
    """``data`` parted before everything that looks like a notice."""
    first, *behind = data.split(_NOTICE)
    made = [_NOTICE + part for part in behind]
    return [first, *made] if first else made
