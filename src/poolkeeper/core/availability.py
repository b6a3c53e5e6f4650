"""Is the database there? Computed from evidence each time it is asked, never stored."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Failure(Enum):
    """What a failed connection attempt says about the database.

    UNAVAILABLE: nobody there, or somebody who does not answer.
    STARTING: it is there and says "wait" (57P03, 57P01).
    MISCONFIGURED: it is there and refuses this client (password, role, database).
    BACKPRESSURE: it is there and full (53300); more attempts make it worse, waiting helps.
    """

    UNAVAILABLE = "unavailable"
    STARTING = "starting"
    MISCONFIGURED = "misconfigured"
    BACKPRESSURE = "backpressure"


class Availability(Enum):
    """The word for the state of the database as this pool sees it."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at one instant.

    Attributes:
        down_since: When the last usable connection was lost, or None.
        connected: Open connections of the current generation.
        min_size: The floor.
        used_fraction: Connections in use divided by ``max_size``.
        last_failure_age: Seconds since the last failed attempt or probe, or None.
        probe_latency: Seconds the last probe took, or None.
    """

    down_since: float | None
    connected: int
    min_size: int
    used_fraction: float
    last_failure_age: float | None
    probe_latency: float | None


HIGH_UTILIZATION = 0.8
SLOW_PROBE_SECONDS = 0.5
RECENT_FAILURE_SECONDS = 10.0


def judge(evidence: Evidence) -> tuple[Availability, list[str]]:
    """Name the state and give the reasons for anything less than UP."""
    if evidence.down_since is not None:
        return Availability.DOWN, ["no usable connection to the database"]
    reasons: list[str] = []
    if evidence.connected < evidence.min_size:
        reasons.append(f"{evidence.connected} of at least {evidence.min_size} connections are open")
    if evidence.used_fraction > HIGH_UTILIZATION:
        reasons.append(f"{evidence.used_fraction:.0%} of the connections are in use")
    if evidence.probe_latency is not None and evidence.probe_latency > SLOW_PROBE_SECONDS:
        reasons.append(f"the last probe took {evidence.probe_latency:.3f} s")
    if evidence.last_failure_age is not None and evidence.last_failure_age < RECENT_FAILURE_SECONDS:
        reasons.append(f"a connection failed {evidence.last_failure_age:.1f} s ago")
    return (Availability.DEGRADED if reasons else Availability.UP), reasons
