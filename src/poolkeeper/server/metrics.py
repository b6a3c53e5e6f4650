"""What Prometheus gets: the pool's numbers and the server's own counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter

from poolkeeper.observability.prometheus import PoolCollector, exposition

if TYPE_CHECKING:
    from poolkeeper.observability.statistics import StatisticsSource


class ServerMetrics:
    """One registry per server, so that two servers in one process do not mix."""

    def __init__(self, pool: StatisticsSource) -> None:
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

    def scrape(self, accept: str | None) -> tuple[str, bytes]:
        """Content type and body for a scrape."""
        return exposition(self._registry, accept)
