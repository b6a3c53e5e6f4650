"""The next piece is read in a thread while the present one is loaded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolkeeper.operations.kind import Json
    from poolkeeper.operations.load.piece import Piece, RecordReader


class Prefetcher:
    """Hands out pieces in order, one of them read ahead: it holds two, and the reader its buffer.

    Its reader is touched by one thread at a time, whatever is cancelled.
    """

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._ahead: asyncio.Task[Piece | None] | None = None
        self._present: Piece | None = None
        self._again = False

    async def go_to(self, cursor: Json) -> None:
        """Go to a cursor; cheap where that is where it is."""
        if self._present is not None:
            if _same_place(cursor, self._present.end):
                return
            if _same_place(cursor, self._present.start):
                self._again = True
                return
        await self._settle()
        self._present = None
        await asyncio.to_thread(self._reader.open, cursor)

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
            start = self._present.start
            await self._settle()
            await asyncio.to_thread(self._reader.open, start)
        if self._ahead is None:
            self._start(size)
        ahead = self._ahead
        assert ahead is not None
        # A cancelled load leaves the thread to finish: another one must not read meanwhile.
        piece = await asyncio.shield(ahead)
        self._ahead = None
        self._present = piece
        if piece is not None and not piece.last:
            self._start(size)
        return piece

    async def close(self) -> None:
        """Close the reader; idempotent."""
        await self._settle()
        self._present = None
        await asyncio.to_thread(self._reader.close)

    def _start(self, size: int) -> None:
        self._ahead = asyncio.create_task(asyncio.to_thread(self._reader.read, size))

    async def _settle(self) -> None:
        """Let the thread end, and forget what it read."""
        self._again = False
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            await asyncio.wait({ahead})
            if not ahead.cancelled():
                # what went wrong there goes wrong again where it matters
                ahead.exception()


def _same_place(one: Json, other: Json) -> bool:
    return all(one.get(key) == other.get(key) for key in ("offset", "row_group", "row"))
