"""The health of a pool in words, built from evidence that is already there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from poolkeeper.core.availability import Availability

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poolkeeper.snapshot import PoolSnapshot

HealthStatus: TypeAlias = Literal["healthy", "degraded", "unhealthy"]
DatabaseStatus: TypeAlias = Literal["connected", "connecting", "disconnected"]

_HEALTH_OF: dict[Availability, HealthStatus] = {
    Availability.UP: "healthy",
    Availability.DEGRADED: "degraded",
    Availability.DOWN: "unhealthy",
}


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """How many connections there are, and who waits for one."""

    total: int
    idle: int
    active: int
    waiting: int


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """What is known of the database.

    Attributes:
        status: ``connected``; ``connecting`` while the first connection is being made;
            ``disconnected`` during an outage, also while the prober dials.
        pool: The sizes of the pool.
        latency_ms: Round trip of the latest probe in milliseconds, None before the first one
            and while disconnected.
        last_error: The latest failure to reach the database, without secrets.
        outage_seconds: Age of the outage, None without one.
        next_attempt_seconds: Until the prober dials again; None without an outage or while it
            is dialling.
    """

    status: DatabaseStatus
    pool: PoolHealth
    latency_ms: float | None
    last_error: str | None
    outage_seconds: float | None
    next_attempt_seconds: float | None


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What ``health_check()`` and ``GET /health`` answer.

    ``reasons`` says in words why the status is not ``healthy``; ``timestamp`` is ISO 8601 in UTC.
    """

    status: HealthStatus
    timestamp: str
    database: DatabaseHealth
    uptime_seconds: float
    reasons: tuple[str, ...] = ()

    @property
    def http_status(self) -> int:
        """200 while work can be done, degraded or not; 503 otherwise."""
        return 503 if self.status == "unhealthy" else 200

    def to_dict(self) -> dict[str, Any]:
        """Give the report as ``GET /health`` sends it."""
        return {**asdict(self), "reasons": list(self.reasons)}


def build_health_report(
    availability: Availability,
    snapshot: PoolSnapshot,
    *,
    connecting: bool = False,
    now: datetime,
    uptime_seconds: float,
    reasons: Iterable[str] = (),
    latency_seconds: float | None = None,
    last_error: str | None = None,
    outage_seconds: float | None = None,
    next_attempt_seconds: float | None = None,
) -> HealthReport:
    """Put evidence into the form of a report. Asks nobody, waits for nothing.

    Args:
        availability: The conclusion, drawn elsewhere.
        snapshot: The sizes of the pool.
        connecting: The first connection is being made.
        now: The time of the report, aware of its time zone.
        uptime_seconds: Since the pool was opened.
        reasons: Why the pool is degraded or down, one sentence each.
        latency_seconds: Round trip of the latest probe.
        last_error: The latest failure to reach the database, already without secrets.
        outage_seconds: Age of the outage going on now.
        next_attempt_seconds: Until the prober dials again.
    """
    database = _database_status(availability, snapshot, outage_seconds, connecting=connecting)
    if database == "disconnected":
        # The round trip of before says nothing about now.
        latency_seconds = None
    return HealthReport(
        status=_HEALTH_OF[availability],
        timestamp=now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        database=DatabaseHealth(
            status=database,
            pool=PoolHealth(
                total=snapshot.total,
                idle=snapshot.idle,
                active=snapshot.active,
                waiting=snapshot.waiting,
            ),
            latency_ms=None if latency_seconds is None else round(latency_seconds * 1000, 3),
            last_error=last_error,
            outage_seconds=None if outage_seconds is None else round(outage_seconds, 3),
            next_attempt_seconds=(
                None if next_attempt_seconds is None else round(max(next_attempt_seconds, 0.0), 3)
            ),
        ),
        uptime_seconds=round(uptime_seconds, 3),
        reasons=tuple(reasons),
    )


def _database_status(
    availability: Availability,
    snapshot: PoolSnapshot,
    outage_seconds: float | None,
    *,
    connecting: bool,
) -> DatabaseStatus:
    if outage_seconds is not None:
        return "disconnected"
    if connecting or (snapshot.connecting and snapshot.connecting == snapshot.total):
        return "connecting"
    if snapshot.idle or snapshot.active:
        # Also while the pool drains, when it is down for newcomers only.
        return "connected"
    # a pool with min_size 0 holds nothing while nobody asks, and is none the worse for it
    return "disconnected" if availability is Availability.DOWN else "connected"
