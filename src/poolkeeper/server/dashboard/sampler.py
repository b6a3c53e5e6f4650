"""One line of numbers per second, kept for ten minutes: what the charts of the dashboard draw."""

from __future__ import annotations

import json
import time
from collections import deque
from typing import TYPE_CHECKING

from poolkeeper.core.availability import Availability
from poolkeeper.observability.statistics import HistogramSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.observability.statistics import PoolStatistics
    from poolkeeper.server.activity import Activity
    from poolkeeper.server.limits import Limits

KEPT_SECONDS = 600
RECENT_SECONDS = 10
_QUANTILES = (0.5, 0.95, 0.99)
_SIZES = ("idle", "active", "connecting", "validating", "resetting", "closing")
_ANSWERS = ("succeeded", "client_errors", "not_executed", "server_errors")
_DURATIONS = ("request", "wait", "held")

COLUMNS: tuple[str, ...] = (
    "at",
    *_SIZES,
    "max_size",
    "waiting",
    "oldest_waiter_seconds",
    "available",
    *_ANSWERS,
    *(f"{name}_p{round(q * 100)}" for name in _DURATIONS for q in _QUANTILES),
)
"""What the numbers of a sample are: connections by state, requests waiting, answers per second,
and quantiles in seconds over the last ``RECENT_SECONDS``; null where nothing happened."""


class DurationWindow:
    """The recent past of a histogram that only grows."""

    def __init__(self, samples: int) -> None:
        self._kept: deque[HistogramSnapshot] = deque(maxlen=samples + 1)

    def add(self, snapshot: HistogramSnapshot) -> None:
        """Note the histogram as it is at the end of another second."""
        self._kept.append(snapshot)

    def last(self, samples: int) -> HistogramSnapshot:
        """What was observed during so many of the latest samples, or as many as are known."""
        now = self._kept[-1]
        then = self._kept[max(0, len(self._kept) - 1 - samples)]
        grown = zip(now.cumulative, then.cumulative, strict=True)
        return HistogramSnapshot(
            cumulative=tuple(later - earlier for later, earlier in grown), sum=now.sum - then.sum
        )


class Sampler:
    """Reads the pool's numbers at every second beat and never touches its connections."""

    def __init__(
        self,
        pool: ConnectionPoolManager,
        activity: Activity,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._activity = activity
        self._limits = limits
        self._clock = clock
        self._rows: deque[bytes] = deque(maxlen=KEPT_SECONDS)
        self._windows = {name: DurationWindow(60) for name in _DURATIONS}
        self._answered = self._answers()
        self._sampled_at: float | None = None
        self.taken = 0

    def beat(self) -> bool:
        """Take a sample if the last one is old enough, and say whether there is a new one."""
        now = self._clock()
        past = None if self._sampled_at is None else now - self._sampled_at
        if past is not None and 0 <= past < 0.95:
            return False
        self._sample(now, past)
        return True

    def rows_since(self, cursor: int) -> bytes:
        """A JSON list of the samples after the first ``cursor`` ones, as far as they are kept."""
        missing = max(0, min(self.taken - cursor, len(self._rows)))
        rows = list(self._rows)[len(self._rows) - missing :]
        return b"[" + b",".join(rows) + b"]"

    def quantiles(self, seconds: int) -> dict[str, dict[str, float | int | None]]:
        """By duration: how many there were in the last ``seconds`` (up to 60), p50, p95, p99."""
        found: dict[str, dict[str, float | int | None]] = {}
        for name, window in self._windows.items():
            recent = window.last(seconds)
            values = _quantiles(recent)
            found[name] = {"count": recent.count}
            found[name] |= {
                f"p{round(q * 100)}": value for q, value in zip(_QUANTILES, values, strict=True)
            }
        return found

    def _sample(self, now: float, past: float | None) -> None:
        statistics = self._pool.get_statistics()
        limits = self._limits
        # For the turn of their token, outside the pool's queue.
        waiting, oldest = (limits.waiting, limits.oldest_wait()) if limits else (0, 0.0)
        answered = self._answers()
        rates = [
            0.0 if not past or past < 0 else (count - before) / past
            for count, before in zip(answered, self._answered, strict=True)
        ]
        self._answered, self._sampled_at = answered, now
        self._windows["request"].add(self._activity.seconds.snapshot())
        self._windows["wait"].add(statistics.wait_seconds)
        self._windows["held"].add(statistics.use_seconds)
        row = [
            round(now, 2),
            *_sizes(statistics),
            statistics.max_size,
            statistics.waiting_requests + waiting,
            round(max(statistics.oldest_waiter_seconds, oldest), 3),
            int(statistics.availability is not Availability.DOWN),
            *(round(rate, 2) for rate in rates),
            *(
                value
                for window in self._windows.values()
                for value in _quantiles(window.last(RECENT_SECONDS))
            ),
        ]
        self._rows.append(json.dumps(row, separators=(",", ":")).encode())
        self.taken += 1

    def _answers(self) -> list[int]:
        """How many requests were answered so far, by what it meant to the client."""
        counts = dict.fromkeys(_ANSWERS, 0)
        for status, count in self._activity.statuses.items():
            counts[_meaning(status)] += count
        return list(counts.values())


def _meaning(status: int) -> str:
    if status < 400:
        return "succeeded"
    if status == 503:
        return "not_executed"
    # 507 tells a client that it asked for too much
    return "client_errors" if status < 500 or status == 507 else "server_errors"


def _sizes(statistics: PoolStatistics) -> Iterator[int]:
    return (getattr(statistics, f"{name}_connections") for name in _SIZES)


def _quantiles(histogram: HistogramSnapshot) -> list[float | None]:
    values = (histogram.quantile(q) for q in _QUANTILES)
    return [None if value is None else round(value, 6) for value in values]
