"""Prometheus and OpenMetrics: the statistics of one or many pools, read when scraped."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from poolkeeper.core.availability import Availability
from poolkeeper.exceptions import PoolConfigurationError

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )
    from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ImportError(
        "poolkeeper.observability.prometheus needs the package prometheus-client, which is not "
        "installed. Suggestion: pip install 'poolkeeper[server]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from poolkeeper.observability.statistics import (
        HistogramSnapshot,
        PoolStatistics,
        StatisticsSource,
    )

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_GAUGES: tuple[tuple[str, str, Callable[[PoolStatistics], float]], ...] = (
    ("pool_max_connections", "Most connections the pool may hold.", lambda s: s.max_size),
    ("pool_min_connections", "Connections the pool keeps open.", lambda s: s.min_size),
    ("pool_waiters", "Acquires waiting for a connection.", lambda s: s.waiting_requests),
    (
        "pool_oldest_waiter_seconds",
        "How long the first in the queue has been waiting.",
        lambda s: s.oldest_waiter_seconds,
    ),
    (
        "db_up",
        "1 while the database can be worked with, 0 during an outage.",
        lambda s: float(s.availability is not Availability.DOWN),
    ),
)

_COUNTERS: tuple[tuple[str, str, Callable[[PoolStatistics], float]], ...] = (
    ("pool_acquisitions", "Acquires that got a connection.", lambda s: s.total_acquisitions),
    ("pool_releases", "Connections given back.", lambda s: s.total_releases),
    (
        "pool_acquire_timeouts",
        "Acquires that got no connection in time.",
        lambda s: s.total_timeouts,
    ),
    (
        "pool_acquire_cancellations",
        "Acquires whose caller was cancelled while waiting.",
        lambda s: s.total_cancellations,
    ),
    ("pool_connects", "Connections opened.", lambda s: s.total_connects),
    (
        "pool_connect_failures",
        "Attempts to open a connection that failed.",
        lambda s: s.total_connect_failures,
    ),
    ("db_outages", "Outages of the database.", lambda s: s.total_outages),
    (
        "outage_seconds",
        "Time without a database, including the outage going on now.",
        lambda s: s.outage_seconds,
    ),
    (
        "retries",
        "Statements and transactions run again by the pool.",
        lambda s: s.total_retries,
    ),
    (
        "transactions_resolved",
        "Unanswered COMMITs whose outcome was found out.",
        lambda s: s.total_transactions_resolved,
    ),
    (
        "transactions_unknown",
        "Unanswered COMMITs whose outcome could not be found out in time.",
        lambda s: s.total_transactions_unknown,
    ),
)

_HISTOGRAMS: tuple[tuple[str, str, Callable[[PoolStatistics], HistogramSnapshot]], ...] = (
    (
        "pool_acquire_seconds",
        "How long acquires waited until they got a connection.",
        lambda s: s.wait_seconds,
    ),
    ("pool_use_seconds", "How long connections were held.", lambda s: s.use_seconds),
    ("pool_create_seconds", "How long opening a connection took.", lambda s: s.create_seconds),
)

_STATES = ("idle", "active", "connecting", "validating", "resetting", "closing")


class PoolCollector(Collector):
    """Collects pools for any ``CollectorRegistry``; each sample carries the label ``pool``.

    Nothing is counted twice or kept here: every scrape takes one ``get_statistics()`` of each
    pool. Pools may be added and removed at any time, from the thread that scrapes or another.
    """

    def __init__(self, *pools: StatisticsSource, version: str | None = None) -> None:
        self._version = _own_version() if version is None else version
        self._pools: tuple[StatisticsSource, ...] = ()
        for pool in pools:
            self.add(pool)

    def add(self, pool: StatisticsSource) -> None:
        """Collect ``pool`` from the next scrape on.

        Raises:
            PoolConfigurationError: Another pool of that name is collected here; two series with
                the same labels would make the whole scrape invalid.
        """
        if pool in self._pools:
            return
        if any(known.name == pool.name for known in self._pools):
            raise PoolConfigurationError(
                f"Two pools are named {pool.name!r}, and their metrics could not be told apart. "
                "Suggestion: give each pool a name of its own.",
                option="name",
                value=pool.name,
            )
        self._pools = (*self._pools, pool)

    def remove(self, pool: StatisticsSource) -> None:
        """Leave ``pool`` out from now on; one that was never added is ignored."""
        self._pools = tuple(known for known in self._pools if known is not pool)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of all pools, as a registry asks for them."""
        pools = [pool.get_statistics() for pool in self._pools]

        connections = GaugeMetricFamily(
            "poolkeeper_pool_connections", "Connections by state.", labels=["pool", "state"]
        )
        rejections = CounterMetricFamily(
            "poolkeeper_pool_acquire_rejections",
            "Acquires refused without a chance: the queue was full, or the database is down.",
            labels=["pool", "reason"],
        )
        recycled = CounterMetricFamily(
            "poolkeeper_pool_connections_recycled",
            "Connections closed by the pool.",
            labels=["pool", "reason"],
        )
        for stats in pools:
            for state in _STATES:
                connections.add_metric([stats.pool, state], getattr(stats, f"{state}_connections"))
            rejections.add_metric([stats.pool, "queue_full"], stats.total_rejections)
            rejections.add_metric([stats.pool, "database_unavailable"], stats.total_unavailable)
            for reason, count in sorted(stats.recycled.items()):
                recycled.add_metric([stats.pool, reason], count)
        yield connections
        yield rejections
        yield recycled

        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(f"poolkeeper_{name}", text, labels=["pool"], unit=_unit(name))
            for stats in pools:
                gauge.add_metric([stats.pool], read(stats))
            yield gauge
        for name, text, read in _COUNTERS:
            counter = CounterMetricFamily(
                f"poolkeeper_{name}", text, labels=["pool"], unit=_unit(name)
            )
            for stats in pools:
                counter.add_metric([stats.pool], read(stats))
            yield counter
        for name, text, take in _HISTOGRAMS:
            family = HistogramMetricFamily(
                f"poolkeeper_{name}", text, labels=["pool"], unit=_unit(name)
            )
            for stats in pools:
                durations = take(stats)
                bounds = (*map(str, durations.bounds), "+Inf")
                family.add_metric(
                    [stats.pool],
                    buckets=list(zip(bounds, durations.cumulative, strict=True)),
                    sum_value=durations.sum,
                )
            yield family

        yield InfoMetricFamily(
            "poolkeeper_build", "The poolkeeper that answers.", {"version": self._version}
        )


def exposition(registry: CollectorRegistry, accept: str | None = None) -> tuple[str, bytes]:
    """Answer a scrape: the content type and the body that suit an ``Accept`` header.

    OpenMetrics 1.0 if the client accepts it no less than plain text, else the text format 0.0.4,
    which every Prometheus understands. A header that makes no sense counts as none.
    """
    if _prefers_openmetrics(accept or ""):
        body: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
        return OPENMETRICS, body
    return TEXT, generate_latest(registry)


def _prefers_openmetrics(accept: str) -> bool:
    openmetrics = text = 0.0
    for entry in accept.lower().split(","):
        media_type, *rest = (part.strip() for part in entry.split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        try:
            weight = float(parameters.get("q", "1"))
        except ValueError:
            continue
        if media_type == "application/openmetrics-text":
            # Prometheus still offers the draft 0.0.1 beside 1.0.0; we speak only the latter
            if parameters.get("version", "1.0.0") == "1.0.0":
                openmetrics = max(openmetrics, weight)
        elif media_type == "text/plain":
            text = max(text, weight)
    return openmetrics > 0.0 and openmetrics >= text


def _unit(name: str) -> str:
    return "seconds" if name.endswith("_seconds") else ""


def _own_version() -> str:
    try:
        return installed_version("poolkeeper")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"
