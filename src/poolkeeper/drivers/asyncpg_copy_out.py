"""COPY to the client through asyncpg, without losing rows to notices.

asyncpg (up to 0.32 at least) forgets rows that were received together with a notice behind them:
https://github.com/MagicStack/asyncpg/issues/1264. It is right as long as what it receives at a time
has no rows before a notice. So that is how it is given to it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from poolkeeper.drivers.base import hear

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Output: TypeAlias = "Callable[[bytes], Awaitable[None]]"

_NOTICE: Final = re.compile(
    rb"N\0.{3}S[^\0]{1,60}\0V(?:DEBUG|LOG|INFO|NOTICE|WARNING)\0", re.DOTALL
)
"""How a notice begins: type, length, severity in the server's language, and in English. One whose
beginning is not complete costs no rows. To part rows that look like one does no harm, but takes
time."""

_READY_FOR_QUERY: Final = b"Z\0\0\0\x05"
"""How the last message of an answer begins; one more byte follows."""
_END: Final = len(_READY_FOR_QUERY) + 1


async def copy_out(con: Any, copy: Callable[..., Awaitable[Any]], output: Output) -> Any:
    """Await ``copy(output=…)``, a COPY of ``con`` to the client.

    Cancelling it leaves ``con`` as usable as after any other statement.

    Raises:
        Exception: What ``copy`` raises.
    """
    transport, protocol = con._transport, con._protocol
    if transport is None or protocol is None:
        return await copy(output=output)  # closed: asyncpg has an error for that
    if transport.get_protocol() is not protocol:
        raise asyncpg.InterfaceError(
            "cannot perform operation: another operation is in progress, a COPY to the client. "
            "Suggestion: wait until it is done, or borrow another connection."
        )
    parting = PartingProtocol(transport, protocol, output)
    transport.set_protocol(parting)
    # A task of its own: asyncpg must receive nothing between a cancellation and what it does
    # about that.
    copying = asyncio.ensure_future(_copy(protocol, copy, parting))
    copying.add_done_callback(lambda _: _end(transport, protocol, parting))
    copying.add_done_callback(hear)
    try:
        await asyncio.wait({copying})
    except asyncio.CancelledError:
        if copying.done():
            raise
        parting.hold()
        copying.cancel()
        await asyncio.wait({copying})
    return copying.result()


async def _copy(
    protocol: Any, copy: Callable[..., Awaitable[Any]], parting: PartingProtocol
) -> Any:
    try:
        return await copy(output=parting.pass_on)
    except asyncio.CancelledError:
        if parting.in_the_middle and protocol.is_connected() and not protocol._is_cancelling():
            # asyncpg forgets to when rows have come that it has not begun to pass on.
            protocol._request_cancel()
        raise


def _end(transport: Any, protocol: Any, parting: PartingProtocol) -> None:
    transport.set_protocol(protocol)
    parting.end()


def has_rows_waiting(con: Any) -> bool:
    """Whether the next rows of a COPY are here already, so that nobody waits for the server."""
    transport = con._transport
    protocol = None if transport is None else transport.get_protocol()
    return isinstance(protocol, PartingProtocol) and protocol.has_parts_waiting


def is_file(output: Any) -> bool:
    """Whether asyncpg would take an output for a file, or for the path of one."""
    return (
        hasattr(output, "__fspath__") or isinstance(output, str | bytes) or hasattr(output, "write")
    )


@contextlib.asynccontextmanager
async def writing(output: Any) -> AsyncIterator[Output]:
    """A function that writes rows to a file, in a thread, as asyncpg does.

    Args:
        output: A file, or the path of one, which is opened and closed.

    Raises:
        OSError: The file cannot be opened.
    """
    in_thread = asyncio.get_running_loop().run_in_executor
    try:
        path = os.fspath(output)
    except TypeError:
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
        self._held = False
        self._next: asyncio.Handle | None = None
        self._end = b""

    @property
    def has_parts_waiting(self) -> bool:
        """Whether something was received that asyncpg has not been given."""
        return bool(self._waiting)

    @property
    def in_the_middle(self) -> bool:
        """Whether asyncpg has been given a part of an answer, but not its end."""
        if self._waiting:
            return True
        return bool(self._end) and not self._end.startswith(_READY_FOR_QUERY)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._end = (self._end + data[-_END:])[-_END:]
        if not (self._waiting or self._held) and _NOTICE.search(data) is None:
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
        if self._held:
            return
        while self._waiting and self._transport.is_reading():
            self._give()
        if self._waiting and not self._passing_on:
            self._next = self._loop.call_soon(self._go_on)

    def hold(self) -> None:
        """Give asyncpg nothing more before the end: its wait for rows is about to be cancelled.

        An output that is cancelled may go on all the same, and gets its rows.
        """
        self._held = not self._passing_on

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
    starts = [found.start() for found in _NOTICE.finditer(data)]
    return [data[a:b] for a, b in pairwise([0, *starts, len(data)]) if a < b]
