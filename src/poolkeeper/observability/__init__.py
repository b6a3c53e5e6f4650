"""What a pool tells the outside: events, statistics, health, and the exporters that pass it on.

The exporters ``logs``, ``prometheus`` and ``otel`` are imported by their own names, because what
they need may not be installed.
"""

from poolkeeper.observability.events import (
    ConnectionLeakResolved,
    ConnectionLeakSuspected,
    ConnectionRecycled,
    DatabaseConnectionLost,
    DatabaseReconnected,
    Event,
    EventBus,
    FailoverDetected,
    OperationClaimed,
    OperationEnded,
    OperationResumed,
    PoolClosed,
    PoolExhausted,
    PoolInitialized,
    PoolUtilizationHigh,
    ReconnectAttempt,
    TransactionResolved,
)
from poolkeeper.observability.health import HealthReport, build_health_report
from poolkeeper.observability.statistics import (
    DurationRecorder,
    Histogram,
    HistogramSnapshot,
    PoolCounters,
    PoolStatistics,
    StatisticsSource,
)

__all__ = [
    "ConnectionLeakResolved",
    "ConnectionLeakSuspected",
    "ConnectionRecycled",
    "DatabaseConnectionLost",
    "DatabaseReconnected",
    "DurationRecorder",
    "Event",
    "EventBus",
    "FailoverDetected",
    "HealthReport",
    "Histogram",
    "HistogramSnapshot",
    "OperationClaimed",
    "OperationEnded",
    "OperationResumed",
    "PoolClosed",
    "PoolCounters",
    "PoolExhausted",
    "PoolInitialized",
    "PoolStatistics",
    "PoolUtilizationHigh",
    "ReconnectAttempt",
    "StatisticsSource",
    "TransactionResolved",
    "build_health_report",
]
