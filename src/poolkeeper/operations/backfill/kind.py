"""The kind of operation that changes rows in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolkeeper.operations.backfill.options import TUNABLE, check_request
from poolkeeper.operations.backfill.prepare import prepare
from poolkeeper.operations.backfill.run import BackfillRun

if TYPE_CHECKING:
    from poolkeeper.operations.kind import Chunks, Json, Prepared
    from poolkeeper.operations.model import OperationStatus


class BackfillKind:
    """Updates or deletes the rows of a table, one range of keys after the other.

    A row that is there throughout, with the same key, is changed exactly once, whatever happens to
    the worker and the database: also by ``n = n + 1``. A row that is inserted meanwhile is changed
    if the backfill has not come to its key yet when it is committed.

    Each chunk sees the table as it is when its turn comes. It holds its row locks for 50 to 100 ms,
    and waits for those of others for ``lock_timeout`` at the most; then it is undone, which lets
    others have its rows, and tried again, smaller.
    """

    @property
    def name(self) -> str:
        """What the table calls it."""
        return "backfill"

    @property
    def tunable(self) -> frozenset[str]:
        """How considerate it is of others."""
        return TUNABLE

    def check(self, spec: Json) -> None:
        """See ``Kind.check``."""
        check_request(spec)

    async def already_done(self, connection: Any, done: OperationStatus, chunks: Chunks) -> bool:
        """See ``Kind.already_done``: ``n = n + 1`` would; deleting what is gone would not."""
        del connection, chunks
        return done.spec["set"] is not None

    async def prepare(self, connection: Any, spec: Json) -> Prepared:
        """Check and complete what is asked for; nothing is changed.

        Options of ``spec`` are those of ``Operations.backfill``. The complete one has the types of
        the key columns, and the settings of this session on which the meaning of SQL depends
        (``search_path``, time zone, styles): any worker uses these.

        Raises:
            OperationError: It cannot be done; the message says why and what to do.
        """
        return await prepare(connection, spec)

    def start(self, spec: Json, fingerprint: Json | None, chunks: Chunks) -> BackfillRun:
        """Make a run of a backfill that has been claimed.

        Raises:
            OperationError: An option that was changed on the way cannot be.
        """
        del fingerprint, chunks
        return BackfillRun(spec)
