"""Results of any size as lines of JSON, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import psycopg
from psycopg import generators, pq

from poolkeeper.drivers.base import session_of
from poolkeeper.server.api.response import (
    NDJSON,
    command,
    encode_columns,
    row_count,
    row_encoder,
)
from poolkeeper.server.execute import (
    CopyRefusedError,
    NothingSentError,
    OutcomeUnknownError,
    run_statement,
)
from poolkeeper.server.interrupt import DeadlineExceededError, interruptible
from poolkeeper.server.neon.response import Field
from poolkeeper.server.status import TransactionLostError
from poolkeeper.server.work import begin_statement

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

    from poolkeeper.server.engine import Engine, Visit
    from poolkeeper.server.execute import Connection
    from poolkeeper.server.neon.request import Query

# Lines are sent together up to this size, unless the database keeps us waiting.
_FLUSH_BYTES = 32 * 1024
# What is handed over to be sent is copied and kept until it is: of a long line, this much at once.
_PIECE = 64 * 1024
# The OID of type text: its loader takes any cell as it is.
_TEXT = 25
_COPY_STATES = frozenset({pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH})
_SMALL = 1024


class StreamJob:
    """One statement in a transaction of its own, its rows sent as they come.

    A client that reads slowly slows the database down; one that stops reading is cut off at the
    deadline of its request.
    """

    def __init__(self, query: Query, *, readonly: bool) -> None:
        self._query = query
        self._begin = begin_statement(read_only=readonly)
        self._begun = self._commit_sent = False

    @property
    def statement(self) -> str:
        """See ``Job``."""
        return self._query.sql.decode()

    async def run(self, engine: Engine, visit: Visit) -> None:
        """See ``Job``. Failures before the first line have a status, later ones a line."""

        async def use(conn: Connection) -> bytes:
            copying = self._copy(conn, engine, visit)
            return await interruptible(
                conn, copying, deadline=visit.deadline, leaving=visit.leaving
            )

        last = await engine.borrow(visit, use)
        engine.note_end(visit, 200, None)
        await visit.send({"type": "http.response.body", "body": last})

    async def _copy(self, conn: Connection, engine: Engine, visit: Visit) -> bytes:
        try:
            await run_statement(conn, self._begin, (), max_bytes=_SMALL)
            self._begun = True
            tag = await self._rows(conn, engine, visit)
            self._commit_sent = True
            await run_statement(conn, b"COMMIT", (), max_bytes=_SMALL)
        except (NothingSentError, OutcomeUnknownError) as error:
            if self._commit_sent and isinstance(error, OutcomeUnknownError):
                raise
            if isinstance(error, NothingSentError) and not self._begun:
                raise
            raise TransactionLostError(str(error)) from error
        count = row_count(tag)
        return (
            f'{{"end":{{"row_count":{"null" if count is None else count},'
            f'"command":"{command(tag)}"}}}}\n'
        ).encode()

    async def _rows(self, conn: Connection, engine: Engine, visit: Visit) -> str:
        # The time limit of the request holds, not that of statements whose results are small.
        # This also takes a snapshot, after which a read-only transaction stays one.
        limit = b"select set_config('statement_timeout', $1, true)"
        milliseconds = b"%d" % round(visit.left() * 1000 + 1000)
        await run_statement(conn, limit, (milliseconds,), max_bytes=_SMALL)
        lines = Lines(engine, visit)
        tag = b""
        load: Callable[[PGresult], tuple[str | None, ...]] | None = None
        async with contextlib.aclosing(_results(conn, self._query)) as results:
            async for result in results:
                tag = result.command_status or tag
                if not visit.started:
                    await lines.begin(_describe(result), arrays=self._query.array_mode)
                if result.ntuples and not lines.unwanted:
                    if load is None:
                        load = _loader(conn, result)
                    lines.add([load(result)])
                del result
                if lines.size >= _FLUSH_BYTES or (lines.size and conn.pgconn.is_busy()):
                    await lines.flush()
        await lines.flush()
        if lines.unwanted:
            raise DeadlineExceededError
        return tag.decode()


class Lines:
    """Lines on their way to one client.

    Attributes:
        size: Bytes that wait to be sent.
        unwanted: The client is gone or did not read in time, and the statement is being cancelled;
            what still comes of it is thrown away, so that its connection can be used again.
    """

    def __init__(self, engine: Engine, visit: Visit) -> None:
        self._engine = engine
        self._visit = visit
        self._waiting: list[bytes] = []
        self.size = 0
        self.unwanted = False

    async def begin(self, fields: tuple[Field, ...], *, arrays: bool) -> None:
        """Send the columns; from now on the status is 200."""
        self._encode = row_encoder(fields, arrays=arrays)
        await self._engine.start_reply(self._visit, 200, NDJSON)
        self._put(f'{{"columns":{encode_columns(fields)}}}\n'.encode())

    def add(self, rows: list[tuple[str | None, ...]]) -> None:
        """Take rows over; they are sent by `flush`."""
        encode = self._encode
        lines = [f'{{"row":{encode(row)}}}' for row in rows]
        # Between the tokens of a JSON document PostgreSQL keeps line ends; anywhere else they are
        # escaped by now. One of them would end the line, and what follows be taken for another.
        text = "\0".join(lines).replace("\n", " ").replace("\r", " ").replace("\0", "\n")
        self._put(f"{text}\n".encode())

    def _put(self, lines: bytes) -> None:
        self._waiting.append(lines)
        self.size += len(lines)

    async def flush(self) -> None:
        """Send what is waiting, at the client's pace."""
        body = b"".join(self._waiting)
        self._waiting.clear()
        self.size = 0
        for start in range(0, len(body), _PIECE):
            if self.unwanted or self._visit.leaving.done():
                break
            piece = body[start : start + _PIECE]
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            try:
                async with asyncio.timeout_at(self._visit.deadline):
                    await self._visit.send(message)
            except TimeoutError:
                self.unwanted = True
        if self._visit.leaving.done():
            self.unwanted = True


async def _results(conn: Connection, query: Query) -> AsyncGenerator[PGresult]:
    """What the statement returns, a row at a time: rows can be long.

    Raises:
        OutcomeUnknownError: The connection was lost.
        psycopg.Error: What PostgreSQL said about the statement.
    """
    pgconn = conn.pgconn
    try:
        async with conn.lock:
            pgconn.send_query_params(query.sql, query.params)
            pgconn.set_single_row_mode()
            await conn.wait(generators.send(pgconn))
            answered = False
            while (result := await _next(conn, pgconn)) is not None:
                answered = True
                if result.status in _COPY_STATES:
                    session_of(conn).abort()
                    raise CopyRefusedError
                yield result
                del result
            if not answered:
                raise psycopg.OperationalError("the server closed the connection")
    except psycopg.Error as error:
        # Without a severity the message is libpq's own, not PostgreSQL's about the statement.
        if error.diag.severity_nonlocalized != "ERROR":
            raise OutcomeUnknownError(str(error)) from error
        raise


async def _next(conn: Connection, pgconn: PGconn) -> PGresult | None:
    """The next row, without a wait if it is there."""
    result = await conn.wait(generators.fetch(pgconn)) if pgconn.is_busy() else pgconn.get_result()
    if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
        await conn.wait(_fail(result))
    return result


def _fail(result: PGresult) -> PQGen[None]:
    """Raise an error where the connection learns of it."""
    yield from ()
    raise psycopg.errors.error_from_result(result)


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


def _loader(conn: Connection, result: PGresult) -> Callable[[PGresult], tuple[str | None, ...]]:
    """A function that takes the row of a result like this one as text, whatever its types."""
    loader = psycopg.adapt.Transformer(conn)
    loader.set_pgresult(result)
    loader.set_loader_types([_TEXT] * result.nfields, pq.Format.TEXT)

    def load(result: PGresult) -> tuple[str | None, ...]:
        loader.set_pgresult(result, set_loaders=False)
        row: tuple[str | None, ...] = loader.load_rows(0, 1, tuple)[0]
        # The row would stay in memory until the next one is there.
        loader.set_pgresult(None, set_loaders=False)
        return row

    return load
