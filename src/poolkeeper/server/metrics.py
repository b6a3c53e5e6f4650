"""What Prometheus gets: the pool's numbers and the server's own."""

from __future__ import annotations

from collections import Counter as TallyOf
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from poolkeeper.observability.prometheus import PoolCollector, exposition
from poolkeeper.observability.statistics import Histogram
from poolkeeper.server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from poolkeeper.observability.statistics import StatisticsSource
    from poolkeeper.server.context import RequestContext

# Answers that say: not now, or not for you.
_REJECTIONS = frozenset({401, 403, 413, 421, 429, 503})


class ServerMetrics:
    """One registry per server, so that two servers in one process do not mix.

    Attributes:
        requests: Requests answered, by ``route`` and ``code``.
        rejected: Requests turned away, by ``reason``.
        cancelled: Statements cancelled, by ``reason``.
        request_seconds: How long requests took, by route.
        query_seconds: How long their statements took.
    """

    def __init__(self, pool: StatisticsSource, lifecycle: Lifecycle | None = None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(PoolCollector(pool))
        self.requests = Counter(
            "poolkeeper_http_requests",
            "Requests answered.",
            ["route", "code"],
            registry=self._registry,
        )
        self.cancelled = Counter(
            "poolkeeper_queries_cancelled",
            "Statements cancelled by the server.",
            ["reason"],
            registry=self._registry,
        )
        self.rejected: TallyOf[str] = TallyOf()
        self.request_seconds: dict[str, Histogram] = {}
        self.query_seconds = Histogram()
        self._registry.register(_ServerCollector(self, lifecycle or Lifecycle()))
        # Looking a counter up by its labels costs more than counting.
        self._counters: dict[tuple[str, int], Counter] = {}

    def answered(self, route: str, status: int, seconds: float, context: RequestContext) -> None:
        """Count a request that is over."""
        counter = self._counters.get((route, status))
        if counter is None:
            counter = self._counters[route, status] = self.requests.labels(route, str(status))
        counter.inc()
        histogram = self.request_seconds.get(route)
        if histogram is None:
            histogram = self.request_seconds[route] = Histogram()
        histogram.observe(seconds)
        if "db" in context.timing:
            self.query_seconds.observe(context.timing["db"])
        if status in _REJECTIONS and context.kind is not None:
            self.rejected[context.kind] += 1

    def scrape(self, accept: str | None) -> tuple[str, bytes]:
        """Content type and body for a scrape."""
        return exposition(self._registry, accept)

    def collect(self) -> Iterable[Metric]:
        """All metrics, before they are put into a format."""
        return self._registry.collect()


class _ServerCollector(Collector):
    """Reads what the server knows of itself when it is asked."""

    def __init__(self, metrics: ServerMetrics, lifecycle: Lifecycle) -> None:
        self._metrics = metrics
        self._lifecycle = lifecycle

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families, as a registry asks for them."""
        lifecycle = self._lifecycle
        for name, text, value in (
            (
                "poolkeeper_http_connections",
                "Connections of clients that are open.",
                lifecycle.connections(),
            ),
            ("poolkeeper_paused", "1 while an operator holds requests back.", lifecycle.paused),
            ("poolkeeper_draining", "1 while the server goes down.", lifecycle.draining),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        rejected = CounterMetricFamily(
            "poolkeeper_http_requests_rejected",
            "Requests and connections turned away.",
            labels=["reason"],
        )
        for reason, count in sorted((self._metrics.rejected + lifecycle.refused).items()):
            rejected.add_metric([reason], count)
        yield rejected
        requests = HistogramMetricFamily(
            "poolkeeper_http_request_seconds",
            "How long requests took, until their answer was sent.",
            labels=["route"],
            unit="seconds",
        )
        for route, histogram in self._metrics.request_seconds.items():
            _add(requests, [route], histogram)
        yield requests
        queries = HistogramMetricFamily(
            "poolkeeper_query_seconds",
            "How long the statements of requests took, without the wait for a connection.",
            labels=[],
            unit="seconds",
        )
        _add(queries, [], self._metrics.query_seconds)
        yield queries


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    durations = histogram.snapshot()
    bounds = (*map(str, durations.bounds), "+Inf")
    buckets = list(zip(bounds, durations.cumulative, strict=True))
    family.add_metric(labels, buckets=buckets, sum_value=durations.sum)
