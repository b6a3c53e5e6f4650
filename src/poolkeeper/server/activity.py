"""Which requests are at work now, and what the recent ones came to."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poolkeeper.observability.statistics import Histogram

if TYPE_CHECKING:
    from poolkeeper.server.context import RequestContext

_KEPT = 100


@dataclass(slots=True, eq=False)
class Running:
    """One request that wants or has a connection.

    Attributes:
        context: What is known of the request.
        route: The path it came to.
        began: When it asked for a connection, on the clock of ``time.perf_counter``.
        acquired: When it got one; None while it waits.
        backend_pid: The PostgreSQL process that works for it.
    """

    context: RequestContext
    route: str
    began: float
    acquired: float | None = None
    backend_pid: int | None = None

    def got(self, backend_pid: int) -> None:
        """Note that the wait for a connection is over."""
        self.acquired = time.perf_counter()
        self.backend_pid = backend_pid


@dataclass(frozen=True, slots=True)
class Finished:
    """One request worth remembering: it failed, or its statement was slow.

    ``at`` is a Unix time; ``seconds`` is how long the request took.
    """

    at: float
    request_id: str
    route: str
    token: str | None
    statement: str | None
    seconds: float
    status: int
    kind: str | None
    outcome: str | None
    message: str | None


@dataclass(slots=True)
class Activity:
    """Fed by the endpoints, read by ``/status`` and the dashboard. Belongs to one event loop."""

    slow_seconds: float = 1.0
    running: set[Running] = field(default_factory=set)
    errors: deque[Finished] = field(default_factory=lambda: deque(maxlen=_KEPT))
    slow: deque[Finished] = field(default_factory=lambda: deque(maxlen=_KEPT))
    seconds: Histogram = field(default_factory=Histogram)

    def begin(self, context: RequestContext, route: str) -> Running:
        """A request begins to wait for a connection; `end` must follow."""
        running = Running(context, route, time.perf_counter())
        self.running.add(running)
        return running

    def end(self, running: Running, *, status: int, message: str | None = None) -> None:
        """The request was answered with ``status``; ``message`` says what failed."""
        self.running.discard(running)
        seconds = time.perf_counter() - running.began
        self.seconds.observe(seconds)
        failed = status >= 400
        slow = seconds >= self.slow_seconds
        if not (failed or slow):
            return
        context = running.context
        finished = Finished(
            at=time.time(),
            request_id=context.request_id,
            route=running.route,
            token=context.token.name if context.token else None,
            statement=context.statement,
            seconds=seconds,
            status=status,
            kind=context.kind,
            outcome=context.outcome,
            message=message,
        )
        if failed:
            self.errors.append(finished)
        if slow:
            self.slow.append(finished)
