"""What the native API does: a statement, a transaction that happens once, a question about one."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING

import psycopg

from poolkeeper.drivers.base import session_of
from poolkeeper.exceptions import TransactionAlreadyCommittedError
from poolkeeper.server.api.response import (
    NO_RESULT,
    encode_query,
    encode_result,
    encode_transaction,
)
from poolkeeper.server.departure import ClientGoneError, WhileWanted
from poolkeeper.server.execute import (
    NothingSentError,
    OutcomeUnknownError,
    ResultTooLargeError,
    run_statement,
)
from poolkeeper.server.interrupt import interruptible
from poolkeeper.server.neon.response import is_large
from poolkeeper.server.status import RequestInFlightError
from poolkeeper.server.work import TAKE_SNAPSHOT, Work, begin_statement, run_alone
from poolkeeper.transactions.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from uuid import UUID

    from poolkeeper.server.api.request import TransactionRequest
    from poolkeeper.server.engine import Engine, Visit
    from poolkeeper.server.execute import Connection
    from poolkeeper.server.neon.request import Query
    from poolkeeper.server.neon.response import StatementResult

# What is kept of the time for a statement that has to be cancelled, so that its end is told by us.
_MARGIN = 0.25


class QueryJob:
    """One statement by itself."""

    def __init__(self, query: Query, *, readonly: bool) -> None:
        self._query = query
        self._begin = begin_statement(read_only=True) if readonly else None

    @property
    def statement(self) -> str:
        """See ``Job``."""
        return self._query.sql.decode()

    async def run(self, engine: Engine, visit: Visit) -> bytes:
        """See ``Job``."""
        query = self._query
        max_bytes = engine.settings.max_response_bytes
        if self._begin is None:
            result = await run_alone(engine, visit, query, max_bytes=max_bytes)
        else:
            result = await self._run_transaction(engine, visit, self._begin)
        started = time.perf_counter()
        encode = functools.partial(encode_result, result, arrays=query.array_mode)
        text = await asyncio.to_thread(encode) if is_large([result]) else encode()
        body = encode_query(text, None)
        visit.context.timing["serialize"] = time.perf_counter() - started
        if len(body) > max_bytes:
            raise ResultTooLargeError(max_bytes, executed=self._begin is None)
        return body

    async def _run_transaction(self, engine: Engine, visit: Visit, begin: bytes) -> StatementResult:
        def use(conn: Connection) -> Awaitable[list[StatementResult]]:
            max_bytes = engine.settings.max_response_bytes
            work = Work(conn, (self._query,), begin=begin, max_bytes=max_bytes)
            return work.run(visit.leaving, visit.deadline)

        [result] = await engine.borrow(visit, use)
        return result


class KeyedJob:
    """Statements that take effect together and once, whatever happens to the connection.

    Args:
        request: The statements.
        key: The id the client gave; None: a new one, which the answer names.
        is_query: It came as a single query, and is answered as one.
    """

    def __init__(
        self, request: TransactionRequest, key: UUID | None, *, is_query: bool = False
    ) -> None:
        self._request = request
        self._key = key
        self._is_query = is_query

    @property
    def statement(self) -> str:
        """See ``Job``."""
        queries = self._request.queries
        return queries[0].sql.decode() if queries else ""

    async def run(self, engine: Engine, visit: Visit) -> bytes:
        """See ``Job``.

        Raises:
            RequestInFlightError: This server works on another request with the key.
        """
        key = self._key
        if key is None:
            return await self._run(engine, visit, None)
        if key in engine.in_flight:
            raise RequestInFlightError(f"Another request for the transaction {key} is at work")
        engine.in_flight.add(key)
        try:
            return await self._run(engine, visit, key)
        finally:
            engine.in_flight.discard(key)

    async def _run(self, engine: Engine, visit: Visit, key: UUID | None) -> bytes:
        request = self._request
        readonly = request.readonly or visit.read_only
        name = key or (None if readonly else new_id())
        started = time.perf_counter()
        attempts = None
        replayed = False
        try:
            async with engine.turn(visit):
                with WhileWanted(visit.leaving) as wanted:
                    attempts = _Attempts(self._request, engine, visit, wanted, started)
                    results: list[str] = await engine.pool.run_transaction(
                        attempts,
                        id=name,
                        isolation=request.isolation and request.isolation.replace(" ", "_"),
                        readonly=readonly,
                        deferrable=request.deferrable,
                        timeout=visit.left(),
                    )
        except TransactionAlreadyCommittedError:
            replayed = True
            visit.response_headers.append((b"idempotent-replayed", b"true"))
            if self._is_query:
                return encode_query(NO_RESULT, name)
            return encode_transaction(None, name)
        finally:
            timing = visit.context.timing
            timing["db"] = time.perf_counter() - started - timing.get("queue", 0.0)
            # Whoever had no connection gave none back, and must not make the queue look fast.
            if replayed or (attempts is not None and attempts.begun):
                engine.pace.released()
        if self._is_query:
            return encode_query(results[0], name)
        return encode_transaction(results, name)


class _Attempts:
    """The body of a transaction, which may have to be run several times."""

    def __init__(
        self,
        request: TransactionRequest,
        engine: Engine,
        visit: Visit,
        wanted: WhileWanted,
        started: float,
    ) -> None:
        self._request = request
        self._engine = engine
        self._visit = visit
        self._wanted = wanted
        self._started = started
        self.begun = False

    async def __call__(self, conn: Connection) -> list[str]:
        """Run the statements; results as JSON, so that one too large is rolled back.

        Raises:
            psycopg.OperationalError: The connection was lost.
        """
        self.begun = True
        visit = self._visit
        if visit.leaving.done():
            raise ClientGoneError
        # A client that leaves now is noticed below, and must not interrupt a COMMIT.
        self._wanted.hold()
        visit.context.timing.setdefault("queue", time.perf_counter() - self._started)
        if visit.running is not None:
            visit.running.got(conn.info.backend_pid)
        try:
            results = await interruptible(
                conn,
                self._statements(conn),
                deadline=visit.deadline - min(_MARGIN, visit.left() / 4),
                leaving=visit.leaving,
            )
        except (NothingSentError, OutcomeUnknownError) as error:
            if visit.leaving.done():
                raise ClientGoneError from error
            session_of(conn).abort()
            raise psycopg.OperationalError(str(error)) from error
        if visit.leaving.done():
            raise ClientGoneError
        return results

    async def _statements(self, conn: Connection) -> list[str]:
        limit = self._engine.settings.max_response_bytes
        left = limit
        if self._visit.read_only:
            await run_statement(conn, TAKE_SNAPSHOT, (), max_bytes=limit)
        results = []
        for query in self._request.queries:
            try:
                result = await run_statement(conn, query.sql, query.params, max_bytes=left)
            except ResultTooLargeError as error:
                raise ResultTooLargeError(limit, executed=False) from error
            text = encode_result(result, arrays=query.array_mode)
            left -= len(text)
            if left < 0:
                raise ResultTooLargeError(limit, executed=False)
            results.append(text)
        return results


class OutcomeJob:
    """What became of a transaction; asking makes it final."""

    def __init__(self, transaction: UUID) -> None:
        self._transaction = transaction

    @property
    def statement(self) -> str:
        """See ``Job``."""
        return f"-- outcome of {self._transaction}"

    async def run(self, engine: Engine, visit: Visit) -> bytes:
        """See ``Job``."""
        async with engine.turn(visit):
            with WhileWanted(visit.leaving):
                outcome = await engine.pool.transaction_outcome(
                    self._transaction, timeout=visit.left()
                )
        visit.response_headers.append((b"cache-control", b"no-store"))
        return f'{{"transaction_id":"{self._transaction}","outcome":"{outcome.value}"}}'.encode()
