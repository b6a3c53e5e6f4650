"""The outages of the database since the server was started, told by the events of its pool."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from poolkeeper.observability.events import (
    DatabaseConnectionLost,
    DatabaseReconnected,
    FailoverDetected,
    ReconnectAttempt,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.observability.events import Event

_KEPT = 50


@dataclass(slots=True)
class Outage:
    """One time without a database.

    Attributes:
        began_at: Unix time at which the pool knew.
        ended_at: Unix time at which it could work again; None while the outage goes on.
        seconds: How long it was; None while it goes on.
        cause: The kind of evidence, as in the event ``database_connection_lost``.
        error: The failure behind it, without secrets; where connections just broke, how the first
            attempt to dial ended.
        detection_seconds: From the last sign of life to ``began_at``.
        connections_lost: How many connections it cost.
        attempts: How often the pool has dialled.
        last_error: How the latest of these attempts but one ended.
        failover: The host that serves since then, where that is another one.
    """

    began_at: float
    cause: str
    error: str | None
    detection_seconds: float
    connections_lost: int
    ended_at: float | None = None
    seconds: float | None = None
    attempts: int = 0
    last_error: str | None = None
    failover: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the facts by name, ready for JSON."""
        return asdict(self)


@dataclass(slots=True)
class OutageHistory:
    """A listener for the events of a pool; keeps the latest outages, oldest first."""

    outages: deque[Outage] = field(default_factory=lambda: deque(maxlen=_KEPT))
    clock: Callable[[], float] = time.time

    @property
    def present(self) -> Outage | None:
        """The outage that goes on now."""
        latest = self.outages[-1] if self.outages else None
        return latest if latest is not None and latest.ended_at is None else None

    def __call__(self, event: Event) -> None:
        """Note what an event says about the database."""
        present = self.present
        match event:
            case DatabaseConnectionLost():
                self.outages.append(
                    Outage(
                        began_at=self.clock(),
                        cause=event.reason,
                        error=event.error,
                        detection_seconds=event.detection_time_seconds,
                        connections_lost=event.connections_lost,
                    )
                )
            case ReconnectAttempt() if present:
                present.attempts = event.attempt
                present.error = present.error or event.error
                present.last_error = event.error or present.last_error
            case FailoverDetected() if present:
                present.failover = event.to_host
            case DatabaseReconnected() if present:
                present.ended_at = self.clock()
                present.seconds = event.outage_seconds
                present.attempts = event.attempts
            case _:
                pass

    def to_list(self) -> list[dict[str, Any]]:
        """Give the outages, oldest first, ready for JSON."""
        return [outage.to_dict() for outage in self.outages]
