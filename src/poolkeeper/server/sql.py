"""``POST /sql``: Neon's SQL-over-HTTP protocol."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from starlette.responses import Response

from poolkeeper.server.answers import neon_answer
from poolkeeper.server.execute import ResultTooLargeError
from poolkeeper.server.neon.request import parse_request, refuse_lone_control
from poolkeeper.server.neon.response import encode_batch, encode_result, is_large
from poolkeeper.server.work import Work, begin_statement, run_alone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from poolkeeper.server.answers import Answer, Situation
    from poolkeeper.server.engine import Engine, Visit
    from poolkeeper.server.execute import Connection
    from poolkeeper.server.neon.request import SqlRequest
    from poolkeeper.server.neon.response import StatementResult

# In force unless the header says otherwise: a wrong isolation level was refused.
_ECHOED = ("neon-batch-isolation-level", "neon-batch-read-only", "neon-batch-deferrable")

PREFLIGHT: Mapping[str, str] = {
    "Allow": "OPTIONS, POST",
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "Authorization, Neon-Connection-String, "
    "Neon-Raw-Text-Output, Neon-Array-Mode, Neon-Pool-Opt-In, Neon-Batch-Read-Only, "
    "Neon-Batch-Isolation-Level, Neon-Batch-Deferrable",
    "Access-Control-Max-Age": "86400",
}
"""What ``OPTIONS /sql`` tells; which origins may use it is said by `cors` alone."""


class SqlEndpoint:
    """The ASGI application at ``/sql``, and its dialect."""

    route = "/sql"
    error_type = b"application/json"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._infra_status = engine.settings.neon_infra_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a statement or a batch."""
        await self._engine.serve(scope, receive, send, self)

    def parse(self, visit: Visit, body: bytes) -> SqlJob:
        """See ``Dialect``."""
        request = parse_request(body, visit.headers)
        visit.declared_read_only = request.read_only
        if not request.is_batch:
            refuse_lone_control(request.queries[0])
        return SqlJob(request)

    def failure(self, what: Situation) -> Answer:
        """See ``Dialect``."""
        return neon_answer(what, infra_status=self._infra_status)


class SqlJob:
    """A request of Neon's protocol."""

    __slots__ = ("_request",)

    def __init__(self, request: SqlRequest) -> None:
        self._request = request

    @property
    def statement(self) -> str:
        """See ``Job``."""
        queries = self._request.queries
        return queries[0].sql.decode() if queries else ""

    async def run(self, engine: Engine, visit: Visit) -> bytes:
        """See ``Job``."""
        request = self._request
        max_bytes = engine.settings.max_response_bytes
        if request.is_batch or visit.read_only:
            results = await self._run_transaction(engine, visit)
        else:
            results = [await run_alone(engine, visit, request.queries[0], max_bytes=max_bytes)]
        started = time.perf_counter()
        if is_large(results):
            body = await asyncio.to_thread(self._encode, results)
        else:
            body = self._encode(results)
        visit.context.timing["serialize"] = time.perf_counter() - started
        if len(body) > max_bytes:
            raise ResultTooLargeError(max_bytes, executed=True)
        if request.is_batch:
            self._echo(visit)
        return body

    async def _run_transaction(self, engine: Engine, visit: Visit) -> list[StatementResult]:
        request = self._request
        begin = begin_statement(
            request.isolation_level,
            read_only=request.read_only or visit.read_only,
            deferrable=request.deferrable,
        )

        def use(conn: Connection) -> Awaitable[list[StatementResult]]:
            work = Work(
                conn,
                request.queries,
                begin=begin,
                only_reading=visit.read_only and request.is_batch,
                max_bytes=engine.settings.max_response_bytes,
            )
            return work.run(visit.leaving, visit.deadline)

        return await engine.borrow(visit, use)

    def _encode(self, results: list[StatementResult]) -> bytes:
        request = self._request
        parts = [
            encode_result(result, raw_text=request.raw_text, array_mode=query.array_mode)
            for query, result in zip(request.queries, results, strict=True)
        ]
        return (encode_batch(parts) if request.is_batch else parts[0]).encode()

    def _echo(self, visit: Visit) -> None:
        """Confirm to the client of a batch what was in force."""
        for name in _ECHOED:
            value = visit.headers.get(name)
            if value is not None and value != "false":
                visit.response_headers.append((name.encode(), value.encode("latin-1")))


async def preflight(_request: Request) -> Response:
    """``OPTIONS /sql``."""
    return Response(headers=PREFLIGHT)
