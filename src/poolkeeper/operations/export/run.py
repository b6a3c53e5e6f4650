"""One claimed run of an export."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from poolkeeper.operations.export.copy_options import copy_options, rows_of
from poolkeeper.operations.export.errors import ExportFileMissingError
from poolkeeper.operations.export.output import Output
from poolkeeper.operations.export.ownership import is_marked
from poolkeeper.operations.export.parquet import converter
from poolkeeper.operations.export.position import Position
from poolkeeper.operations.export.prepare import target_of
from poolkeeper.operations.export.publish import publish, refuse_to_overwrite
from poolkeeper.operations.export.relation import SETTINGS, Relation
from poolkeeper.operations.export.rows import RowStream
from poolkeeper.operations.export.surplus import list_surplus, remove_surplus
from poolkeeper.operations.kind import Chunk, Sizing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from poolkeeper.operations.export.position import Written
    from poolkeeper.operations.export.surplus import Surplus
    from poolkeeper.operations.export.target import Target
    from poolkeeper.operations.kind import Json

T = TypeVar("T")

ROWS: Final = Sizing(initial=2_000, smallest=25, largest=250_000)
CHUNK_FACTOR: Final = 4
"""An export takes so many times the rows it is asked for, and says so: its chunks take some 300 ms
where those of other kinds take 50 to 100. At the end of each chunk server, process and disk wait
for each other, which costs throughput, while a longer chunk locks nothing and is soon read again.
With 1 its chunks are like those of others."""
SIGN_OF_LIFE_SECONDS: Final = 1.0
"""A transaction in which nothing is asked for long is ended by the server."""


class ExportRun:
    """Exports range after range of the key.

    A checkpoint says how much of the files is on disk. After an interruption an attempt first
    commits a chunk without rows, its number: when that is committed, nobody who believes to be at
    work on this export can commit anything any more, and only then may files be cut back to the
    checkpoint.

    Attributes:
        progress_rows: Rows written, those of the chunk in progress included if that is known.
        progress_bytes: Bytes COPY has brought in this run.
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
        # the end of the next range, where the last chunk has found it already
        self._bound: tuple[str, ...] | None = None
        self.progress_rows = 0
        self.progress_bytes = 0

    @property
    def sizing(self) -> Sizing | None:
        """Rows; none for an export that is one chunk."""
        return None if self._spec["consistent"] else ROWS

    async def begin(self, connection: Any, cursor: Json) -> None:
        """See `Run.begin`."""
        del connection
        position = Position.of(cursor)
        # Ours still, if we know how each chunk of ours has ended.
        self._ours = self._ours and not self._in_doubt and position == self._position
        self._in_doubt = False
        self._ready = False
        self._bound = None
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

    async def chunk(self, connection: Any, size: int) -> Chunk:
        """See `Run.chunk`."""
        position = self._position
        assert position is not None, "begin() comes first"
        if not self._ours:
            chunk = self._chunk(position.next_attempt(self._seen), rows=0, size=0)
        else:
            await self._make_ready(connection, position)
            publishing = asyncio.ensure_future(self._publish(position))
            publishing.add_done_callback(_hear)
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
        if self._output is not None:
            self._output.committed(self._position.written)

    async def close(self) -> None:
        """See `Run.close`."""
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
        """Bring the rows of the next range to disk."""
        output = self._output
        assert output is not None, "the files are open"
        # what the query calls cannot write, and the checkpoint has its own settings again
        await connection.execute(f"savepoint export; set transaction read only; {SETTINGS}")
        limit = size * CHUNK_FACTOR
        to = self._bound
        if to is None:
            to = await self._find_bound(connection, position.after, limit)
        stream = RowStream(self._writer, output.write)
        self.progress_bytes = position.bytes
        select = rows_of(self._relation.select(after=position.after, to=to), self._spec)

        async def take(rows: bytes) -> None:
            await stream.feed(rows)
            self.progress_bytes = position.bytes + stream.bytes

        tag = await connection.copy_from_query(select, output=take, **copy_options(self._spec))
        saving = asyncio.ensure_future(self._save(stream, output, exhausted=to is None))
        saving.add_done_callback(_hear)
        # the server looks for the end of the next range while the disk is busy with this one
        following = None if to is None else await self._find_bound(connection, to, limit)
        written, grown = await self._alive(connection, saving)
        await connection.execute("rollback to savepoint export; release savepoint export")
        self._bound = following
        rows = int(tag.rpartition(" ")[2])
        counted = max(0, rows - position.again)
        self.progress_rows += counted
        moved = position.moved(written, rows=rows, more=grown, after=to, exhausted=to is None)
        return self._chunk(moved, rows=counted, size=rows)

    async def _find_bound(
        self, connection: Any, after: Sequence[str] | None, rows: int
    ) -> tuple[str, ...] | None:
        """Where the range of that many rows ends; None if there are not so many."""
        if self._spec["consistent"]:
            return None
        found = await connection.fetchrow(self._relation.bound(after=after, rows=rows))
        return None if found is None else tuple(found)

    async def _save(
        self, stream: RowStream, output: Output, *, exhausted: bool
    ) -> tuple[Written, int]:
        await stream.drain()
        return await self._write(output.finish if exhausted else output.checkpoint)

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


def _hear(task: asyncio.Future[Any]) -> None:
    """An error that came first is the one to be told of."""
    if not task.cancelled():
        task.exception()
