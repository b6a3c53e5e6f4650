"""One claimed run of an export."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from poolkeeper.drivers.base import hear
from poolkeeper.operations.export.copy_options import copy_options
from poolkeeper.operations.export.errors import ExportFileMissingError
from poolkeeper.operations.export.output import Output
from poolkeeper.operations.export.ownership import is_marked
from poolkeeper.operations.export.parquet import converter
from poolkeeper.operations.export.position import Position
from poolkeeper.operations.export.prepare import target_of
from poolkeeper.operations.export.publish import publish, refuse_to_overwrite
from poolkeeper.operations.export.reader import Reader
from poolkeeper.operations.export.relation import SETTINGS, Relation
from poolkeeper.operations.export.surplus import list_surplus, remove_surplus
from poolkeeper.operations.kind import Chunk, Sizing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from poolkeeper.operations.export.surplus import Surplus
    from poolkeeper.operations.export.target import Target
    from poolkeeper.operations.kind import Json

T = TypeVar("T")

ROWS: Final = Sizing(initial=2_000, smallest=25, largest=250_000)
READERS: Final = 2
"""Reading in the order of a key costs the server more than reading the table as it lies, and each
chunk a little on top. So two of its processes read, in turn."""
RANGES_AHEAD: Final = 4
"""So many ranges are read or saved at a time: while one is committed and one is brought to disk,
the server reads the next ones. After an interruption they are read again."""
SIGN_OF_LIFE_SECONDS: Final = 1.0
"""A transaction in which nothing is asked for long is ended by the server."""


class ExportRun:
    """Exports range after range of the key.

    A checkpoint says how much of the files is on disk. After an interruption an attempt first
    commits a chunk without rows, its number: when that is committed, nobody who believes to be at
    work on this export can commit anything any more, and only then may files be cut back to the
    checkpoint.

    Attributes:
        progress_rows: Rows written by this run.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        self._relation = Relation.of(dict(spec))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="poolkeeper-export")
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="poolkeeper-publish")
        self._convert = None
        if spec["format"] == "parquet":
            self._convert = converter(spec["described"], spec["compression"])
        self._output: Output | None = None
        self._position: Position | None = None
        self._ours = False
        self._ready = False
        self._in_doubt = False
        self._seen = 0
        # to delete in the end: found in the last chunk, and confirmed by its commit
        self._found: list[Surplus] = []
        self._surplus: list[Surplus] = []
        self._reading: tuple[Sequence[Any], str, Callable[[Any], None]] | None = None
        self._reader: Reader | None = None
        self.progress_rows = 0

    @property
    def sizing(self) -> Sizing | None:
        """Rows; none for an export that is one chunk."""
        return None if self._spec["consistent"] else ROWS

    @property
    def progress_bytes(self) -> int:
        """Bytes in all files, and those on their way there."""
        ahead = 0 if self._reader is None else self._reader.bytes_ahead
        return ahead if self._position is None else self._position.bytes + ahead

    async def begin(self, connection: Any, cursor: Json) -> None:
        """See `Run.begin`."""
        del connection
        position = Position.of(cursor)
        # Ours still, if we know how each chunk of ours has ended.
        self._ours = self._ours and not self._in_doubt and position == self._position
        self._in_doubt = False
        self._ready = False
        await self._stop_reading()
        self._found, self._surplus = [], []
        self._position = position
        target = target_of(self._spec, position.export)
        if self._output is None:
            self._output = Output(
                target,
                # Parquet is compressed inside
                compression="none" if self._convert else self._spec["compression"],
                part_bytes=self._spec["part_bytes"],
                whole_chunks=self._convert is not None and not self._spec["consistent"],
                published_as_written=self._convert is None,
            )
        if position.attempt == 0 and not self._spec["overwrite"]:
            await self._write(refuse_to_overwrite, target)
        self._position = await self._write(self._open, self._output, position, target)
        self._seen = await self._write(self._output.latest_attempt)

    @property
    def readers(self) -> int:
        """See `ReadAheadRun.readers`."""
        return 1 if self._spec["consistent"] else READERS

    def read_with(
        self, connections: Sequence[Any], settings: str, cut_off: Callable[[Any], None]
    ) -> None:
        """See `ReadAheadRun.read_with`."""
        self._reading = connections, settings, cut_off

    async def chunk(self, connection: Any, size: int) -> Chunk:
        """See `Run.chunk`."""
        position = self._position
        assert position is not None, "begin() comes first"
        if not self._ours:
            chunk = self._chunk(position.next_attempt(self._seen), rows=0, size=0)
        else:
            await self._make_ready(connection, position)
            publishing = asyncio.ensure_future(self._publish(position))
            publishing.add_done_callback(hear)
            try:
                if position.exhausted:
                    chunk = await self._last(connection, position, publishing)
                else:
                    chunk = await self._next(connection, position, size)
                await self._alive(connection, publishing)
            finally:
                # The thread goes on: whatever comes next waits for it in its queue.
                publishing.cancel()
        self._in_doubt = True
        return chunk

    async def committed(self, chunk: Chunk) -> None:
        """See `Run.committed`."""
        self._position = Position.of(chunk.cursor)
        self._ours = True
        self._in_doubt = False
        self._found, self._surplus = [], self._found

    async def close(self) -> None:
        """See `Run.close`."""
        await self._stop_reading()
        if self._output is not None:
            await self._write(self._output.close)
            self._output = None
        self._ready = False
        for executor in (self._writer, self._publisher):
            executor.shutdown(wait=False)

    # Parts of a chunk -------------------------------------------------------------------------

    @staticmethod
    def _open(output: Output, position: Position, target: Target) -> Position:
        """Open the file being written; where to go on."""
        try:
            output.open(position.written)
        except ExportFileMissingError:
            part = position.written.part
            if not is_marked(target.final(part), target.export, part):
                raise
            # A failover has lost checkpoints, and what was written is a Parquet file by now, which
            # cannot be cut: it is written anew, and replaced.
            position = position.rewound()
            output.open(position.written)
        return position

    async def _make_ready(self, connection: Any, position: Position) -> None:
        """Cut the files back to the checkpoint, once per attempt."""
        if not self._ready:
            assert self._output is not None, "begin() comes first"
            self._output.header = await self._header(connection)
            taking = self._write(self._output.take, position.attempt, position.written.finished)
            await self._alive(connection, taking)
            self._ready = True

    async def _next(self, connection: Any, position: Position, size: int) -> Chunk:
        """Wait until the rows of the next range are on disk, with the one behind it on its way."""
        reader = self._reader
        if reader is None:
            reader = self._reader = self._start_reading()
            reader.read(position.after, await self._find_bound(connection, position.after, size))
        while reader.ahead < RANGES_AHEAD and (last := reader.last) is not None:
            # the server looks for the end of one range while it copies the one before
            reader.read(last, await self._find_bound(connection, last, size))
        saved = await self._alive(connection, reader.take())
        counted = max(0, saved.rows - position.again)
        self.progress_rows += counted
        moved = position.moved(
            saved.written,
            rows=saved.rows,
            more=saved.grown,
            after=saved.to,
            exhausted=saved.to is None,
        )
        return self._chunk(moved, rows=counted, size=saved.rows)

    def _start_reading(self) -> Reader:
        assert self._output is not None, "the files are open"
        assert self._reading is not None, "read_with() comes first"
        return Reader(
            *self._reading,
            relation=self._relation,
            spec=self._spec,
            output=self._output,
            writer=self._writer,
        )

    async def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.stop()

    async def _find_bound(
        self, connection: Any, after: Sequence[str] | None, rows: int
    ) -> tuple[str, ...] | None:
        """Where the range of that many rows ends; None if there are not so many."""
        if self._spec["consistent"]:
            return None
        # what the query calls cannot write, and the checkpoint has its own settings again
        await connection.execute(f"savepoint export; set transaction read only; {SETTINGS}")
        found = await connection.fetchrow(self._relation.bound(after=after, rows=rows))
        await connection.execute("rollback to savepoint export; release savepoint export")
        return None if found is None else tuple(found)

    async def _last(
        self, connection: Any, position: Position, publishing: asyncio.Future[None]
    ) -> Chunk:
        """All rows are in files that have their names: leave nothing else behind."""
        await self._alive(connection, publishing)
        target = target_of(self._spec, position.export)
        clear = replace(position, written=replace(position.written, finished=()))
        if self._surplus:
            deleting = self._write(remove_surplus, target, self._surplus)
            await self._alive(connection, deleting)
        else:
            last, overwrite = position.written.part - 1, self._spec["overwrite"]
            listing = self._write(lambda: list_surplus(target, last=last, overwrite=overwrite))
            self._found = await self._alive(connection, listing)
        return self._chunk(clear, rows=0, size=0, done=not self._found)

    async def _publish(self, position: Position) -> None:
        """Give finished files their names, beside the COPY of the next rows."""
        if not position.written.finished:
            return
        target = target_of(self._spec, position.export)
        await asyncio.get_running_loop().run_in_executor(
            self._publisher,
            lambda: publish(
                target,
                position.written.finished,
                attempt=position.attempt,
                overwrite=self._spec["overwrite"],
                convert=self._convert,
            ),
        )

    async def _header(self, connection: Any) -> bytes:
        if self._spec["format"] != "csv" or not self._spec["header"]:
            return b""
        pieces: list[bytes] = []

        async def take(piece: bytes) -> None:
            pieces.append(piece)

        await connection.copy_from_query(
            self._relation.nothing(), output=take, header=True, **copy_options(self._spec)
        )
        return b"".join(pieces)

    @staticmethod
    def _chunk(position: Position, *, rows: int, size: int, done: bool = False) -> Chunk:
        return Chunk(
            cursor=position.to_cursor(), rows=rows, size=size, bytes_done=position.bytes, done=done
        )

    # Threads ----------------------------------------------------------------------------------

    def _write(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Call it in the thread that writes, after everything it was given before."""
        return asyncio.get_running_loop().run_in_executor(self._writer, function, *arguments)

    @staticmethod
    async def _alive(connection: Any, work: Any) -> Any:
        """Wait for it, and give the server a sign of life now and then."""
        waiting = asyncio.ensure_future(work)
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=SIGN_OF_LIFE_SECONDS)
                if not waiting.done():
                    await connection.execute("select")
            return waiting.result()
        finally:
            waiting.cancel()
