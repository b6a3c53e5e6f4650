"""The kind of operation that loads a file into a table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from poolkeeper.operations.load import fingerprint as fingerprints
from poolkeeper.operations.load.errors import SourceError
from poolkeeper.operations.load.prepare import check_choices, prepare
from poolkeeper.operations.load.run import LoadRun, verify

if TYPE_CHECKING:
    from poolkeeper.operations.kind import Chunks, Json, Prepared
    from poolkeeper.operations.model import OperationStatus


class LoadKind:
    """Loads of CSV, NDJSON and Parquet by COPY."""

    name = "load"
    tunable = frozenset({"on_bad_row", "max_rejects", "max_record_bytes"})

    def check(self, spec: Json) -> None:
        """See ``Kind``."""
        check_choices(spec)

    async def already_done(self, connection: Any, done: OperationStatus, chunks: Chunks) -> bool:
        """See ``Kind``: the same file once more would double its rows; another one would not.

        A file that was copied or touched since is the same one: what it holds decides.
        """
        if done.fingerprint is None:
            return False
        try:
            verdict = await asyncio.to_thread(
                fingerprints.check, done.spec["path"], done.fingerprint
            )
            if verdict != fingerprints.UNCHANGED:
                await verify(connection, done.spec, chunks)
        except SourceError:
            return False
        return True

    async def prepare(self, connection: Any, spec: Json) -> Prepared:
        """See ``Kind``; the options are those of ``Verbs.load``.

        Raises:
            SourceError: The file cannot be read.
            OperationError: File and table do not fit.
        """
        return await prepare(connection, spec)

    def start(self, spec: Json, fingerprint: Json | None, chunks: Chunks) -> LoadRun:
        """See ``Kind``."""
        return LoadRun(spec, fingerprint, chunks)
