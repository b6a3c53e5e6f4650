"""One statement on one psycopg connection: text in, text out, with a bound on memory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeAlias

import psycopg
from psycopg import generators, pq, waiting
from psycopg.adapt import Transformer

from poolkeeper.drivers.psycopg_exchange import Exchange
from poolkeeper.server.neon.response import Field, StatementResult
from poolkeeper.session_reset import CLEANING_SQL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

Connection: TypeAlias = "psycopg.AsyncConnection[Any]"

# Rows are taken over in portions, so that a result over the limit is noticed before it fills the
# memory. A portion costs about as much as one row does, so a handful would be wasteful.
_ROWS_PER_PORTION = 64
# From this many cells on, psycopg's loader is faster than a call for each.
_MANY_CELLS = 48
# How long a cancel request may take; it needs a connection of its own.
CANCEL_TIMEOUT = 2.0

# psycopg looks at the socket that often even when the event loop reports nothing.
_POLL_INTERVAL = 1.0
# The OID of type text: its loader takes any cell as it is.
_TEXT = 25
_COPY_STATES = frozenset({pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH})
_FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
_IDLE = pq.TransactionStatus.IDLE

# What the pool runs to clean a session, with all prepared statements: none are the driver's.
_CLEANING = f"{CLEANING_SQL}; DEALLOCATE ALL".encode()
# The same in one statement, at a third of the price for both sides. It also drops the plans the
# session keeps for functions and triggers, which cost more than that to make again.
_CLEANING_WITH_PLANS = b"DISCARD ALL"


class NothingSentError(Exception):
    """The connection was dead before the statement was sent; running it elsewhere is safe."""


class OutcomeUnknownError(Exception):
    """The connection was lost after the statement was sent; it may or may not have taken effect."""


class ResultTooLargeError(Exception):
    """The result exceeds the limit.

    Attributes:
        limit: The limit in bytes.
        executed: Whether the statement took effect all the same; otherwise it was rolled back.
    """

    def __init__(self, limit: int, *, executed: bool) -> None:
        super().__init__(f"response is too large (max is {limit} bytes)")
        self.limit = limit
        self.executed = executed


class CopyRefusedError(Exception):
    """The statement is a COPY to or from the client, which has no place in this protocol."""


async def run_statement(
    conn: Connection,
    sql: bytes,
    params: Sequence[bytes | None],
    *,
    max_bytes: int,
    final: bool = False,
) -> StatementResult:
    """Run one statement in the extended protocol: PostgreSQL infers the types and prints the text.

    Nothing else may use the connection meanwhile. Cancelling this closes the connection, on which
    the statement may still run in the server; `interruptible` avoids that.

    Args:
        conn: Borrowed from a pool, or psycopg's own.
        sql: One statement.
        params: In PostgreSQL's text format.
        max_bytes: Most that the cells may have together.
        final: Nothing else will be run on the borrowed connection. The session is cleaned as soon
            as the answer is there, while this returns; give it back with `give_back`.

    Raises:
        NothingSentError: The connection is dead, and was before anything was sent.
        ResultTooLargeError: The cells add up to more than ``max_bytes``.
        CopyRefusedError: The statement is a COPY from or to the client.
        OutcomeUnknownError: The connection was lost on the way.
        psycopg.Error: What PostgreSQL said about the statement.
    """
    statement = _Statement(conn, max_bytes, cleaning=_cleaning_after(sql) if final else None)
    try:
        await statement.send(sql, params)
        await statement.answered
        if statement.cancelling is not None:
            await statement.cancelling
        if statement.copy is not None:
            await statement.leave_copy()
        return statement.result()
    except psycopg.Error as error:
        # Without a severity the message is libpq's own, not PostgreSQL's about the statement.
        if error.diag.severity_nonlocalized != "ERROR":
            raise OutcomeUnknownError(statement.exchange.why_lost(error)) from error
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            statement.exchange.refused(error)
        raise
    except asyncio.CancelledError:
        statement.exchange.close()
        raise


async def ask_to_cancel(conn: Connection) -> None:
    """Send a cancel request on a connection of its own; whether it helps shows in the result."""
    with contextlib.suppress(psycopg.Error, OSError):
        await conn.cancel_safe(timeout=CANCEL_TIMEOUT)


class _Statement:
    """A statement in flight. What arrives is taken by the event loop's own callback."""

    __slots__ = (
        "_any_result",
        "_clean",
        "_cleaning",
        "_cleaning_sql",
        "_conn",
        "_failure",
        "_fields",
        "_lost",
        "_max_bytes",
        "_pgconn",
        "_rows",
        "_size",
        "_tag",
        "_too_large",
        "_undecodable",
        "answered",
        "cancelling",
        "copy",
        "exchange",
    )

    def __init__(self, conn: Connection, max_bytes: int, *, cleaning: bytes | None) -> None:
        self.exchange = Exchange(conn, self._arrived)
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.copy: int | None = None
        self.cancelling: asyncio.Task[None] | None = None
        self._conn = conn
        self._pgconn = self.exchange.pgconn
        self._max_bytes = max_bytes
        self._cleaning_sql = cleaning
        self._cleaning = False
        self._clean = True
        self._size = 0
        self._rows: list[tuple[str | None, ...]] = []
        self._tag = b""
        self._fields: tuple[Field, ...] = ()
        self._failure: PGresult | None = None
        self._lost: psycopg.Error | None = None
        self._undecodable: UnicodeDecodeError | None = None
        self._any_result = self._too_large = False

    async def send(self, sql: bytes, params: Sequence[bytes | None]) -> None:
        """Write the statement, all of it."""
        pgconn = self._pgconn
        _refuse_if_dead(pgconn)
        pgconn.send_query_params(sql, params)
        pgconn.set_chunked_rows_mode(_ROWS_PER_PORTION)
        self.exchange.begin()
        if pgconn.flush() == 0:
            return
        try:
            await self.exchange.flush()
        except psycopg.OperationalError:
            self.exchange.end()
            raise
        # What came meanwhile was taken from the socket: no event will tell of it.
        self._arrived()

    def _arrived(self) -> None:
        if not self.exchange.going_on:
            return
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    if not self._proceed():
                        return
                elif self._cleaning:
                    self._clean = self._clean and result.status != _FATAL_ERROR
                else:
                    self._take(result)
                    if self.copy is not None:
                        self._end()
                        return
        except psycopg.Error as error:
            if not self._cleaning:
                self._lost = error
            self._end()

    def _proceed(self) -> bool:
        """All results are there. Go on to the cleaning, and say whether that has begun."""
        pgconn = self._pgconn
        if (
            self._cleaning_sql is not None
            and not self._cleaning
            and not self._too_large
            and pgconn.transaction_status == _IDLE
            and self.exchange.can_be_cleaned_in_sql()
        ):
            self._cleaning = True
            self._wake()
            pgconn.send_query(self._cleaning_sql)
            if pgconn.flush() == 0:
                return True
            # The server has read everything before: so little always fits.
            self._clean = False
        self._end(cleaned=self._cleaning and self._clean)
        return False

    def _end(self, *, cleaned: bool = False) -> None:
        self._wake()
        self.exchange.end(cleaned=cleaned)

    def _wake(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def _take(self, result: PGresult) -> None:
        self._any_result = True
        self._tag = result.command_status or self._tag
        status = result.status
        if status == _FATAL_ERROR:
            self._failure = result
        elif status in _COPY_STATES:
            self.copy = status
        elif result.nfields and not self._too_large:
            if not self._fields:
                self._fields = _describe(result)
            if result.ntuples:
                self._load(result)
            if self._size > self._max_bytes:
                self._too_large = True
                self._rows.clear()
                self.cancelling = self.answered.get_loop().create_task(ask_to_cancel(self._conn))

    def _load(self, result: PGresult) -> None:
        """Take over the rows of a portion as text, whatever their types."""
        rows, columns = result.ntuples, result.nfields
        try:
            if (
                rows * columns <= _MANY_CELLS
                and self._pgconn.parameter_status(b"client_encoding") == b"UTF8"
            ):
                cell_at = result.get_value
                for row in range(rows):
                    cells = [cell_at(row, column) for column in range(columns)]
                    self._size += sum([len(cell) for cell in cells if cell is not None])
                    self._rows.append(
                        tuple([None if cell is None else cell.decode() for cell in cells])
                    )
            else:
                loader = Transformer(self.exchange.connection)
                loader.set_pgresult(result)
                loader.set_loader_types([_TEXT] * columns, pq.Format.TEXT)
                portion = loader.load_rows(0, rows, tuple)
                self._size += sum([len(cell) for row in portion for cell in row if cell])
                self._rows += portion
        except UnicodeDecodeError as error:
            # A database in SQL_ASCII holds anything. The rest still has to be read.
            self._undecodable = error

    async def leave_copy(self) -> None:
        """End a COPY the statement has begun, so that the connection stays usable."""
        pgconn = self._pgconn
        async with self.exchange.lock:
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                if self.copy == pq.ExecStatus.COPY_IN:
                    await _wait(
                        pgconn, generators.copy_end(pgconn, b"COPY is not possible over HTTP")
                    )
                else:
                    await ask_to_cancel(self._conn)
                    while isinstance(await _wait(pgconn, generators.copy_from(pgconn)), memoryview):
                        pass
            while await _wait(pgconn, generators.fetch(pgconn)) is not None:
                pass

    def result(self) -> StatementResult:
        """What came of it; raises as `run_statement` does."""
        if self._lost is not None:
            raise self._lost
        if self.copy is not None:
            raise CopyRefusedError
        failure = self._failure
        if self._too_large:
            raise ResultTooLargeError(self._max_bytes, executed=failure is None)
        if failure is not None:
            raise psycopg.errors.error_from_result(failure)
        if self._undecodable is not None:
            raise self._undecodable
        if not self._any_result:
            raise psycopg.OperationalError("the server closed the connection without an answer")
        # Handed over: the connection keeps its last exchange, which must not keep the rows.
        rows, self._rows = self._rows, []
        return StatementResult(self._fields, rows, self._tag.decode(), self._size)


def _cleaning_after(sql: bytes) -> bytes:
    """What cleans the session behind a statement, whatever that did; chosen by price alone."""
    calls_functions = b"(" in sql or sql[:6].lower() != b"select"
    return _CLEANING if calls_functions else _CLEANING_WITH_PLANS


def _refuse_if_dead(pgconn: PGconn) -> None:
    """Look for a goodbye the server sent while the connection was idle.

    The first read takes its last words, the second sees the end of the stream. Without this the
    statement would be written into a dead socket and its outcome reported as unknown.
    """
    try:
        pgconn.consume_input()
        pgconn.consume_input()
    except psycopg.OperationalError as error:
        raise NothingSentError(str(error)) from error
    if pgconn.status != pq.ConnStatus.OK:
        raise NothingSentError("the connection is closed")


async def _wait(pgconn: PGconn, steps: PQGen[Any]) -> Any:
    # Not conn.wait: it answers a cancellation by cancelling in the server and hides whether the
    # statement took effect. `interruptible` does it with the answer in hand.
    return await waiting.wait_async(steps, pgconn.socket, interval=_POLL_INTERVAL)


def _describe(result: PGresult) -> tuple[Field, ...]:
    return tuple(
        [
            # As Field(…), at half its price.
            _new(
                Field,
                (
                    (result.fname(column) or b"").decode(errors="replace"),
                    result.ftype(column),
                    result.ftable(column),
                    result.ftablecol(column),
                    result.fsize(column),
                    result.fmod(column),
                ),
            )
            for column in range(result.nfields)
        ]
    )


_new = tuple.__new__
