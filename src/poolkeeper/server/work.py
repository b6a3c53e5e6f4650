"""A request's statements on its connection: one by itself, or several as one transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from poolkeeper.server.execute import (
    NothingSentError,
    OutcomeUnknownError,
    run_statement,
)
from poolkeeper.server.interrupt import DeadlineExceededError, interruptible
from poolkeeper.server.status import TransactionLostError

if TYPE_CHECKING:
    from poolkeeper.server.execute import Connection
    from poolkeeper.server.neon.request import SqlRequest
    from poolkeeper.server.neon.response import StatementResult


class Work:
    """Runs the statements once and knows, if the connection is lost, what became of them."""

    def __init__(self, conn: Connection, request: SqlRequest, *, max_bytes: int) -> None:
        self._conn = conn
        self._request = request
        self._bytes_left = max_bytes
        self._transaction_open = False
        self._commit_sent = False

    async def run(self, leaving: asyncio.Future[None], deadline: float) -> list[StatementResult]:
        """Run everything, within the deadline and while the client is there.

        Raises:
            TransactionLostError: The connection was lost before COMMIT was sent: rolled back.
            Exception: As `run_statement` and `interruptible` raise. An error in a batch leaves its
                transaction open, for the pool to roll back when the connection is returned.
        """
        statements = self._batch(leaving, deadline) if self._request.is_batch else self._single()
        try:
            return await interruptible(self._conn, statements, deadline=deadline, leaving=leaving)
        except (NothingSentError, OutcomeUnknownError) as error:
            if self._transaction_open and not self._commit_sent:
                raise TransactionLostError(str(error)) from error
            raise

    async def _single(self) -> list[StatementResult]:
        query = self._request.queries[0]
        return [await self._statement(query.sql, query.params)]

    async def _batch(self, leaving: asyncio.Future[None], deadline: float) -> list[StatementResult]:
        results: list[StatementResult] = []
        if not self._request.queries:
            return results
        await self._statement(self._begin())
        self._transaction_open = True
        loop = asyncio.get_running_loop()
        for query in self._request.queries:
            results.append(await self._statement(query.sql, query.params))
            # The cancel request may have come between two statements, where it has no effect.
            if leaving.done() or loop.time() >= deadline:
                raise DeadlineExceededError
        self._commit_sent = True
        await self._statement(b"COMMIT")
        return results

    async def _statement(
        self, sql: bytes, params: tuple[bytes | None, ...] = ()
    ) -> StatementResult:
        result = await run_statement(self._conn, sql, params, max_bytes=self._bytes_left)
        self._bytes_left -= sum(len(cell) for row in result.rows for cell in row if cell)
        return result

    def _begin(self) -> bytes:
        request = self._request
        words = ["BEGIN"]
        if request.isolation_level is not None:
            words.append(f"ISOLATION LEVEL {request.isolation_level}")
        if request.read_only:
            words.append("READ ONLY")
        if request.deferrable:
            words.append("DEFERRABLE")
        return " ".join(words).encode()
