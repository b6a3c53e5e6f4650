"""One claimed run of a backfill."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.backfill.options import Throttle
from poolkeeper.operations.backfill.position import Position
from poolkeeper.operations.backfill.sql import Statements
from poolkeeper.operations.backfill.standbys import QUERY, Behind, Standby, Standbys
from poolkeeper.operations.errors import OperationFailedError
from poolkeeper.operations.kind import Chunk, Hold, Sizing
from poolkeeper.outcomes import is_driver_error

if TYPE_CHECKING:
    from poolkeeper.operations.kind import Json

MOST_PASSES: Final = 10
"""A condition that still holds for rows after so many passes does not become false."""

LOOK_SECONDS: Final = 0.25
"""How often standbys are looked at while chunks go on; also while one is waited for."""

FIRST_ROWS: Final = 1000


class BackfillRun:
    """Goes along the key, one range after the other.

    Args:
        spec: The complete spec of the operation.
    """

    def __init__(self, spec: Json) -> None:
        self._throttle = Throttle.of(spec)
        self._statements = Statements.of(spec)
        self._sweep: bool = spec["sweep"]
        self._rows_expected: int = spec["expected"]["rows"]
        self._bytes_expected: int = spec["expected"]["bytes"]
        self._position = Position()
        self._passes = 0
        self._standbys: Standbys | None = None
        self._look_at = 0.0
        self._pausing = False

    @property
    def sizing(self) -> Sizing:
        """In rows."""
        # down to a single one: around a row that is locked for long, all others are done
        most = self._throttle.batch
        return Sizing(initial=min(FIRST_ROWS, most), smallest=1, largest=most)

    async def begin(self, connection: Any, cursor: Json) -> None:
        """See ``Run``."""
        del connection
        self._position = Position.of(cursor)
        # another server, perhaps, with another WAL
        self._standbys = Standbys() if self._throttle.max_replica_lag else None
        self._look_at = 0.0

    async def hold(self, connection: Any) -> Hold | None:
        """See ``ThrottledRun``: pause, and wait for standbys."""
        if self._pausing:
            self._pausing = False
            return Hold(self._throttle.pause)
        behind = await self._look_at_standbys(connection)
        if behind is None or behind.seconds <= self._throttle.max_replica_lag:
            return None
        self._look_at = 0.0
        return Hold(
            LOOK_SECONDS,
            f"the standby {behind.name!r} is {behind.seconds:.1f} s behind, more than "
            f"{self._throttle.max_replica_lag:g} s",
        )

    async def chunk(self, connection: Any, size: int) -> Chunk:
        """See ``Run``.

        Raises:
            OperationFailedError: Pass after pass of a sweep finds rows to change.
        """
        if self._passes >= MOST_PASSES:
            raise OperationFailedError(
                f"{self._passes} passes over {self._statements.table} have each found rows that "
                "fulfil the condition. What was committed stays. Suggestion: see that the change "
                "makes the condition false, and that nobody goes on writing such rows; then retry "
                "the operation, or cancel it."
            )
        before = self._position
        await connection.execute(self._statements.read_keys(self._throttle.lock_timeout))
        sql, values = self._statements.upper(before.key)
        upper = await connection.fetchrow(sql, *values, size - 1)
        if upper is not None:
            key = tuple(upper)
            changed = await self._work(connection, before.key, key)
            after = before.after(key, visited=size, changed=changed)
            return self._chunk(after, changed, size=size)
        sql, values = self._statements.last(before.key)
        last = await connection.fetchrow(sql, *values)
        changed = 0
        after = before
        if last is not None:
            # This is the end, even if others go on adding rows: who writes fast is not run after.
            key = tuple(last)
            changed = await self._work(connection, before.key, key)
            after = before.after(key, visited=0, changed=changed)
        if self._sweep and after.changed:
            return self._chunk(after.next_pass(), changed, size=changed)
        return self._chunk(after, changed, size=changed, done=True)

    async def committed(self, chunk: Chunk) -> None:
        """See ``Run``."""
        after = Position.of(chunk.cursor)
        if after.number > self._position.number:
            self._passes += 1
        self._position = after
        self._pausing = self._throttle.pause > 0.0 and not chunk.done

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _work(
        self, connection: Any, after: tuple[str, ...] | None, to: tuple[str, ...]
    ) -> int:
        """Change the rows of a range; returns how many there were."""
        first = None
        if after is None:
            sql, values = self._statements.upper(None)
            first = await connection.fetchrow(sql, *values, 0)
        await connection.execute(self._statements.work_on_rows())
        sql, values = self._statements.work(after, to, first=first and tuple(first))
        try:
            tag: str = await connection.execute(sql, *values)
        except Exception as error:
            error.add_note(self._statements.range(after, to))
            raise
        return int(tag.rpartition(" ")[2])

    def _chunk(self, after: Position, rows: int, *, size: int, done: bool = False) -> Chunk:
        return Chunk(
            cursor=after.to_cursor(),
            rows=rows,
            size=size,
            bytes_done=self._gone_through(after, done=done),
            done=done,
        )

    def _gone_through(self, position: Position, *, done: bool) -> int:
        """How much of the table that is, in bytes: the rows a condition leaves out count as well.

        The number of rows was an estimate.
        """
        share = position.visited / max(1, self._rows_expected)
        return round(self._bytes_expected * (1.0 if done else min(1.0, share)))

    async def _look_at_standbys(self, connection: Any) -> Behind | None:
        now = monotonic()
        if self._standbys is None or now < self._look_at:
            return None
        self._look_at = now + LOOK_SECONDS
        try:
            rows = await connection.fetch(QUERY)
        except Exception as error:
            if not is_driver_error(error) or connection.is_closed():
                raise
            # A server that is only like PostgreSQL, and tells nothing of its replicas.
            self._standbys = None
            return None
        if rows[0]["here"] is None:
            return None
        return self._standbys.observe(
            monotonic(),
            rows[0]["here"],
            [
                Standby(row["name"], row["replayed"], row["lag"])
                for row in rows
                if row["replayed"] is not None
            ],
        )
