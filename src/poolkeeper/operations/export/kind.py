"""The kind of operation that writes rows to files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poolkeeper.operations.export.options import normalized
from poolkeeper.operations.export.prepare import prepare
from poolkeeper.operations.export.run import ExportRun
from poolkeeper.operations.export.target import Target

if TYPE_CHECKING:
    from poolkeeper.operations.kind import Chunks, Json, Prepared
    from poolkeeper.operations.model import OperationStatus


class ExportKind:
    """Exports a query or a table to one file or to part files.

    Rows are read in the order of a key, chunk by chunk, each chunk with a snapshot of its own:
    every row that exists throughout, with the same key, is exported exactly once; of one that is
    changed meanwhile, one version; whether one that is inserted or deleted meanwhile is there, its
    place in the order decides. With ``consistent`` all rows are of one snapshot, and an
    interruption begins anew.

    A file has its final name only when it is complete and on disk. Times are in UTC.
    """

    @property
    def name(self) -> str:
        """What the table calls it."""
        return "export"

    @property
    def tunable(self) -> frozenset[str]:
        """No option may change on the way."""
        return frozenset()

    def check(self, spec: Json) -> None:
        """See `Kind.check`."""
        normalized(spec)

    async def already_done(self, connection: Any, done: OperationStatus, chunks: Chunks) -> bool:
        """See `Kind.already_done`: its files are there, and must not be replaced."""
        del connection, chunks
        spec = done.spec
        first = Target(Path(spec["directory"]), spec["file"], spec["suffix"], "").final(1)
        return not spec.get("overwrite") and await asyncio.to_thread(first.exists)

    async def prepare(self, connection: Any, spec: Json) -> Prepared:
        """Check and complete what is asked for.

        Options of ``spec``:
            query: A SELECT; or
            table: a table or view, with its schema where the search path does not find it.
            columns: Which columns of the table, in which order; all of them by default.
            where: Condition for rows of the table.
            key: Columns to read by: never NULL, unique or not, with an index in this order. Default
                for a table is its primary key.
            to: Absolute path of a file, or of a directory for part files; that is made if its
                parent exists.
            parts: Whether it is a directory; by default if there is one, if ``part_bytes`` is
                given, or if the name has no suffix.
            format: ``csv``, ``ndjson`` or ``parquet``; by default what the name tells, or CSV.
            compression: ``gzip``, ``zstd`` or ``none``; by default what the name tells. Parquet is
                compressed inside, by default with Snappy.
            header: Whether each CSV file begins with the names of the columns; True by default.
            delimiter: Between CSV values; a comma by default, a tab in ``.tsv`` and ``.tab``.
            null: How CSV says NULL; by default nothing at all, while an empty text is ``""``.
            quote: Around CSV values that need it; ``"`` by default.
            overwrite: Whether files that are there may be replaced, each when its successor is
                complete.
            part_bytes: Size of a part file before compression, exceeded by less than 1 MiB of rows;
                64 MiB by default. Of Parquet, the size its rows would have as CSV, exceeded by
                less than a chunk; 256 MiB by default.
            consistent: Whether all rows come from one snapshot.

        Raises:
            ExportError: It cannot be done; the message says why and what to do.
        """
        return await prepare(connection, spec)

    def start(self, spec: Json, fingerprint: Json | None, chunks: Chunks) -> ExportRun:
        """Make a run of an export that has been claimed."""
        del fingerprint, chunks
        return ExportRun(spec)
