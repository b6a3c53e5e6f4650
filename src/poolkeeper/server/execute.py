"""One statement on one psycopg connection: text in, text out, with a bound on memory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeAlias

import psycopg
from psycopg import generators, pq, waiting
from psycopg.adapt import Transformer

from poolkeeper.server.neon.response import Field, StatementResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

Connection: TypeAlias = "psycopg.AsyncConnection[Any]"

# Rows are taken over in portions, so that a result over the limit is noticed before it fills the
# memory. A portion costs about as much as one row does, so a handful would be wasteful.
_ROWS_PER_PORTION = 64
# How long a cancel request may take; it needs a connection of its own.
CANCEL_TIMEOUT = 2.0

# psycopg looks at the socket that often even when the event loop reports nothing.
_POLL_INTERVAL = 1.0
# The OID of type text: its loader takes any cell as it is.
_TEXT = 25
_COPY_STATES = frozenset({pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH})


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
) -> StatementResult:
    """Run one statement in the extended protocol: PostgreSQL infers the types and prints the text.

    Nothing else may use the connection meanwhile. After a cancellation the statement may still
    run in the server, and the connection is of no further use; `interruptible` avoids that.

    Raises:
        NothingSentError: The connection is dead, and was before anything was sent.
        ResultTooLargeError: The cells add up to more than ``max_bytes``.
        CopyRefusedError: The statement is a COPY from or to the client.
        OutcomeUnknownError: The connection was lost on the way.
        psycopg.Error: What PostgreSQL said about the statement.
    """
    _refuse_if_dead(conn.pgconn)
    try:
        # As psycopg's own methods do: the pool does not close the socket under a waiting task.
        async with conn.lock:
            return await _run(conn, sql, params, max_bytes)
    except psycopg.Error as error:
        # Without a severity the message is libpq's own, not PostgreSQL's about the statement.
        if error.diag.severity_nonlocalized != "ERROR":
            raise OutcomeUnknownError(str(error)) from error
        raise


async def _run(
    conn: Connection, sql: bytes, params: Sequence[bytes | None], max_bytes: int
) -> StatementResult:
    pgconn = conn.pgconn
    pgconn.send_query_params(sql, params)
    pgconn.set_chunked_rows_mode(_ROWS_PER_PORTION)
    await _wait(pgconn, generators.send(pgconn))

    size = 0
    rows: list[tuple[str | None, ...]] = []
    tag = b""
    failure: PGresult | None = None
    description: tuple[Field, ...] = ()
    answered = too_large = copy_refused = False
    while (result := await _wait(pgconn, generators.fetch(pgconn))) is not None:
        answered = True
        tag = result.command_status or tag
        if result.status == pq.ExecStatus.FATAL_ERROR:
            failure = result
        elif result.status in _COPY_STATES:
            copy_refused = True
            await _leave_copy(conn, result.status)
        elif result.nfields and not too_large:
            description = description or _describe(result)
            portion = _load(conn, result)
            size += sum([len(cell) for row in portion for cell in row if cell is not None])
            rows += portion
            if size > max_bytes:
                too_large = True
                rows.clear()
                await ask_to_cancel(conn)
    if copy_refused:
        raise CopyRefusedError
    if too_large:
        raise ResultTooLargeError(max_bytes, executed=failure is None)
    if failure is not None:
        raise psycopg.errors.error_from_result(failure)
    if not answered:
        raise psycopg.OperationalError("the server closed the connection without an answer")
    return StatementResult(description, rows, tag.decode())


async def ask_to_cancel(conn: Connection) -> None:
    """Send a cancel request on a connection of its own; whether it helps shows in the result."""
    with contextlib.suppress(psycopg.Error, OSError):
        await conn.cancel_safe(timeout=CANCEL_TIMEOUT)


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
        Field(
            name=(result.fname(column) or b"").decode(errors="replace"),
            type_oid=result.ftype(column),
            table_oid=result.ftable(column),
            column_number=result.ftablecol(column),
            type_size=result.fsize(column),
            type_modifier=result.fmod(column),
        )
        for column in range(result.nfields)
    )


def _load(conn: Connection, result: PGresult) -> list[tuple[str | None, ...]]:
    """The rows of one portion as text, whatever their types."""
    loader = Transformer(conn)
    loader.set_pgresult(result)
    loader.set_loader_types([_TEXT] * result.nfields, pq.Format.TEXT)
    return loader.load_rows(0, result.ntuples, tuple)


async def _leave_copy(conn: Connection, status: int) -> None:
    """End a COPY the statement has begun, so that the connection stays usable."""
    pgconn = conn.pgconn
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        if status == pq.ExecStatus.COPY_IN:
            await _wait(pgconn, generators.copy_end(pgconn, b"COPY is not possible over HTTP"))
            return
        await ask_to_cancel(conn)
        while isinstance(await _wait(pgconn, generators.copy_from(pgconn)), memoryview):
            pass
