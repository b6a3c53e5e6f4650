"""Which requests are at work now, and what the recent ones came to."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poolkeeper.observability.statistics import Histogram

if TYPE_CHECKING:
    from poolkeeper.server.context import RequestContext

_KEPT = 100
# A statement may be as long as a request body; what is kept for people need not be.
_LONGEST_TEXT = 2000


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

    def to_dict(self) -> dict[str, Any]:
        """Give the facts by name as they are now, ready for JSON; long texts are cut."""
        now = time.perf_counter()
        context = self.context
        return {
            "request_id": context.request_id,
            "route": self.route,
            "token": context.token.name if context.token else None,
            "statement": _shortened(context.statement),
            "state": "waiting" if self.acquired is None else "running",
            "waited_seconds": round((self.acquired or now) - self.began, 4),
            "held_seconds": None if self.acquired is None else round(now - self.acquired, 4),
            "backend_pid": self.backend_pid,
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """One request worth remembering: it failed, or its statement was slow.

    ``at`` is a Unix time; ``seconds`` is how long the request took; long texts are cut.
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
    """Fed by the endpoints, read by ``/status`` and the dashboard. Belongs to one event loop.

    Attributes:
        slow_seconds: From this duration on a request is kept in ``slow``.
        running: Those that wait for a connection or have one.
        errors: The latest that failed, oldest first.
        slow: The latest that took long, oldest first.
        seconds: How long all of them took.
        statuses: How many were answered with each HTTP status.
    """

    slow_seconds: float = 1.0
    running: set[Running] = field(default_factory=set)
    errors: deque[Finished] = field(default_factory=lambda: deque(maxlen=_KEPT))
    slow: deque[Finished] = field(default_factory=lambda: deque(maxlen=_KEPT))
    seconds: Histogram = field(default_factory=Histogram)
    statuses: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

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
        self.statuses[status] += 1
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
            statement=_shortened(context.statement),
            seconds=seconds,
            status=status,
            kind=context.kind,
            outcome=context.outcome,
            message=_shortened(message),
        )
        if failed:
            self.errors.append(finished)
        if slow:
            self.slow.append(finished)

    def oldest(self, limit: int) -> list[Running]:
        """At most ``limit`` of the running requests: those that began first, in that order."""
        return heapq.nsmallest(limit, self.running, key=lambda running: running.began)


def _shortened(text: str | None) -> str | None:
    if text is None or len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]} … ({len(text) - _LONGEST_TEXT:,} more characters)"
