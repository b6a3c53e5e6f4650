"""Answers failures of pool and database where the application does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.asgi.deadline import DeadlineMiddleware
from poolkeeper.asgi.failures import failure_of
from poolkeeper.asgi.responses import problem_response, report

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ProblemMiddleware:
    """ASGI middleware that answers what the application does not: see ``failure_of``.

    Handlers the application registers for these exceptions come first. The response says what
    became of the request and when to come back, and nothing of this system: no address, no
    message of an exception. Those are in the log (``poolkeeper.asgi``) and, while ``app.debug`` is
    on, in the field ``error``. An exception after the response has begun passes through.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; its failure, if it is one of ours, becomes its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            failure = failure_of(error, method=scope["method"])
            if failure is None or started:
                raise
            report(failure, scope, error)
            response = problem_response(failure, scope, error)
        else:
            return
        await response(scope, receive, send)


def install(
    app: Starlette,
    *,
    deadline: float | None = 30.0,
    longest_deadline: float | None = None,
    cancel_on_disconnect: bool = False,
) -> None:
    """Give an application the answers to failures and a deadline per request.

    Call it before the application starts. Middleware added later is outside of it.

    Args:
        app: A Starlette or FastAPI application.
        deadline: See ``DeadlineMiddleware``; None sets none.
        longest_deadline: See ``DeadlineMiddleware.longest``.
        cancel_on_disconnect: See ``DeadlineMiddleware``.
    """
    app.add_middleware(ProblemMiddleware)
    if deadline is not None:
        app.add_middleware(
            DeadlineMiddleware,
            default=deadline,
            longest=longest_deadline,
            cancel_on_disconnect=cancel_on_disconnect,
        )
