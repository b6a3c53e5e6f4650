"""The kind of operation that loads a file into a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolkeeper.operations.load import fingerprint as fingerprints
from poolkeeper.operations.load.errors import SourceError
from poolkeeper.operations.load.prepare import prepare
from poolkeeper.operations.load.run import LoadRun

if TYPE_CHECKING:
    from poolkeeper.operations.kind import Chunks, Json, Prepared


class LoadKind:
    """Loads of CSV, NDJSON and Parquet by COPY."""

    name = "load"
    tunable = frozenset({"on_bad_row", "max_rejects", "max_record_bytes"})

    def already_done(self, spec: Json, fingerprint: Json | None) -> bool:
        """See ``Kind``: the same file once more would double its rows; another one would not."""
        if fingerprint is None:
            return False
        try:
            return fingerprints.check(spec["path"], fingerprint) == fingerprints.UNCHANGED
        except SourceError:
            return False

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
