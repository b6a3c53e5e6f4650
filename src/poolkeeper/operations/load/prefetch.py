"""The next piece is read in a thread while the server is busy with the present one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.operations.kind import Json
    from poolkeeper.operations.load.piece import Piece, RecordReader

T = TypeVar("T")


class Prefetcher:
    """Hands out pieces in order, one of them read ahead: it holds two, and the reader its buffer.

    Its reader is touched by one thread at a time, whatever is cancelled: a thread that is left
    behind is told to give up, and waited for before the next one begins.
    """

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._thread: asyncio.Task[Any] | None = None
        """The last thing the reader was asked to do; nothing else may be asked until it is done."""
        self._ahead: asyncio.Task[Piece | None] | None = None
        self._present: Piece | None = None
        self._again = False
        self._size = 0

    async def go_to(self, cursor: Json) -> None:
        """Go to a cursor; cheap where that is where it is."""
        if self._present is not None:
            if _same_place(cursor, self._present.end):
                return
            if _same_place(cursor, self._present.start):
                self._again = True
                return
        await self._reopen(cursor)

    async def next(self, size: int) -> Piece | None:
        """The next piece; None at the end.

        Raises:
            SourceError: See `RecordReader.read`.
        """
        if self._again and self._present is not None:
            self._again = False
            if self._present.size <= size * 2:
                return self._present
            # The database could not digest it.
            await self._reopen(self._present.start)
        if self._ahead is None:
            self._start(size)
        ahead = self._ahead
        assert ahead is not None
        # A cancelled load leaves the thread to finish: another one must not read meanwhile.
        piece = await _result(ahead)
        self._ahead = None
        self._present = piece
        self._size = size
        return piece

    def read_ahead(self) -> None:
        """Begin to read the piece behind the present one, unless that has begun.

        For when the server has something to do: before, the thread would be in the way of what is
        said to it, for both want the interpreter.
        """
        present = self._present
        if self._ahead is None and present is not None and not present.last:
            self._start(self._size)

    async def close(self) -> None:
        """Close the reader; idempotent."""
        await self._settle()
        await _result(self._in_thread(self._reader.close))

    def _start(self, size: int) -> None:
        self._ahead = self._in_thread(self._reader.read, size)

    async def _reopen(self, cursor: Json) -> None:
        await self._settle()
        await _result(self._in_thread(self._reader.open, cursor))

    def _in_thread(self, work: Callable[..., T], *args: Any) -> asyncio.Task[T]:
        assert self._thread is None or self._thread.done()
        task = asyncio.create_task(asyncio.to_thread(work, *args))
        self._thread = task
        return task

    async def _settle(self) -> None:
        """Let the thread end, and forget what it read and where the reader is."""
        self._again = False
        self._present = None
        self._ahead = None
        thread = self._thread
        if thread is None:
            return
        if not thread.done():
            self._reader.abandoned.set()
            await asyncio.wait({thread})
        self._reader.abandoned.clear()
        if not thread.cancelled():
            # what went wrong there goes wrong again where it matters
            thread.exception()


async def _result(task: asyncio.Task[T]) -> T:
    """Wait for a task, which goes on when this is cancelled."""
    await asyncio.wait({task})
    return task.result()


def _same_place(one: Json, other: Json) -> bool:
    return all(one.get(key) == other.get(key) for key in ("offset", "row_group", "row"))
