"""A request's statements on its connection: one by itself, or some as one transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg

from poolkeeper.server.execute import (
    NothingSentError,
    OutcomeUnknownError,
    ResultTooLargeError,
    run_statement,
)
from poolkeeper.server.interrupt import DeadlineExceededError, interruptible
from poolkeeper.server.neon.transaction_control import commits_inside
from poolkeeper.server.status import TransactionLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from poolkeeper.server.engine import Engine, Visit
    from poolkeeper.server.execute import Connection
    from poolkeeper.server.neon.request import Query
    from poolkeeper.server.neon.response import StatementResult

TAKE_SNAPSHOT = b"select"
"""After a statement like this no other can turn a read-only transaction into a writing one."""


def begin_statement(
    isolation_level: str | None = None, *, read_only: bool = False, deferrable: bool = False
) -> bytes:
    """BEGIN with what the transaction is to be; ``isolation_level`` in PostgreSQL's words."""
    words = ["BEGIN"]
    if isolation_level is not None:
        words.append(f"ISOLATION LEVEL {isolation_level}")
    if read_only:
        words.append("READ ONLY")
    if deferrable:
        words.append("DEFERRABLE")
    return " ".join(words).encode()


def run_alone(
    engine: Engine, visit: Visit, query: Query, *, max_bytes: int
) -> Awaitable[StatementResult]:
    """One statement outside of any transaction: nearly all requests, so the shortest way.

    Raises:
        Exception: As `run_statement` and `interruptible` raise.
    """
    work = engine.borrow(
        visit,
        lambda conn: interruptible(
            conn,
            run_statement(conn, query.sql, query.params, max_bytes=max_bytes, final=True),
            deadline=visit.deadline,
            leaving=visit.leaving,
            timers=engine.timers,
        ),
    )
    sql = query.sql
    # Nearly all statements are told by their first letters.
    if sql[:1].isalpha() and sql[:2].lower() not in {b"ca", b"do"}:
        return work
    return _in_pieces(work) if commits_inside(sql.decode()) else work


async def _in_pieces(work: Awaitable[StatementResult]) -> StatementResult:
    """Mark the failures of what may have committed before it failed, for the one who tells them."""
    try:
        return await work
    except (psycopg.Error, DeadlineExceededError, ResultTooLargeError) as error:
        error.in_pieces = True  # type: ignore[union-attr]
        raise


class Work:
    """Runs a transaction once and knows, if the connection is lost, what became of it.

    Args:
        conn: What it runs on.
        queries: Its statements.
        begin: What begins it.
        only_reading: No statement may make the transaction a writing one.
        max_bytes: Most that their results may have together.
    """

    def __init__(
        self,
        conn: Connection,
        queries: Sequence[Query],
        *,
        begin: bytes,
        only_reading: bool = False,
        max_bytes: int,
    ) -> None:
        self._conn = conn
        self._queries = queries
        self._begin = begin
        self._only_reading = only_reading
        self._bytes_left = max_bytes
        self._transaction_open = False
        self._commit_sent = False

    async def run(self, leaving: asyncio.Future[None], deadline: float) -> list[StatementResult]:
        """Run everything, within the deadline and while the client is there.

        Raises:
            TransactionLostError: The connection was lost before COMMIT was sent: rolled back.
            NothingSentError: It was dead before anything was sent.
            Exception: As `run_statement` and `interruptible` raise. An error in a batch leaves its
                transaction open, for the pool to roll back when the connection is returned.
        """
        statements = self._batch(leaving, deadline)
        try:
            return await interruptible(self._conn, statements, deadline=deadline, leaving=leaving)
        except (NothingSentError, OutcomeUnknownError) as error:
            nothing_sent = isinstance(error, NothingSentError) and not self._transaction_open
            if nothing_sent or self._commit_sent:
                raise
            # An answer to BEGIN that never came changes nothing either.
            raise TransactionLostError(str(error)) from error

    async def _batch(self, leaving: asyncio.Future[None], deadline: float) -> list[StatementResult]:
        results: list[StatementResult] = []
        if not self._queries:
            return results
        await self._statement(self._begin)
        self._transaction_open = True
        if self._only_reading:
            await self._statement(TAKE_SNAPSHOT)
        loop = asyncio.get_running_loop()
        for query in self._queries:
            results.append(await self._statement(query.sql, query.params))
            # The cancel request may have come between two statements, where it has no effect.
            if leaving.done() or loop.time() >= deadline:
                raise DeadlineExceededError
        self._commit_sent = True
        await self._statement(b"COMMIT", final=True)
        return results

    async def _statement(
        self, sql: bytes, params: tuple[bytes | None, ...] = (), *, final: bool = False
    ) -> StatementResult:
        try:
            result = await run_statement(
                self._conn, sql, params, max_bytes=self._bytes_left, final=final
            )
        except ResultTooLargeError as error:
            if self._transaction_open:
                # Whatever the statement did is rolled back.
                raise ResultTooLargeError(error.limit, executed=False) from error
            raise
        self._bytes_left -= result.size
        return result
