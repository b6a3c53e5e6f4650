"""Read ranges of rows on connections of its own, ahead of the chunks that commit them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from poolkeeper.drivers.base import hear
from poolkeeper.operations.export.copy_options import copy_options, rows_of
from poolkeeper.operations.export.relation import SETTINGS, Relation
from poolkeeper.operations.export.rows import RangeRows, RowStream, aborted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from poolkeeper.operations.export.output import Output
    from poolkeeper.operations.export.position import Written


Key: TypeAlias = tuple[str, ...] | None
"""Values of the key, as texts. Before all rows, and behind them, there is none."""


@dataclass(frozen=True, slots=True)
class SavedRange:
    """A range of which all rows are on disk.

    Attributes:
        to: The last key of it; None: there is nothing behind it.
        rows: How many it has.
        written: How far the files are with it.
        grown: By how many bytes it made them grow.
    """

    to: Key
    rows: int
    written: Written
    grown: int


@dataclass(frozen=True, slots=True)
class _Range:
    """A range under way.

    Attributes:
        to: Where it ends.
        rows: Those that have come.
        copying: How many there were, and how far the files will be with them.
        passed_on: Done when all of them are on their way to the files.
    """

    to: Key
    rows: RangeRows
    copying: asyncio.Task[tuple[int, asyncio.Future[tuple[Written, int]]]]
    passed_on: asyncio.Future[None]


class Reader:
    """Copies ranges: one after the other on each connection, and several at a time on several.

    While some are read, those before are brought to disk. Their order stays.

    Args:
        connections: Used by nobody else until this is stopped.
        settings: What each transaction on them begins with.
        cut_off: Ends one of them at once.
        relation: The rows.
        spec: The export.
        output: The files, open where the first range begins.
        writer: The thread in which they are written.
    """

    def __init__(
        self,
        connections: Sequence[Any],
        settings: str,
        cut_off: Callable[[Any], None],
        *,
        relation: Relation,
        spec: Mapping[str, Any],
        output: Output,
        writer: Executor,
    ) -> None:
        self._connections = connections
        self._cut_off = cut_off
        self._begin = f"begin isolation level read committed, read only; {settings}; {SETTINGS}"
        self._relation = relation
        self._spec = spec
        self._output = output
        self._stream = RowStream(writer, output.write)
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        for connection in connections:
            self._free.put_nowait(connection)
        self._ranges: deque[_Range] = deque()

    @property
    def ahead(self) -> int:
        """How many ranges are being read or saved."""
        return len(self._ranges)

    @property
    def last(self) -> Key:
        """Where the last one of them ends."""
        return self._ranges[-1].to

    @property
    def bytes_ahead(self) -> int:
        """How many bytes have come of them."""
        return sum(range_.rows.bytes for range_ in self._ranges)

    def read(self, after: Key, to: Key) -> None:
        """Read one more range, behind those that are being read."""
        loop = asyncio.get_running_loop()
        if self._ranges:
            turn = self._ranges[-1].passed_on
        else:
            turn = loop.create_future()
            turn.set_result(None)
        rows = RangeRows(self._stream, turn, self._stopped)
        passed_on: asyncio.Future[None] = loop.create_future()
        copying = asyncio.ensure_future(self._copy(after, to, rows, passed_on))
        copying.add_done_callback(hear)
        self._ranges.append(_Range(to, rows, copying, passed_on))

    async def take(self) -> SavedRange:
        """Wait until the first of them is on disk.

        Raises:
            ExportError: It could not be written.
            Exception: It could not be read.
        """
        first = self._ranges[0]
        # whoever is cancelled while waiting does not cancel the COPY: see stop()
        rows, saving = await asyncio.shield(first.copying)
        written, grown = await asyncio.shield(saving)
        self._ranges.popleft()
        return SavedRange(first.to, rows, written, grown)

    async def stop(self) -> None:
        """Read no more. Connections that are in the middle of something are cut off.

        No COPY is cancelled: asyncpg would ask a server to stop it that may be away, and stumble
        over rows that come meanwhile.
        """
        copying = {range_.copying for range_ in self._ranges if not range_.copying.done()}
        busy = self._busy()
        self._stopped.set_result(None)
        for connection in busy:
            self._cut_off(connection)
        for _ in self._ranges:
            self._free.put_nowait(None)
        self._ranges.clear()
        try:
            if copying:
                await asyncio.wait(copying)
        finally:
            # with what asyncpg has begun in the meantime
            for connection in busy:
                self._cut_off(connection)

    def _busy(self) -> list[Any]:
        free = []
        while not self._free.empty():
            free.append(self._free.get_nowait())
        return [each for each in self._connections if all(each is not other for other in free)]

    async def _copy(
        self, after: Key, to: Key, rows: RangeRows, passed_on: asyncio.Future[None]
    ) -> tuple[int, asyncio.Future[tuple[Written, int]]]:
        connection = await self._free.get()
        if connection is None:
            raise aborted()
        await connection.execute(self._begin)
        select = rows_of(self._relation.select(after=after, to=to), self._spec)
        tag = await connection.copy_from_query(select, output=rows.feed, **copy_options(self._spec))
        await connection.execute("commit")
        # only then: a connection in the middle of something is not free
        self._free.put_nowait(connection)
        await rows.end()
        saving = self._stream.call(self._output.finish if to is None else self._output.checkpoint)
        passed_on.set_result(None)
        return int(tag.rpartition(" ")[2]), saving
