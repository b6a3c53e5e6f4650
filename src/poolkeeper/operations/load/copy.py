"""Rows into the table, in the transaction of a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.kind import Reject
from poolkeeper.operations.load.bad_rows import Segments, is_of_a_row, place_of, record_at
from poolkeeper.operations.load.errors import BadRowError
from poolkeeper.operations.load.piece import cut, snippet
from poolkeeper.operations.load.statements import KNOWN_OBJECT, RELEASE, ROLL_BACK, SAVEPOINT
from poolkeeper.outcomes import is_driver_error
from poolkeeper.sqlstate import UNDEFINED_TABLE, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from poolkeeper.operations.load.piece import Piece
    from poolkeeper.operations.load.statements import Statements

OTHER_ENCODING: Final = frozenset({"22021", "22P05"})
"""Bytes that are no text in the encoding of the file, or none the database can hold; NUL, too."""

SLICE: Final = 256 << 10
"""How much is handed to the connection at a time: it must not buffer a whole chunk once more."""


class Loader:
    """Loads pieces by the statements of one load.

    Args:
        statements: What to run.
        path: The file, for errors.
        into: The table, for errors.
        codec: Of the text of the file.
        rejecting: Whether bad rows are left out; else the first one is an error.
        on_its_way: Called when the server has rows to be busy with.
    """

    def __init__(
        self,
        statements: Statements,
        *,
        path: str,
        into: str,
        codec: str | None,
        rejecting: bool,
        on_its_way: Callable[[], None],
    ) -> None:
        self._statements = statements
        self._path = path
        self._into = into
        self._codec = codec
        self._rejecting = rejecting
        self._on_its_way = on_its_way

    async def load(self, connection: Any, piece: Piece) -> tuple[int, list[Reject]]:
        """Load a piece.

        Args:
            connection: A connection of asyncpg in a transaction, which a failure leaves aborted.
            piece: The rows.

        Returns:
            How many rows were loaded, and those that were refused.

        Raises:
            BadRowError: A row was refused, and none may be left out.
            OperationError: The table is gone, or the server took another number of rows.
            Exception: Any other error of the driver.
        """
        try:
            return await self._load(connection, piece)
        except Exception as error:
            if is_driver_error(error) and sqlstate_of(error) == UNDEFINED_TABLE:
                raise OperationError(
                    f"The table {self._into} does not exist any more: {error}. Rows of "
                    f"{self._path} up to line {piece.start.get('line', piece.first_line) - 1:,} "
                    "were committed to it. Suggestion: create it again and retry the operation, "
                    "which then loads the rest only; or load the file under a new name, which "
                    "begins at its first row."
                ) from error
            raise

    async def _load(self, connection: Any, piece: Piece) -> tuple[int, list[Reject]]:
        if not piece.records:
            return 0, []
        await connection.execute(self._statements.begin)
        await self._make_staging(connection)
        segments = Segments(piece.records)
        rows = 0
        rejects: list[Reject] = []
        while not segments.finished:
            try:
                rows += await self._segment(connection, piece, segments)
            except Exception as error:
                if not self._is_bad_row(connection, error):
                    raise
                await connection.execute(ROLL_BACK)
                reject = self._cut(piece, segments, error)
                if reject is not None:
                    rejects.append(reject)
                continue
            segments.loaded()
            if not segments.finished:
                await connection.execute(f"{self._clear()}{RELEASE};{SAVEPOINT}")
        return rows, rejects

    def _clear(self) -> str:
        staging = self._statements.staging
        return "" if staging is None else f"truncate pg_temp.{staging};"

    async def _make_staging(self, connection: Any) -> None:
        staging = self._statements.staging
        if staging is None:
            return
        # The session may be another one than that of the chunk before.
        there = await connection.fetchval("select to_regclass($1)", f"pg_temp.{staging}")
        if there is None:
            await connection.execute(f"{self._statements.create};{RELEASE};{SAVEPOINT}")

    async def _segment(self, connection: Any, piece: Piece, segments: Segments) -> int:
        begin, end = 0, len(piece.data)
        if segments.length < piece.records:
            bounds = piece.bounds()
            begin = bounds[segments.position].begin
            end = bounds[segments.position + segments.length - 1].end
        tag = await connection.copy_to_table(
            source=_slices(piece.data, begin, end, self._on_its_way), **self._statements.copy
        )
        taken = int(tag.split()[1])
        staged = self._statements.staging is not None
        if taken != segments.length and (staged or self._statements.counted):
            raise self._miscounted(piece, segments.length, taken)
        if staged:
            tag = await connection.execute(self._statements.insert)
            return int(tag.split()[-1])
        return taken

    def _miscounted(self, piece: Piece, sent: int, taken: int) -> OperationError:
        return OperationError(
            f"PostgreSQL took {taken:,} rows where {self._path} has {sent:,}, from line "
            f"{piece.first_line:,} on, so both see its records differently. Nothing of this chunk "
            "was committed; rows before it stay. Suggestion: see whether delimiter, quote and "
            "escape are those of the file and its lines all end in the same way; else report this "
            "as a bug of poolkeeper, with those lines."
        )

    def _is_bad_row(self, connection: Any, error: Exception) -> bool:
        return (
            is_driver_error(error)
            and not connection.is_closed()
            and is_of_a_row(sqlstate_of(error))
        )

    def _cut(self, piece: Piece, segments: Segments, error: Exception) -> Reject | None:
        """Make the segment smaller, or say that it was one bad row."""
        place = place_of(getattr(error, "context", None), getattr(error, "column_name", None))
        position = segments.position
        hint = None
        if place.line is not None:
            hint = record_at(piece.bounds(), position, segments.length, place.line)
        if not segments.failed(hint):
            return None
        bounds = piece.bounds()[position]
        raw = piece.data[bounds.begin : bounds.end]
        if not self._rejecting:
            raise self._bad_row(bounds.line, raw, place.column, error) from error
        return Reject(bounds.line, cut(raw.rstrip(b"\r\n")), sqlstate_of(error), _said(error, raw))

    def _bad_row(self, line: int, raw: bytes, column: str | None, error: Exception) -> BadRowError:
        row = snippet(raw, self._codec)
        where = f", column {column}" if column else ""
        advice = (
            "name the encoding the file really has, such as --encoding windows-1252"
            if sqlstate_of(error) in OTHER_ENCODING and b"\0" not in raw
            else "mend the file and load it under a new name, or retry with --on-bad-row reject, "
            "which puts such rows into the table poolkeeper.rejects and goes on"
        )
        return BadRowError(
            f"{self._path}, line {line:,}{where}: {_said(error, raw)} "
            f"(SQLSTATE {sqlstate_of(error)}). The row is: {row} Rows of earlier "
            f"chunks stay committed. Suggestion: {advice}.",
            path=self._path,
            line=line,
            column=column,
            row=row,
            sqlstate=sqlstate_of(error),
        )


def _said(error: Exception, raw: bytes) -> str:
    if getattr(error, "constraint_name", None) == KNOWN_OBJECT:
        if raw.lstrip().startswith(b"{"):
            return "the JSON object has a key that goes nowhere"
        return "not a JSON object"
    said = str(getattr(error, "message", None) or error)
    detail = getattr(error, "detail", None)
    return f"{said}: {detail}" if detail else said


async def _slices(
    data: bytes, begin: int, end: int, on_its_way: Callable[[], None]
) -> AsyncIterator[memoryview]:
    view = memoryview(data)
    for at in range(begin, end, SLICE):
        yield view[at : min(at + SLICE, end)]
        on_its_way()
