"""From a request to its answer: who may, within which time, on which connection, what went wrong.

What is asked for and how the answer looks is a dialect's matter: ``/sql`` speaks Neon's, ``/v1``
our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeVar

import psycopg

from poolkeeper.drivers.psycopg_exchange import backend_pid, give_back, is_going_on
from poolkeeper.exceptions import PoolClosedError, PoolTimeoutError, TransactionTimeoutError
from poolkeeper.server.answers import situation
from poolkeeper.server.body import Bodies, Holding, read_body, time_limit
from poolkeeper.server.context import context_of
from poolkeeper.server.departure import ClientGoneError, Departure, WhileWanted
from poolkeeper.server.execute import NothingSentError
from poolkeeper.server.interrupt import DeadlineExceededError
from poolkeeper.server.pace import Pace
from poolkeeper.server.status import (
    PausedError,
    ReadOnlyDeclaredError,
    ReadOnlyRefusedError,
    ShutDownError,
    StartingError,
)
from poolkeeper.server.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from uuid import UUID

    from starlette.types import Receive, Scope, Send

    from poolkeeper.server.activity import Running
    from poolkeeper.server.answers import Answer, Situation
    from poolkeeper.server.context import RequestContext
    from poolkeeper.server.execute import Connection
    from poolkeeper.server.limits import Stay
    from poolkeeper.server.parts import Parts

T = TypeVar("T")

_log = logging.getLogger("poolkeeper.server")

# nginx's number for a client that left before the answer; nobody receives it, the log shows it.
CLIENT_CLOSED_REQUEST = 499

# Until what has arrived on sockets has been looked at: one turn finds it, the next one acts.
_TURNS = 3

# Reading more than this takes long enough for others to notice: it is done beside the event loop.
_LARGE_BODY = 256 * 1024

# How long the end of a stream that failed is offered to its reader.
_LAST_WORDS = 2.0

STATEMENT_SHOWN = 2000
"""How much of a statement is kept for people."""


@dataclass(slots=True, eq=False)
class Visit:
    """One request on its way.

    Attributes:
        headers: Of the request, names in lower case.
        context: What the log and the dashboard get to know.
        deadline: When it must be answered, in the event loop's time.
        seconds: What the deadline was made from.
        departure: Tells when the client leaves; there once the body is read.
        running: Its place among the requests at work; there once it is admitted.
        read_only: Whether it may only read, whatever it asks for.
        declared_read_only: Whether it said itself that it only reads.
        response_headers: For the answer, beside those every answer has.
        started: Whether the answer has begun, so that its status cannot change any more.
        stay: Its place among the requests of its token, where those are counted.
    """

    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[str, str]
    context: RequestContext
    deadline: float = 0.0
    seconds: float = 0.0
    departure: Departure | None = None
    running: Running | None = None
    read_only: bool = False
    declared_read_only: bool = False
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    started: bool = False
    stay: Stay | None = None

    @property
    def leaving(self) -> asyncio.Future[None]:
        """Done when the client is gone."""
        assert self.departure is not None
        return self.departure.future

    def left(self) -> float:
        """Seconds until the deadline; more than 0, so that it can be waited for."""
        return max(0.001, self.deadline - asyncio.get_running_loop().time())


class Job(Protocol):
    """What a request asks for, understood and not begun."""

    @property
    def statement(self) -> str:
        """The text of the first statement, for people."""
        ...

    async def run(self, engine: Engine, visit: Visit) -> bytes | None:
        """Do it; the body of the answer, or None if that was sent already."""
        ...


class Dialect(Protocol):
    """How requests of a path are read and failures told."""

    @property
    def route(self) -> str:
        """The path."""
        ...

    @property
    def error_type(self) -> bytes:
        """Content type of failures."""
        ...

    def parse(self, visit: Visit, body: bytes) -> Job:
        """Understand a request.

        Raises:
            BadRequestError: It cannot be understood.
        """
        ...

    def failure(self, what: Situation) -> Answer:
        """Put a failure into words."""
        ...


class Engine:
    """Works on requests, one pooled connection for each.

    Attributes:
        in_flight: Transactions with an idempotency key that are being worked on.
        timers: For what rarely happens to a request.
        bodies: Of the requests, as far as they are large.
    """

    def __init__(self, parts: Parts) -> None:
        self.pool = parts.pool
        self.settings = parts.settings
        self.metrics = parts.metrics
        self.activity = parts.activity
        self.pace = Pace()
        self.timers = Timers()
        self.bodies = Bodies()
        self.in_flight: set[UUID] = set()
        self._identity = parts.identity
        self._limits = parts.limits
        self._lifecycle = parts.lifecycle
        # Spreads clients that come back; not a secret.
        self._random = Random()  # noqa: S311

    async def serve(self, scope: Scope, receive: Receive, send: Send, dialect: Dialect) -> None:
        """Answer one request; failures by the table in `status`."""
        visit = Visit(scope, receive, send, headers_of(scope), context_of(scope))
        holding = Holding(self.bodies)
        try:
            self.admit(visit)
            asked = await self._body(visit, holding)
            if len(asked) > _LARGE_BODY:
                job = await asyncio.to_thread(dialect.parse, visit, asked)
            else:
                job = dialect.parse(visit, asked)
            visit.context.statement = job.statement[:STATEMENT_SHOWN]
            visit.departure = Departure(receive, self.timers)
            visit.running = self.activity.begin(visit.context, dialect.route)
            body = await self._run(job, visit)
        except ClientGoneError:
            self.metrics.cancelled.labels("client_gone").inc()
            self.note_end(visit, CLIENT_CLOSED_REQUEST, "the client left")
            if not visit.started:
                await self.reply(visit, CLIENT_CLOSED_REQUEST, b"", b"text/plain")
        except Exception as error:  # noqa: BLE001 - every failure of a request is answered here
            answer = self.judge(error, visit, dialect)
            self.note_end(visit, answer.status, answer.message)
            await self._refuse(visit, answer, dialect.error_type)
        else:
            if body is not None:
                self.note_end(visit, 200, None)
                await self.reply(visit, 200, body, b"application/json")
        finally:
            holding.end()
            if visit.departure is not None:
                visit.departure.end()
            if visit.stay is not None:
                visit.stay.end()

    def admit(self, visit: Visit) -> None:
        """Let a request in or raise: the one place where identity and limits are looked at."""
        token = self._identity.check(visit.headers)
        visit.context.token = token
        visit.stay = self._limits.admit(token)
        visit.read_only = self.settings.read_only or (token is not None and token.read_only)
        visit.seconds = time_limit(visit.headers, self.settings)
        visit.deadline = asyncio.get_running_loop().time() + visit.seconds

    async def _body(self, visit: Visit, holding: Holding) -> bytes:
        return await read_body(
            visit.receive,
            visit.headers,
            limit=self.settings.max_request_bytes,
            holding=holding,
            deadline=visit.deadline,
            seconds=visit.seconds,
            timers=self.timers,
        )

    async def _run(self, job: Job, visit: Visit) -> bytes | None:
        """Run a job, and say of its failures what only the server knows."""
        try:
            return await job.run(self, visit)
        except (DeadlineExceededError, TransactionTimeoutError) as error:
            if visit.leaving.done():
                raise ClientGoneError from error
            self.metrics.cancelled.labels("deadline").inc()
            raise DeadlineExceededError(
                f"The request took longer than {visit.seconds:g} s and was cancelled"
            ) from error
        except PoolClosedError as error:
            if not self.pool.is_closing():
                raise StartingError from error
            raise
        except PoolTimeoutError as error:
            if self._lifecycle.paused:
                raise PausedError(error.waited or 0.0) from error
            raise
        except psycopg.errors.QueryCanceled as error:
            if self.pool.is_closing():
                raise ShutDownError from error
            raise
        except psycopg.errors.ReadOnlySqlTransaction as error:
            said = error.diag.message_primary or str(error)
            if visit.read_only:
                raise ReadOnlyRefusedError(f"Only reading is allowed here: {said}") from error
            if visit.declared_read_only:
                raise ReadOnlyDeclaredError(said) from error
            raise

    # A connection -----------------------------------------------------------------------------

    async def borrow(self, visit: Visit, use: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``use`` on a pooled connection.

        A connection that proves to have died before anything was sent is replaced, once.
        """
        try:
            return await self._borrow(visit, use)
        except NothingSentError:
            # It had died in the pool unnoticed; the next one is a fresh start, once the event loop
            # has looked at the sockets of all others, which may have died with it.
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            return await self._borrow(visit, use)

    def turn(self, visit: Visit) -> AbstractAsyncContextManager[None]:
        """Whoever uses a connection does it within; see `Limits.turn`."""
        patience = min(self.pool.config.timeout, visit.left())
        return self._limits.turn(visit.context.token, patience, visit.leaving)

    def _borrow(self, visit: Visit, use: Callable[[Connection], Awaitable[T]]) -> Awaitable[T]:
        started = time.perf_counter()
        if visit.context.token is None:
            # Nobody to take turns with.
            return self._borrow_now(visit, use, started)
        return self._borrow_in_turn(visit, use, started)

    async def _borrow_in_turn(
        self, visit: Visit, use: Callable[[Connection], Awaitable[T]], started: float
    ) -> T:
        async with self.turn(visit):
            return await self._borrow_now(visit, use, started)

    async def _borrow_now(
        self, visit: Visit, use: Callable[[Connection], Awaitable[T]], started: float
    ) -> T:
        timing = visit.context.timing
        leaving = visit.leaving
        config = self.pool.config
        # For as long as the client waits.
        with WhileWanted(leaving):
            conn: Connection = await self.pool.acquire(timeout=min(config.timeout, visit.left()))
        acquired = time.perf_counter()
        timing["queue"] = timing.get("queue", 0.0) + acquired - started
        try:
            if visit.running is not None:
                visit.running.got(backend_pid(conn))
            result = await use(conn)
        finally:
            timing["db"] = timing.get("db", 0.0) + time.perf_counter() - acquired
            if is_going_on(conn):
                # It is being cleaned, and goes back by itself.
                give_back(conn, config.reset_timeout, self.timers)
            else:
                await self.pool.release(conn)
            self.pace.released()
        if leaving.done():
            raise ClientGoneError
        return result

    # An answer --------------------------------------------------------------------------------

    def judge(self, error: Exception, visit: Visit, dialect: Dialect) -> Answer:
        """Put a failure into the dialect's words, and into the log if it is not the client's."""
        context = visit.context
        what = situation(error, request_id=context.request_id, random=self._random, pace=self.pace)
        answer = dialect.failure(what)
        context.kind = answer.kind
        context.outcome = answer.outcome
        if what.rule.sql >= 500:
            if answer.kind != "internal-error" and self.settings.access_log:
                # The request's line in the access log says it.
                context.error = " ".join(str(error).split())
            else:
                _log_failure(error, answer.kind, context.request_id)
        return answer

    def note_end(self, visit: Visit, status: int, message: str | None) -> None:
        """Tell the dashboard: before the answer is sent, which may take a slow reader long."""
        running, visit.running = visit.running, None
        if running is None:
            # What was not let in is not worth a place there, mistakes of clients are.
            if visit.context.kind != "bad-request":
                return
            running = self.activity.begin(visit.context, visit.scope["path"])
        self.activity.end(running, status=status, message=message)

    async def reply(self, visit: Visit, status: int, body: bytes, content_type: bytes) -> None:
        """Send a whole answer."""
        visit.started = True
        headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            *visit.response_headers,
        ]
        await visit.send({"type": "http.response.start", "status": status, "headers": headers})
        await visit.send({"type": "http.response.body", "body": body})

    async def _refuse(self, visit: Visit, answer: Answer, content_type: bytes) -> None:
        body = _json(answer.body)
        if not visit.started:
            for name, value in answer.headers.items():
                visit.response_headers.append((name.lower().encode(), value.encode()))
            await self.reply(visit, answer.status, body, content_type)
            return
        # Whoever did not read until here may not read this either.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await visit.send({"type": "http.response.body", "body": b'{"error":%s}\n' % body})

    async def start_reply(self, visit: Visit, status: int, content_type: bytes) -> None:
        """Send status and headers; the body is the caller's."""
        visit.started = True
        headers = [(b"content-type", content_type), *visit.response_headers]
        await visit.send({"type": "http.response.start", "status": status, "headers": headers})


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of a request by their names in lower case; of two alike the first counts."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in reversed(scope["headers"])
    }


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def _log_failure(error: Exception, kind: str, request_id: str) -> None:
    """Our own bugs with their traceback; the world's misfortunes in one line."""
    facts = {"kind": kind, "request_id": request_id}
    if kind == "internal-error":
        _log.error("request_failed", exc_info=error, extra=facts)
    else:
        _log.warning("request_failed", extra={**facts, "error": " ".join(str(error).split())})
