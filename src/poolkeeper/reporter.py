"""What a pool says about itself: each thing once, not at every sign of it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from poolkeeper.core.availability import HIGH_UTILIZATION
from poolkeeper.observability.events import (
    ConnectionRecycled,
    DatabaseConnectionLost,
    DatabaseReconnected,
    PoolExhausted,
    PoolUtilizationHigh,
    ReconnectAttempt,
)
from poolkeeper.refusals import cause_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.core.effects import OutageBegan
    from poolkeeper.core.slots import Slot
    from poolkeeper.observability.events import Event
    from poolkeeper.observability.statistics import PoolCounters
    from poolkeeper.snapshot import PoolSnapshot


class Reporter:
    """Emits the events of one pool and remembers its latest failure.

    Args:
        name: Name of the pool.
        counters: Of the pool; what is reported is counted here.
        emit: Takes the events.
        redact: Removes the pool's secrets from a text.
    """

    def __init__(
        self,
        name: str,
        counters: PoolCounters,
        emit: Callable[[Event], None],
        redact: Callable[[str], str],
    ) -> None:
        self.name = name
        self.last_error: BaseException | None = None
        self.exhausted_reported = False
        self._utilization_reported = False
        self._counters = counters
        self._emit = emit
        self._redact = redact
        # Dials of the present outage, or of the last one.
        self._attempts = 0

    def describe(self, error: BaseException) -> str:
        """One line for ``error``, without secrets."""
        return self._redact(cause_text(error))

    def failed(self, error: BaseException) -> None:
        """Keep the latest failure for error messages and health; secrets are removed."""
        self.last_error = error
        self._counters.last_error = self.describe(error)

    def recovered(self) -> None:
        """A connection could be opened: what failed before is history."""
        self.last_error = None
        self._counters.last_error = None

    def recycled(self, slot: Slot, reason: str) -> None:
        """A connection is being closed."""
        self._counters.recycled[reason] = self._counters.recycled.get(reason, 0) + 1
        self._emit(
            ConnectionRecycled(
                pool=self.name,
                reason=reason,
                age_seconds=monotonic() - slot.created_at,
                uses=slot.uses,
                connection_id=slot.id,
                error=slot.error,
            )
        )

    def outage_began(self, outage: OutageBegan, dialling: int) -> None:
        """The database is gone; ``dialling`` attempts are under way for other reasons."""
        self._counters.total_outages += 1
        self._emit(
            DatabaseConnectionLost(
                pool=self.name,
                detection_time_seconds=outage.silent_for,
                reason=outage.reason,
                error=None if outage.reason == "connection_lost" else self._counters.last_error,
                connections_lost=outage.connections_lost,
            )
        )
        self._attempts = 0
        for _ in range(dialling):
            # A dial begun for another reason is an attempt to reconnect now.
            self.attempt(0.0)

    def attempt(self, delay: float) -> None:
        """The prober dials, ``delay`` seconds after the attempt before."""
        self._attempts += 1
        self._emit(
            ReconnectAttempt(
                pool=self.name,
                attempt=self._attempts,
                delay_seconds=delay,
                error=self._counters.last_error,
            )
        )

    def outage_ended(self, duration: float) -> None:
        """The database is back; its last failure is history."""
        self._counters.outage_seconds += duration
        self.recovered()
        self._emit(
            DatabaseReconnected(pool=self.name, outage_seconds=duration, attempts=self._attempts)
        )

    def exhausted(self, snapshot: PoolSnapshot) -> None:
        """Somebody waits: say once that it is because all connections are in use."""
        if snapshot.active < snapshot.max_size:
            return
        self.exhausted_reported = True
        self._emit(
            PoolExhausted(
                pool=self.name,
                active=snapshot.active,
                waiting=snapshot.waiting,
                max_size=snapshot.max_size,
                oldest_waiter_seconds=snapshot.oldest_waiter_seconds,
            )
        )

    def look_at(self, snapshot: PoolSnapshot) -> None:
        """Report high utilization when it begins; be ready to report again what has ended."""
        if not snapshot.waiting:
            self.exhausted_reported = False
        utilization = snapshot.utilization
        if utilization <= HIGH_UTILIZATION:
            self._utilization_reported = False
        elif not self._utilization_reported:
            self._utilization_reported = True
            self._emit(
                PoolUtilizationHigh(
                    pool=self.name,
                    utilization=utilization,
                    active=snapshot.active,
                    max_size=snapshot.max_size,
                )
            )
