"""Bring rows from COPY to a thread that writes them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from poolkeeper.drivers.base import hear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

T = TypeVar("T")

BATCH_BYTES: Final = 1024 * 1024
"""How much is handed over at a time: a hand-over costs as much as copying some 100 kB."""
BATCHES: Final = 8
"""How many may wait to be written; then the server waits."""

HELD_BYTES: Final = 16 * 1024 * 1024
"""How many bytes of a range are held while those before it are read; then the server waits."""

ALL_AT_ONCE_BYTES: Final = 200_000
GATHER_SECONDS: Final = 0.001
"""The server sends 8 KiB at a time, and to be woken for each costs this process several times what
it does with them. So it lets them gather in the socket's buffer, unless that was full: the event
loop reads 256 KiB at the most."""


class RowStream:
    """Rows in the order of their ranges, on their way to the thread.

    After an error nothing is written any more, and everything raises that error.

    Args:
        executor: One thread.
        write: Called there with whole rows, in order.
    """

    def __init__(self, executor: Executor, write: Callable[[Sequence[bytes]], None]) -> None:
        self._executor = executor
        self._write = write
        self._batch: list[bytes] = []
        self._size = 0
        self._handed_over: deque[asyncio.Future[None]] = deque()
        # known in the thread alone, where what comes behind it must not be written
        self._error: BaseException | None = None

    async def put(self, rows: Sequence[bytes]) -> None:
        """Take some rows.

        Raises:
            ExportError: Rows taken before could not be written.
        """
        self._batch += rows
        self._size += sum(map(len, rows))
        if self._size >= BATCH_BYTES:
            self._hand_over()
            while len(self._handed_over) > BATCHES:
                await self._handed_over.popleft()

    def call(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Call a function in the thread when all rows taken so far are with the operating system.

        Its error is the first one of the rows before it, if there is one.
        """
        if self._batch:
            self._hand_over()
        return self._in_thread(function)

    def _hand_over(self) -> None:
        batch, self._batch, self._size = self._batch, [], 0
        self._handed_over.append(self._in_thread(lambda: self._write(batch)))

    def _in_thread(self, function: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, self._unless_failed, function)
        # whoever waits for its range hears of it
        future.add_done_callback(hear)
        return future

    def _unless_failed(self, function: Callable[[], T]) -> T:
        if self._error is not None:
            raise self._error
        try:
            return function()
        except BaseException as error:
            self._error = error
            raise


class RangeRows:
    """What COPY calls with the rows of one range; they are held until those before are on.

    Args:
        stream: Where they go.
        turn: Done when all ranges before this one are in the stream.
        stopped: Done when no rows are wanted any more.
    """

    def __init__(
        self, stream: RowStream, turn: asyncio.Future[None], stopped: asyncio.Future[None]
    ) -> None:
        self._stream = stream
        self._turn = turn
        self._stopped = stopped
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.bytes = 0
        """How many bytes have come."""

    async def feed(self, rows: bytes) -> None:
        """Take some rows.

        Raises:
            ExportError: Rows taken before could not be written.
            ConnectionAbortedError: No rows are wanted any more.
        """
        self.bytes += len(rows)
        self._held.append(rows)
        self._held_bytes += len(rows)
        if self._turn.done():
            await self._put()
        elif self._held_bytes >= HELD_BYTES:
            await self._wait_for_turn()
            await self._put()
        if len(rows) < ALL_AT_ONCE_BYTES:
            await asyncio.sleep(GATHER_SECONDS)
        if self._stopped.done():
            raise aborted()

    async def end(self) -> None:
        """Wait for the turn of this range, and put all of it into the stream.

        Raises:
            ExportError: Rows could not be written.
            ConnectionAbortedError: No rows are wanted any more.
        """
        await self._wait_for_turn()
        await self._put()

    async def _wait_for_turn(self) -> None:
        await asyncio.wait({self._turn, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            raise aborted()

    async def _put(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        await self._stream.put(held)


def aborted() -> ConnectionAbortedError:
    """What whoever reads is told when no rows are wanted any more."""
    return ConnectionAbortedError("The export reads no more for now.")
