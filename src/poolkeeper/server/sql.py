"""``POST /sql``: from the request to the answer, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random
from typing import TYPE_CHECKING

import psycopg
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from poolkeeper.exceptions import PoolClosedError
from poolkeeper.server.context import context_of
from poolkeeper.server.execute import (
    Connection,
    NothingSentError,
    ResultTooLargeError,
)
from poolkeeper.server.interrupt import DeadlineExceededError
from poolkeeper.server.neon.request import parse_request
from poolkeeper.server.neon.response import encode_batch, encode_result
from poolkeeper.server.problem import problem_response
from poolkeeper.server.status import (
    BodyTimeoutError,
    BodyTooLargeError,
    ShutDownError,
    StartingError,
    answer,
)
from poolkeeper.server.work import Work

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.server.neon.request import SqlRequest
    from poolkeeper.server.neon.response import StatementResult
    from poolkeeper.server.parts import Parts

_log = logging.getLogger("poolkeeper.server")

# nginx's number for a client that left before the answer; nobody receives it, the log shows it.
CLIENT_CLOSED_REQUEST = 499

CORS = {
    "Allow": "OPTIONS, POST",
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "Authorization, Neon-Connection-String, "
    "Neon-Raw-Text-Output, Neon-Array-Mode, Neon-Pool-Opt-In, Neon-Batch-Read-Only, "
    "Neon-Batch-Isolation-Level, Neon-Batch-Deferrable",
    "Access-Control-Max-Age": "86400",
}


class ClientGoneError(Exception):
    """The client closed its connection while its request was being worked on."""


class SqlEndpoint:
    """Runs what clients send, one pooled connection per request."""

    def __init__(self, parts: Parts) -> None:
        self._pool = parts.pool
        self._settings = parts.settings
        self._access = parts.access
        self._metrics = parts.metrics
        # Spreads clients that come back; not a secret.
        self._random = Random()  # noqa: S311

    async def options(self, request: Request) -> Response:
        """Answer a browser that asks before it sends."""
        return Response(headers={**CORS, **self._access.cors_headers(request.headers)})

    async def post(self, request: Request) -> Response:
        """Run a statement or a batch; failures are answered by the table in `status`."""
        request_id = context_of(request.scope).request_id
        headers = self._access.cors_headers(request.headers)
        timing: dict[str, float] = {}
        deadline = asyncio.get_running_loop().time() + self._settings.request_timeout
        try:
            self._access.check(request.headers)
            body = await self._body(request, deadline)
            sql_request = parse_request(body, request.headers)
            text = await self._serve(request, sql_request, deadline, timing)
        except ClientGoneError:
            self._metrics.cancelled.labels("client_gone").inc()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception as error:  # noqa: BLE001 - every failure of a request is answered here
            failure = answer(error, request_id=request_id, random=self._random)
            if failure.status >= 500:
                _log_failure(error, failure.kind, request_id)
            return problem_response(failure, headers)
        headers["Server-Timing"] = ", ".join(
            f"{name};dur={seconds * 1000:.2f}" for name, seconds in timing.items()
        )
        return Response(text, media_type="application/json", headers=headers)

    async def _body(self, request: Request, deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                return await _read_body(request, self._settings.max_request_bytes)
        except TimeoutError as error:
            raise BodyTimeoutError(self._settings.request_timeout) from error

    async def _serve(
        self,
        request: Request,
        sql_request: SqlRequest,
        deadline: float,
        timing: dict[str, float],
    ) -> bytes:
        leaving = asyncio.ensure_future(_client_left(request))
        try:
            try:
                return await self._attempt(sql_request, leaving, deadline, timing)
            except NothingSentError:
                # The connection had died in the pool unnoticed; the next one is a fresh start.
                return await self._attempt(sql_request, leaving, deadline, timing)
        except DeadlineExceededError as error:
            if leaving.done():
                raise ClientGoneError from error
            self._metrics.cancelled.labels("deadline").inc()
            raise DeadlineExceededError(
                f"The request took longer than {self._settings.request_timeout:g} s and was "
                "cancelled"
            ) from error
        except PoolClosedError as error:
            if not self._pool.is_closing():
                raise StartingError from error
            raise
        except psycopg.errors.QueryCanceled as error:
            if self._pool.is_closing():
                raise ShutDownError from error
            raise
        finally:
            leaving.cancel()

    async def _attempt(
        self,
        sql_request: SqlRequest,
        leaving: asyncio.Future[None],
        deadline: float,
        timing: dict[str, float],
    ) -> bytes:
        started = time.perf_counter()
        conn = await self._acquire(leaving, deadline)
        acquired = time.perf_counter()
        timing["queue"] = timing.get("queue", 0.0) + acquired - started
        try:
            work = Work(conn, sql_request, max_bytes=self._settings.max_response_bytes)
            results = await work.run(leaving, deadline)
        finally:
            timing["db"] = timing.get("db", 0.0) + time.perf_counter() - acquired
            await self._pool.release(conn)
        if leaving.done():
            raise ClientGoneError
        return self._encode(sql_request, results)

    async def _acquire(self, leaving: asyncio.Future[None], deadline: float) -> Connection:
        """Wait for a connection for as long as the client does."""
        left = deadline - asyncio.get_running_loop().time()
        patience = min(self._pool.config.timeout, max(0.001, left))
        task = asyncio.current_task()
        assert task is not None
        waiting = True

        def give_up(_leaving: object) -> None:
            if waiting:
                task.cancel()

        leaving.add_done_callback(give_up)
        try:
            conn: Connection = await self._pool.acquire(timeout=patience)
        except asyncio.CancelledError as cancelled:
            if leaving.done() and task.uncancel() == 0:
                raise ClientGoneError from cancelled
            raise
        finally:
            waiting = False
            leaving.remove_done_callback(give_up)
        return conn

    def _encode(self, sql_request: SqlRequest, results: list[StatementResult]) -> bytes:
        parts = [
            encode_result(result, raw_text=sql_request.raw_text, array_mode=query.array_mode)
            for query, result in zip(sql_request.queries, results, strict=True)
        ]
        body = (encode_batch(parts) if sql_request.is_batch else parts[0]).encode()
        if len(body) > self._settings.max_response_bytes:
            raise ResultTooLargeError(self._settings.max_response_bytes, executed=True)
        return body


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be too long."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLargeError(limit)
    chunks = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise BodyTooLargeError(limit)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise ClientGoneError from error
    return b"".join(chunks)


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _log_failure(error: Exception, kind: str, request_id: str) -> None:
    """Our own bugs with their traceback; the world's misfortunes in one line."""
    facts = {"kind": kind, "request_id": request_id}
    if kind == "internal-error":
        _log.error("request_failed", exc_info=error, extra=facts)
    else:
        _log.warning("request_failed", extra={**facts, "error": " ".join(str(error).split())})
