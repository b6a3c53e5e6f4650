"""A pool as the exporters see one: counters somebody feeds, and sizes that add up."""

from dataclasses import replace

from poolkeeper.core.availability import Availability
from poolkeeper.observability.statistics import DurationRecorder, PoolCounters, PoolStatistics
from poolkeeper.snapshot import PoolSnapshot

SNAPSHOT = PoolSnapshot(
    total=9,
    idle=2,
    active=3,
    connecting=1,
    validating=1,
    resetting=1,
    closing=1,
    waiting=4,
    oldest_waiter_seconds=1.5,
    min_size=2,
    max_size=10,
)


class CountingPool:
    """Keeps real counters; tests feed them the way a pool does."""

    def __init__(self, name="db.example:5432/shop", **sizes):
        self.name = name
        self.snapshot = replace(SNAPSHOT, **sizes)
        self.counters = PoolCounters()
        self.availability = Availability.UP
        self.current_outage_seconds = 0.0
        self.recorder: DurationRecorder | None = None

    def set_duration_recorder(self, recorder):
        self.recorder = recorder

    def get_statistics(self) -> PoolStatistics:
        return PoolStatistics.collect(
            self.snapshot,
            self.counters,
            pool=self.name,
            uptime_seconds=12.0,
            availability=self.availability,
            current_outage_seconds=self.current_outage_seconds,
        )

    def serve(self, wait, use):
        """Count one acquire and its release."""
        self.counters.total_acquisitions += 1
        self.counters.wait.observe(wait)
        self.counters.total_releases += 1
        self.counters.use.observe(use)
        if self.recorder is not None:
            self.recorder.wait(wait)
            self.recorder.use(use)
