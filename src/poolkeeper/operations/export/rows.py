"""Bring rows from COPY to a thread that writes them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

BATCH_BYTES: Final = 1024 * 1024
"""How much is handed over at a time: a hand-over costs as much as copying some 100 kB."""
BATCHES: Final = 8
"""How many may wait to be written; then the server waits."""


class RowStream:
    """What COPY calls with its rows.

    Args:
        executor: One thread.
        write: Called there with whole rows, in order.
    """

    def __init__(self, executor: Executor, write: Callable[[Sequence[bytes]], None]) -> None:
        self._executor = executor
        self._write = write
        self._batch: list[bytes] = []
        self._size = 0
        self._writing: deque[asyncio.Future[None]] = deque()
        self.bytes = 0
        """How many bytes have come."""

    async def feed(self, rows: bytes) -> None:
        """Take some rows.

        Raises:
            ExportError: Rows taken before could not be written.
        """
        self._batch.append(rows)
        self._size += len(rows)
        self.bytes += len(rows)
        if self._size >= BATCH_BYTES:
            await self._hand_over()

    async def drain(self) -> None:
        """Return when everything has been handed to the operating system.

        Raises:
            ExportError: It could not be written.
        """
        if self._batch:
            await self._hand_over()
        while self._writing:
            await self._writing.popleft()

    async def _hand_over(self) -> None:
        batch, self._batch, self._size = self._batch, [], 0
        loop = asyncio.get_running_loop()
        self._writing.append(loop.run_in_executor(self._executor, self._write, batch))
        while len(self._writing) > BATCHES:
            await self._writing.popleft()
