"""Which requests are at work now, and what the recent ones came to."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from poolkeeper.observability.statistics import Histogram

if TYPE_CHECKING:
    from poolkeeper.server.context import RequestContext

_KEPT = 100
# Failures that are the same are told as one for so many seconds.
_FOLDED_SECONDS = 60
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

    ``at`` is a Unix time; ``seconds`` is how long the request took; long texts are cut. Of failures
    that are the same it is the first: ``count`` says how many there were within a minute,
    ``last_at`` when the latest.
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
    last_at: float
    count: int = 1


class Failures:
    """The latest failures. Many of one sort do not displace those that somebody has to look at.

    Those whose outcome may be unknown (502, 500, 504) are kept apart from those that are the
    client's, or harmless.
    """

    def __init__(self) -> None:
        self._grave: dict[tuple[object, ...], tuple[int, Finished]] = {}
        self._others: dict[tuple[object, ...], tuple[int, Finished]] = {}
        self._numbers = itertools.count()

    def add(self, failed: Finished) -> None:
        """Keep a failure, with those that are the same and came in the same minute."""
        grave = failed.status >= 500 and failed.status not in {503, 507}
        ring = self._grave if grave else self._others
        # Of requests that were turned away it does not matter what they wanted.
        what = None if failed.status == 503 else (failed.token, failed.statement, failed.message)
        minute = failed.at // _FOLDED_SECONDS
        key = (minute, failed.status, failed.kind, failed.outcome, failed.route, what)
        known = ring.pop(key, None)
        if known is not None:
            failed = replace(known[1], last_at=failed.at, count=known[1].count + 1)
        ring[key] = (next(self._numbers), failed)
        if len(ring) > _KEPT:
            del ring[next(iter(ring))]

    def latest(self, limit: int) -> list[Finished]:
        """At most so many, the latest last; up to half of them are the grave ones."""
        grave = list(self._grave.values())[-limit:]
        others = list(self._others.values())[-limit:]
        room = max(limit // 2, limit - len(others))
        grave = grave[max(0, len(grave) - room) :]
        others = others[max(0, len(others) - (limit - len(grave))) :]
        return [failed for _, failed in heapq.merge(grave, others, key=itemgetter(0))]


@dataclass(slots=True)
class Activity:
    """Fed by the endpoints, read by ``/status`` and the dashboard. Belongs to one event loop.

    Attributes:
        slow_seconds: From this duration on a request is kept in ``slow``.
        running: Those that wait for a connection or have one.
        failures: The latest that failed.
        slow: The latest that took long, oldest first.
        seconds: How long all of them took.
        statuses: How many were answered with each HTTP status.
    """

    slow_seconds: float = 1.0
    running: set[Running] = field(default_factory=set)
    failures: Failures = field(default_factory=Failures)
    slow: deque[Finished] = field(default_factory=lambda: deque(maxlen=_KEPT))
    seconds: Histogram = field(default_factory=Histogram)
    statuses: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def errors(self) -> list[Finished]:
        """All failures that are kept, the latest last."""
        return self.failures.latest(2 * _KEPT)

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
        now = time.time()
        finished = Finished(
            at=now,
            last_at=now,
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
            self.failures.add(finished)
        if slow:
            self.slow.append(finished)

    def oldest(self, limit: int) -> list[Running]:
        """At most ``limit`` of the running requests: those that began first, in that order."""
        return heapq.nsmallest(limit, self.running, key=lambda running: running.began)


def _shortened(text: str | None) -> str | None:
    if text is None or len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]} … ({len(text) - _LONGEST_TEXT:,} more characters)"
