"""One statement on one psycopg connection: text in, text out, with a bound on memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING, TypeAlias

import psycopg
from psycopg import generators, pq, waiting
from psycopg.adapt import Transformer

from poolkeeper.drivers.psycopg_exchange import Exchange, cut
from poolkeeper.server.neon.response import Field, StatementResult
from poolkeeper.session_reset import CLEANING_SQL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

if sys.platform == "linux":
    import fcntl
    import termios

Connection: TypeAlias = "psycopg.AsyncConnection[Any]"

# Rows are taken over in portions, so that a result over the limit is noticed before it fills the
# memory. A portion costs about as much as one row does, so a handful would be wasteful.
_ROWS_PER_PORTION = 64
# From this many cells on, psycopg's loader is faster than a call for each.
_MANY_CELLS = 48
# What a portion may have beside its cells: lengths, the columns, notices.
_BESIDE_CELLS = 1024 * 1024
# How much more of a portion over the limit is read, to learn what became of its statement.
_READ_ON = 32 * 1024 * 1024
# Linux' tcp_info: tcpi_bytes_received
_BYTES_RECEIVED = struct.Struct("@128xQ")
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


class NothingSentError(Exception):
    """The connection was dead before the statement was sent; running it elsewhere is safe."""


class OutcomeUnknownError(Exception):
    """The connection was lost after the statement was sent; it may or may not have taken effect."""


class ResultTooLargeError(Exception):
    """The result exceeds the limit.

    Attributes:
        limit: The limit in bytes.
        executed: Whether the statement took effect all the same; otherwise it was rolled back.
            None: unknown, since even the end of the result was too far away to be waited for.
    """

    def __init__(self, limit: int, *, executed: bool | None) -> None:
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
    statement = _Statement(conn, max_bytes, cleaning=_CLEANING if final else None)
    try:
        await statement.send(sql, params)
        await statement.answered
        if statement.cancelling is not None and not await statement.cancelling:
            cut(conn)
        if statement.copy is not None:
            await statement.leave_copy()
        if statement.outgrown:
            # libpq never gives memory back before the end of a connection. A transaction around
            # the statement is rolled back by that, as it would be by the error that follows.
            statement.exchange.close()
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


async def ask_to_cancel(conn: Connection) -> bool:
    """Send a cancel request on a connection of its own; whether it helps shows in the result.

    False: nobody knows whether the server has read it or will, so whatever runs next on ``conn``
    could be hit by it.
    """
    try:
        await conn.cancel_safe(timeout=CANCEL_TIMEOUT)
    except (psycopg.Error, OSError):
        return False
    return True


class _Statement:
    """A statement in flight. What arrives is taken by the event loop's own callback."""

    __slots__ = (
        "_any_result",
        "_arriving",
        "_clean",
        "_cleaning",
        "_cleaning_sql",
        "_conn",
        "_failure",
        "_fields",
        "_lost",
        "_max_bytes",
        "_pgconn",
        "_reads",
        "_rows",
        "_size",
        "_tag",
        "_taken_before",
        "_too_large",
        "_undecodable",
        "answered",
        "cancelling",
        "copy",
        "cut_short",
        "exchange",
        "outgrown",
    )

    def __init__(self, conn: Connection, max_bytes: int, *, cleaning: bytes | None) -> None:
        self.exchange = Exchange(conn, self._arrived)
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.copy: int | None = None
        self.cancelling: asyncio.Task[bool] | None = None
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
        self._lost: Exception | None = None
        self._undecodable: UnicodeDecodeError | None = None
        self._any_result = self._too_large = self.cut_short = False
        # Bytes of the portion that is not complete yet.
        self._arriving = self._reads = 0
        self._taken_before: int | None = None
        self.outgrown = False

    async def send(self, sql: bytes, params: Sequence[bytes | None]) -> None:
        """Write the statement, all of it."""
        pgconn = self._pgconn
        _refuse_if_dead(pgconn)
        pgconn.send_query_params(sql, params)
        pgconn.set_chunked_rows_mode(_ROWS_PER_PORTION)
        self.exchange.begin()
        try:
            if pgconn.flush() == 0:
                return
            await self.exchange.flush()
        except BaseException:
            self.exchange.end()
            raise
        # What came meanwhile was taken from the socket: no event will tell of it.
        self._arrived()

    def _arrived(self) -> None:
        if not self.exchange.going_on:
            return
        pgconn = self._pgconn
        try:
            self._read()
            # libpq would keep what was notified for as long as the connection lives.
            while pgconn.notifies():
                pass
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
            self._bound_memory()
        except Exception as error:
            if self._cleaning and not isinstance(error, psycopg.Error):
                self._end()
                raise
            # Raised to whoever waits for the answer, who would wait until the deadline otherwise.
            if not self._cleaning:
                self._lost = error
            self._end()

    def _read(self) -> None:
        """Let libpq take what has come, and count it.

        The first time is free; it mostly brings everything.
        """
        self._pgconn.consume_input()
        self._reads += 1
        if self._reads > 1 and (sock := self.exchange.socket) is not None:
            taken = _taken(sock)
            if self._taken_before is None:
                self._taken_before = taken
            self._arriving = taken - self._taken_before

    def _bound_memory(self) -> None:
        """Look at what libpq collects until it has a whole portion, or a whole row."""
        limit = 2 * self._max_bytes + _BESIDE_CELLS
        if self._arriving <= limit or self._cleaning:
            return
        self.outgrown = True
        if not self._too_large:
            self._refuse()
        if self._arriving > limit + _READ_ON:
            self.cut_short = True
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
        self._arriving, self._taken_before = 0, None
        self._tag = result.command_status or self._tag
        status = result.status
        if status == _FATAL_ERROR:
            self._failure = result
        elif status in _COPY_STATES:
            self.copy = status
        elif result.nfields and not self._too_large:
            if not self._fields:
                self._fields = _describe(result)
            before = self._size
            if result.ntuples:
                self._load(result)
            if self._size > self._max_bytes:
                # A portion that came faster than it could be stopped.
                self.outgrown = self._size - before > _BESIDE_CELLS
                self._refuse()

    def _refuse(self) -> None:
        """The result is over the limit: keep nothing of it, and have the server stop."""
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
                    heard = await ask_to_cancel(self._conn)
                    while isinstance(await _wait(pgconn, generators.copy_from(pgconn)), memoryview):
                        pass
                    if not heard:
                        self.exchange.cut()
                        return
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
            executed = None if self.cut_short else failure is None
            raise ResultTooLargeError(self._max_bytes, executed=executed)
        if failure is not None:
            raise psycopg.errors.error_from_result(failure)
        if self._undecodable is not None:
            raise self._undecodable
        if not self._any_result:
            raise psycopg.OperationalError("the server closed the connection without an answer")
        # Handed over: the connection keeps its last exchange, which must not keep the rows.
        rows, self._rows = self._rows, []
        return StatementResult(self._fields, rows, self._tag.decode(), self._size)


def _taken(sock: socket.socket) -> int:
    """How many bytes were ever taken from a socket; 0 where the kernel does not count them."""
    if sys.platform != "linux":
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        waiting = fcntl.ioctl(sock, termios.FIONREAD, bytes(4))
        received: int = _BYTES_RECEIVED.unpack(info)[0]
    except (OSError, struct.error):
        # Unix sockets, a closed one, a kernel whose structure ends earlier.
        return 0
    return received - int.from_bytes(waiting, sys.byteorder)


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
