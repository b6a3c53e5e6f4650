"""One run of a load."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.kind import Chunk, Sizing
from poolkeeper.operations.load import fingerprint, spool
from poolkeeper.operations.load.alive import alive
from poolkeeper.operations.load.copy import Loader
from poolkeeper.operations.load.errors import SourceChangedError
from poolkeeper.operations.load.prefetch import Prefetcher
from poolkeeper.operations.load.source import Source
from poolkeeper.operations.load.statements import Statements

if TYPE_CHECKING:
    from poolkeeper.operations.kind import Chunks, Json, Reject

END_OF_COPY_HARMLESS: Final = 18
"""Major version of PostgreSQL from which a backslash and a dot are data in CSV."""


class LoadRun:
    """Reads the file piece by piece and loads each in the transaction of a chunk.

    Its cursor is that of the reader, with the numbers of rows rejected so far, and left out because
    their key was there already.
    """

    sizing = Sizing(initial=2 << 20, smallest=64 << 10, largest=32 << 20)

    def __init__(self, spec: Json, found: Json | None, chunks: Chunks) -> None:
        self._spec = spec
        self._fingerprint = found
        self._chunks = chunks
        self._rejecting = spec.get("on_bad_row") == "reject"
        self._max_rejects: int | None = spec.get("max_rejects")
        self._loader: Loader | None = None
        self._pieces: Prefetcher | None = None
        self._cursor: Json = {}
        self._bytes_total = 0

    async def begin(self, connection: Any, cursor: Json) -> None:
        """See ``Run``: open the file if need be, see that it is the same one, and go there."""
        self._cursor = cursor
        verified = await asyncio.to_thread(self._check)
        if not verified:
            await self._verify(connection)
        if self._pieces is None:
            await self._open(connection)
        assert self._pieces is not None
        await self._pieces.go_to(cursor)

    async def chunk(self, connection: Any, size: int) -> Chunk:
        """See ``Run``."""
        assert self._pieces is not None
        assert self._loader is not None
        try:
            piece = await alive(connection, self._pieces.next(size))
        except SourceChangedError:
            # Perhaps it was only touched. What was loaded of it decides.
            await self._reopen(connection)
            piece = await alive(connection, self._pieces.next(size))
        if piece is None:
            return Chunk(cursor=self._cursor, rows=0, bytes_done=self._bytes_total, done=True)
        rows, refused = await self._loader.load(connection, piece)
        rejects = sorted([*piece.rejects, *refused], key=lambda reject: reject.line or 0)
        rejected = int(self._cursor.get("rejected", 0)) + len(rejects)
        self._check_rejects(rejected, rejects)
        cursor = {**piece.end, "rejected": rejected}
        if self._spec.get("on_conflict") == "nothing":
            here = piece.records - rows - len(refused)
            cursor["left_out"] = int(self._cursor.get("left_out", 0)) + here
        return Chunk(
            cursor=cursor,
            rows=rows,
            rejects=rejects,
            bytes_done=self._bytes_total if piece.last else piece.bytes_done,
            size=piece.size,
            checksum=piece.checksum,
            done=piece.last,
        )

    async def committed(self, chunk: Chunk) -> None:
        """See ``Run``."""
        self._cursor = chunk.cursor
        if chunk.done:
            # only what came on standard input is ours to delete
            await asyncio.to_thread(spool.remove, self._spec["path"])

    async def close(self) -> None:
        """See ``Run``."""
        pieces, self._pieces = self._pieces, None
        if pieces is not None:
            await pieces.close()

    async def _open(self, connection: Any) -> None:
        source = await asyncio.to_thread(Source.detect, self._spec["path"], self._spec)
        self._loader = Loader(
            Statements.of(self._spec),
            path=self._spec["path"],
            into=f"{self._spec['schema']}.{self._spec['table']}",
            codec=source.encoding.codec,
            rejecting=self._rejecting,
            on_its_way=self._read_ahead,
        )
        major = connection.get_server_version().major
        reader = await asyncio.to_thread(
            source.reader,
            rejecting=self._rejecting,
            protect_end_of_copy=major < END_OF_COPY_HARMLESS,
            columns=self._spec["read"],
        )
        self._bytes_total = reader.bytes_total
        self._pieces = Prefetcher(reader)

    def _read_ahead(self) -> None:
        if self._pieces is not None:
            self._pieces.read_ahead()

    async def _reopen(self, connection: Any) -> None:
        """Look at the file anew; raises if it is another one."""
        if not await asyncio.to_thread(self._check):
            await self._verify(connection)
        await self.close()
        await self._open(connection)
        assert self._pieces is not None
        await alive(connection, self._pieces.go_to(self._cursor))

    def _check(self) -> bool:
        """Whether the file is certainly the same; False: its contents must be compared."""
        if self._fingerprint is None:
            return True
        found = fingerprint.check(self._spec["path"], self._fingerprint)
        return found == fingerprint.UNCHANGED

    async def _verify(self, connection: Any) -> None:
        """Compare what was loaded with what the file has there, as its time has changed."""
        # known by its new time from now on
        self._fingerprint = await verify(connection, self._spec, self._chunks)

    def _check_rejects(self, rejected: int, rejects: list[Reject]) -> None:
        if self._max_rejects is None or rejected <= self._max_rejects:
            return
        last = rejects[-1]
        raise OperationError(
            f"{rejected:,} rows of {self._spec['path']} were refused, more than the limit of "
            f"{self._max_rejects:,}; the last one is line {last.line:,}: "
            f"{last.message.rstrip('.')}. "
            "Nothing of this chunk was committed; rows before it stay. Suggestion: look at what "
            "is in poolkeeper.rejects, mend the reason or raise max_rejects, and retry."
        )


async def verify(connection: Any, spec: Json, chunks: Chunks) -> Json:
    """Compare what was loaded with what the file has there; return its present fingerprint.

    Raises:
        SourceChangedError: They differ.
        SourceError: It cannot be read.
    """
    loaded = [
        (chunk.cursor_from["offset"], chunk.cursor_to["offset"], chunk.checksum)
        for chunk in await chunks.committed(connection)
        # rows of Parquet have no bytes of their own; its ends hold its index, and are compared
        if chunk.checksum is not None and "offset" in chunk.cursor_from
    ]

    abandoned = threading.Event()

    def compare() -> Json:
        source = Source.detect(spec["path"], spec)
        if loaded:
            with source.stream(abandoned) as stream:
                fingerprint.verify_prefix(stream, loaded)
        return fingerprint.fingerprint(spec["path"])

    try:
        return await alive(connection, asyncio.to_thread(compare))
    finally:
        # That of a cancelled one must not go on for as long as the file is large.
        abandoned.set()
