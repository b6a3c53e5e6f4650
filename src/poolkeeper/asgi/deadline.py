"""A deadline for each request, after which nobody works on it any more."""

from __future__ import annotations

import asyncio
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from poolkeeper.asgi.disconnects import Departure
from poolkeeper.asgi.failures import bad_timeout, out_of_time
from poolkeeper.asgi.responses import problem_response, report
from poolkeeper.deadlines import request_time_left

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What time_left() keeps back, for an answer that comes before the deadline does.
_TO_ANSWER = 0.05

_MILLISECONDS = re.compile(r"0*[1-9][0-9]{0,8}", re.ASCII)


class ResponseCutError(TimeoutError):
    """A response had begun when its deadline came, and its end will not be sent.

    It passes through to the server, which closes the connection: so the client can tell.
    """


class DeadlineMiddleware:
    """ASGI middleware that gives up requests that take too long.

    A handler that still waits for a connection shortly before its deadline gets a
    ``PoolTimeoutError``: 503, certainly not executed. At the deadline it is cancelled wherever it
    waits, and the statement it waits for is cancelled in the database. The client then gets the
    problem ``request-deadline``: 504 if its method is a safe one (``GET``, ``HEAD``), else 502,
    because whether the cancelled work took effect is unknown. A response that has begun is cut
    off. What runs after the response (background tasks) has no deadline.

    A handler that is not a coroutine runs in a thread, which cannot be cancelled: the answer waits
    for its end. Put this outside of ``ProblemMiddleware``, as ``install`` does.

    Args:
        app: The application.
        default: Seconds for a request that does not say how long it is of use.
        header: Where clients say so, in milliseconds; None lets them not.
        longest: Most seconds a client may ask for; None means ``default``.
        cancel_on_disconnect: Cancel the handler, too, when the client leaves before it has its
            answer, once its body has been read.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        default: float = 30.0,
        header: str | None = "X-Timeout-Ms",
        longest: float | None = None,
        cancel_on_disconnect: bool = False,
    ) -> None:
        self.app = app
        self._default = default
        self._header = header
        self._longest = default if longest is None else longest
        self._cancel_on_disconnect = cancel_on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request within its time."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope).get(self._header) if self._header else None
        if asked is not None and not _MILLISECONDS.fullmatch(asked):
            await problem_response(bad_timeout(str(self._header)), scope)(scope, receive, send)
            return
        seconds = self._default if asked is None else min(int(asked) / 1000, self._longest)
        await _Timed(scope, send, seconds).run(self.app, receive, self._cancel_on_disconnect)


class _Timed:
    """One request, its deadline, and how far its response has come."""

    def __init__(self, scope: Scope, send: Send, seconds: float) -> None:
        self._scope = scope
        self._send = send
        self._timeout = asyncio.timeout(seconds)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._started = False
        self._finished = False
        self._left = False
        self._task: asyncio.Task[object] | None = None

    async def run(self, app: ASGIApp, receive: Receive, cancel_on_disconnect: bool) -> None:  # noqa: FBT001
        task = asyncio.current_task()
        assert task is not None

        def leave() -> None:
            if not self._finished:
                self._left = True
                task.cancel()

        departure = Departure(self._scope, receive, leave) if cancel_on_disconnect else None
        self._task = task
        token = _current.set(self)
        waiting = request_time_left.set(self._left_to_wait)
        try:
            async with self._timeout:
                await app(self._scope, departure.receive if departure else receive, self._watched)
        except TimeoutError as error:
            if not self._timeout.expired():
                raise
            await self._give_up(receive, error)
        except asyncio.CancelledError:
            # By us, and nobody else wants this task to end; there is nobody left to answer.
            if not self._left or task.uncancel():
                raise
        finally:
            request_time_left.reset(waiting)
            _current.reset(token)
            if departure is not None:
                await departure.close()

    async def _give_up(self, receive: Receive, error: TimeoutError) -> None:
        seconds = round(self._loop.time() - self._began, 3)
        if self._started:
            raise ResponseCutError(
                f"The response to {self._scope['method']} {self._scope['path']} was cut off after "
                f"{seconds:g} s. Suggestion: let handlers that stream for long call "
                "poolkeeper.asgi.set_deadline(None)."
            ) from error
        failure = out_of_time(seconds, method=self._scope["method"])
        report(failure, self._scope)
        await problem_response(failure, self._scope)(self._scope, receive, self._send)

    async def _watched(self, message: Message) -> None:
        self._started = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._finished = True
            self.reschedule(None)
        await self._send(message)

    def reschedule(self, seconds: float | None) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(None if seconds is None else self._loop.time() + seconds)

    def _left_to_wait(self) -> float | None:
        # Tasks it has started are not cancelled at its deadline and may outlive it.
        return self.left() if asyncio.current_task() is self._task else None

    def left(self) -> float | None:
        when = self._timeout.when()
        return None if when is None else max(0.001, when - _TO_ANSWER - self._loop.time())


_current: ContextVar[_Timed | None] = ContextVar("poolkeeper_asgi_request", default=None)


def time_left() -> float | None:
    """Seconds the request that is being served may still work; None if it has no deadline.

    A little less than until its deadline, so that there is time for an answer, and never 0. With
    ``pool.acquire(timeout=time_left())`` a request that waits for a connection until the end is
    answered with 503, as one that was certainly not executed.
    """
    request = _current.get()
    return None if request is None else request.left()


def set_deadline(seconds: float | None) -> None:
    """Give the request that is being served ``seconds`` from now, or all the time it wants.

    For handlers that take longer than others, such as streams and exports. May exceed what
    clients may ask for. Without a ``DeadlineMiddleware`` there is nothing to change, and nothing
    happens. Only from the event loop, not from a handler that runs in a thread.
    """
    request = _current.get()
    if request is not None:
        request.reschedule(seconds)
