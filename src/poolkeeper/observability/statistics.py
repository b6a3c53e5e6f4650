"""Counters a pool feeds while it works, and the immutable picture taken of them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from poolkeeper.core.availability import Availability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.snapshot import PoolSnapshot

BUCKET_BOUNDS: tuple[float, ...] = (
    *(0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0),
    *(10.0, 30.0, 60.0),
)
"""Upper bounds of every histogram's buckets, in seconds; each bound belongs to its bucket.

OpenTelemetry's bounds for database durations (1, 5, 10, 50 … ms) are among them, so nothing is
lost in translation.
"""

_FIRST_BOUND = BUCKET_BOUNDS[0]


class Histogram:
    """Durations sorted into fixed buckets. Belongs to one event loop; reading is safe anywhere."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKET_BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        # an idle pool hands over within microseconds: that case skips the search, which halves it
        if seconds <= _FIRST_BOUND:
            self.counts[0] += 1
        else:
            self.counts[bisect_left(BUCKET_BOUNDS, seconds)] += 1
        self.sum += seconds

    def snapshot(self) -> HistogramSnapshot:
        """Take the counts as they are now."""
        return HistogramSnapshot(cumulative=tuple(accumulate(self.counts)), sum=self.sum)


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A histogram at one instant.

    ``cumulative[i]`` counts the durations up to ``bounds[i]``; the last number has no bound and
    counts all of them.
    """

    cumulative: tuple[int, ...]
    sum: float

    @property
    def bounds(self) -> tuple[float, ...]:
        """Upper bounds of all buckets but the last, in seconds."""
        return BUCKET_BOUNDS

    @property
    def count(self) -> int:
        """How many durations were observed."""
        return self.cumulative[-1]

    @property
    def mean(self) -> float | None:
        """Exact average in seconds, or None while nothing was observed."""
        return self.sum / self.count if self.count else None

    def quantile(self, q: float) -> float | None:
        """Estimate in seconds what a share ``q`` (0 to 1) of the durations stayed below.

        Exact to the bucket, linear inside it, like PromQL's ``histogram_quantile``; above the
        highest bound that bound is the answer. None while nothing was observed.

        Raises:
            ValueError: ``q`` is not between 0 and 1.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(
                f"A quantile lies between 0 and 1, not at {q}. "
                "Suggestion: quantile(0.99) for the 99th percentile."
            )
        if not self.count:
            return None
        rank = q * self.count
        bucket = bisect_left(self.cumulative, rank)
        while not self.cumulative[bucket]:  # rank 0 lies in the first bucket that is not empty
            bucket += 1
        if bucket == len(BUCKET_BOUNDS):
            return BUCKET_BOUNDS[-1]
        below = self.cumulative[bucket - 1] if bucket else 0
        low = BUCKET_BOUNDS[bucket - 1] if bucket else 0.0
        share = (rank - below) / (self.cumulative[bucket] - below)
        return low + (BUCKET_BOUNDS[bucket] - low) * share

    def to_dict(self) -> dict[str, Any]:
        """Give count, sum, the usual quantiles and the buckets, ready for JSON."""
        return {
            "count": self.count,
            "sum": self.sum,
            "p50": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "p99": self.quantile(0.99),
            "bounds": list(self.bounds),
            "cumulative": list(self.cumulative),
        }


@dataclass(slots=True)
class PoolCounters:
    """What a pool counts while it works. Plain attributes: the pool adds to them in its hot path.

    Each granted acquire adds one to ``total_acquisitions`` and one observation to ``wait``; each
    release one to ``total_releases`` and one to ``use``; each opened connection one to
    ``total_connects`` and one to ``create``. Refused and abandoned acquires are counted by what
    ended them and are in no histogram.

    Attributes:
        total_acquisitions: Acquires that got a connection.
        total_releases: Connections given back, by their holder or because they broke in use.
        total_timeouts: Acquires that ended with ``PoolTimeoutError``.
        total_rejections: Acquires refused at once because the queue was full.
        total_unavailable: Acquires that ended with ``DatabaseUnavailableError``.
        total_cancellations: Acquires whose caller was cancelled while waiting.
        total_connects: Connections opened.
        total_connect_failures: Attempts to open one that failed.
        recycled: Connections the pool closed, by reason.
        peak_active_connections: Most connections ever in use together.
        peak_wait_seconds: Longest wait of a granted acquire.
        total_outages: Outages begun.
        outage_seconds: Length of the outages that are over.
        total_retries: Statements and transactions run again by the pool.
        total_transactions_resolved: Unanswered COMMITs whose outcome could be found out.
        total_transactions_unknown: Those whose outcome could not, in time.
        last_error: Text of the latest failure to reach the database, free of secrets.
    """

    total_acquisitions: int = 0
    total_releases: int = 0
    total_timeouts: int = 0
    total_rejections: int = 0
    total_unavailable: int = 0
    total_cancellations: int = 0
    total_connects: int = 0
    total_connect_failures: int = 0
    recycled: dict[str, int] = field(default_factory=dict)
    peak_active_connections: int = 0
    peak_wait_seconds: float = 0.0
    total_outages: int = 0
    outage_seconds: float = 0.0
    total_retries: int = 0
    total_transactions_resolved: int = 0
    total_transactions_unknown: int = 0
    last_error: str | None = None
    wait: Histogram = field(default_factory=Histogram)
    use: Histogram = field(default_factory=Histogram)
    create: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """A pool at one instant: where its connections are, and what it did since it was opened.

    ``total_connections`` is the sum of the six states below it. The counters only grow, and are
    explained in ``PoolCounters``; ``outage_seconds`` includes an outage that is still going on.
    """

    pool: str
    availability: Availability
    uptime_seconds: float

    total_connections: int
    idle_connections: int
    active_connections: int
    connecting_connections: int
    validating_connections: int
    resetting_connections: int
    closing_connections: int
    waiting_requests: int
    oldest_waiter_seconds: float
    min_size: int
    max_size: int

    total_acquisitions: int
    total_releases: int
    total_timeouts: int
    total_rejections: int
    total_unavailable: int
    total_cancellations: int
    total_connects: int
    total_connect_failures: int
    recycled: Mapping[str, int]
    peak_active_connections: int
    peak_wait_seconds: float
    total_outages: int
    outage_seconds: float
    total_retries: int
    total_transactions_resolved: int
    total_transactions_unknown: int

    wait_seconds: HistogramSnapshot
    use_seconds: HistogramSnapshot
    create_seconds: HistogramSnapshot

    @property
    def utilization(self) -> float:
        """Fraction of ``max_size`` in the hands of callers, 0 to 1."""
        return self.active_connections / self.max_size if self.max_size else 0.0

    @classmethod
    def collect(
        cls,
        snapshot: PoolSnapshot,
        counters: PoolCounters,
        *,
        pool: str,
        uptime_seconds: float,
        availability: Availability = Availability.UP,
        current_outage_seconds: float = 0.0,
    ) -> PoolStatistics:
        """Join the sizes of one instant with copies of the counters.

        Args:
            snapshot: The sizes.
            counters: What the pool has counted; later changes do not reach the result.
            pool: Name of the pool.
            uptime_seconds: Since the pool was opened.
            availability: The conclusion drawn from evidence.
            current_outage_seconds: Age of the outage going on now, 0 without one.
        """
        return cls(
            pool=pool,
            availability=availability,
            uptime_seconds=uptime_seconds,
            total_connections=snapshot.total,
            idle_connections=snapshot.idle,
            active_connections=snapshot.active,
            connecting_connections=snapshot.connecting,
            validating_connections=snapshot.validating,
            resetting_connections=snapshot.resetting,
            closing_connections=snapshot.closing,
            waiting_requests=snapshot.waiting,
            oldest_waiter_seconds=snapshot.oldest_waiter_seconds,
            min_size=snapshot.min_size,
            max_size=snapshot.max_size,
            total_acquisitions=counters.total_acquisitions,
            total_releases=counters.total_releases,
            total_timeouts=counters.total_timeouts,
            total_rejections=counters.total_rejections,
            total_unavailable=counters.total_unavailable,
            total_cancellations=counters.total_cancellations,
            total_connects=counters.total_connects,
            total_connect_failures=counters.total_connect_failures,
            recycled=MappingProxyType(dict(counters.recycled)),
            peak_active_connections=counters.peak_active_connections,
            peak_wait_seconds=counters.peak_wait_seconds,
            total_outages=counters.total_outages,
            outage_seconds=counters.outage_seconds + current_outage_seconds,
            total_retries=counters.total_retries,
            total_transactions_resolved=counters.total_transactions_resolved,
            total_transactions_unknown=counters.total_transactions_unknown,
            wait_seconds=counters.wait.snapshot(),
            use_seconds=counters.use.snapshot(),
            create_seconds=counters.create.snapshot(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Give everything by name, with ``utilization``, ready for JSON."""
        plain: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, HistogramSnapshot):
                value = value.to_dict()
            elif isinstance(value, MappingProxyType):
                value = dict(value)
            elif isinstance(value, Availability):
                value = value.value
            plain[name] = value
        plain["utilization"] = self.utilization
        return plain


class StatisticsSource(Protocol):
    """All that an exporter needs to know of a pool."""

    @property
    def name(self) -> str:
        """Tells this pool from the others of the process; without secrets."""
        ...

    def get_statistics(self) -> PoolStatistics:
        """Say how the pool is doing; must be callable from any thread, exporters have their own."""
        ...


class DurationRecorder(Protocol):
    """Hears of each duration as it ends; what an exporter with histograms of its own needs.

    A pool calls these beside feeding its own histograms, and only when it was given a recorder.
    """

    def wait(self, seconds: float) -> None:
        """Hear how long an acquire waited until it got a connection."""
        ...

    def use(self, seconds: float) -> None:
        """Hear how long a connection was held."""
        ...

    def create(self, seconds: float) -> None:
        """Hear how long opening a connection took."""
        ...
