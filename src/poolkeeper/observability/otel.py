"""OpenTelemetry: the ``db.client.connection.*`` metrics of the semantic conventions."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from poolkeeper.observability.statistics import DurationRecorder, PoolStatistics, StatisticsSource

try:
    from opentelemetry import metrics
    from opentelemetry.metrics import Observation
except ImportError as missing:
    raise ImportError(
        "poolkeeper.observability.otel needs the package opentelemetry-api, which is not "
        "installed. Suggestion: pip install 'poolkeeper[otel]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"

_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


class InstrumentablePool(StatisticsSource, Protocol):
    """A pool that can be told whom to tell about durations."""

    def set_duration_recorder(self, recorder: DurationRecorder | None) -> None:
        """Call ``recorder`` for every duration from now on; None stops that."""
        ...


class Instrumentation:
    """Stands for one instrumented pool; ``uninstrument()`` ends it."""

    def __init__(self, instruments: _Instruments, pool: InstrumentablePool) -> None:
        self._instruments = instruments
        self._pool = weakref.ref(pool)

    def uninstrument(self) -> None:
        """Stop exporting the pool. Doing it twice, or after the pool is gone, does nothing."""
        pool = self._pool()
        if pool is not None and self._instruments.remove(pool):
            pool.set_duration_recorder(None)


def instrument(
    pool: InstrumentablePool, meter_provider: MeterProvider | None = None
) -> Instrumentation:
    """Export ``pool`` under its name, through the global meter provider or the one given.

    Sizes, queue and timeouts are read when an exporter collects; only the three histograms are
    recorded as things happen. The pool is not kept alive: one that is garbage is not exported any
    more. Instrumenting a pool again has no further effect; with another provider it moves the
    histograms there, since a pool has one recorder.

    ``used`` connections are those in the hands of a caller or of the pool itself (validating,
    resetting); connections being opened or closed are in neither state.
    """
    instruments = _instruments_of(meter_provider)
    if instruments.add(pool):
        pool.set_duration_recorder(_Recorder(instruments, pool.name))
    return Instrumentation(instruments, pool)


class _Recorder:
    """Sends one pool's durations to the shared histograms."""

    def __init__(self, instruments: _Instruments, name: str) -> None:
        self._wait_time = instruments.wait_time
        self._use_time = instruments.use_time
        self._create_time = instruments.create_time
        self._attributes = {POOL_NAME: name}

    def wait(self, seconds: float) -> None:
        self._wait_time.record(seconds, self._attributes)

    def use(self, seconds: float) -> None:
        self._use_time.record(seconds, self._attributes)

    def create(self, seconds: float) -> None:
        self._create_time.record(seconds, self._attributes)


class _Instruments:
    """The instruments of one meter provider, shared by all its pools.

    Shared because OpenTelemetry ignores the callbacks of an instrument that is created a second
    time under the same name: a second pool would be exported by nobody.
    """

    def __init__(self, meter_provider: MeterProvider | None) -> None:
        self._lock = threading.Lock()  # exporters collect in threads of their own
        self._pools: tuple[weakref.ref[InstrumentablePool], ...] = ()

        meter = metrics.get_meter("poolkeeper", meter_provider=meter_provider)

        def level(name: str, unit: str, text: str, read: Callable[[PoolStatistics], int]) -> None:
            meter.create_observable_up_down_counter(
                f"db.client.connection.{name}", [self._observer(read)], unit, text
            )

        def durations(name: str, text: str) -> Histogram:
            return meter.create_histogram(
                f"db.client.connection.{name}",
                "s",
                text,
                explicit_bucket_boundaries_advisory=_BUCKETS,
            )

        meter.create_observable_up_down_counter(
            "db.client.connection.count",
            [self._observe_count],
            "{connection}",
            "The number of connections that are currently in the state.",
        )
        level("max", "{connection}", "Most connections allowed.", lambda s: s.max_size)
        level("idle.min", "{connection}", "Fewest open connections kept.", lambda s: s.min_size)
        level("idle.max", "{connection}", "Most idle connections allowed.", lambda s: s.max_size)
        level(
            "pending_requests",
            "{request}",
            "Requests waiting for a connection.",
            lambda s: s.waiting_requests,
        )
        meter.create_observable_counter(
            "db.client.connection.timeouts",
            [self._observer(lambda s: s.total_timeouts)],
            "{timeout}",
            "Requests that got no connection in time.",
        )
        self.create_time = durations("create_time", "How long opening a connection took.")
        self.wait_time = durations("wait_time", "How long requests waited for a connection.")
        self.use_time = durations("use_time", "How long connections were held.")

    def add(self, pool: InstrumentablePool) -> bool:
        """Tell whether the pool is new here."""
        with self._lock:
            alive = [known for known in self._pools if known() is not None]
            if any(known() is pool for known in alive):
                return False
            self._pools = (*alive, weakref.ref(pool))
            return True

    def remove(self, pool: InstrumentablePool) -> bool:
        """Tell whether the pool was here."""
        with self._lock:
            before = len(self._pools)
            self._pools = tuple(known for known in self._pools if known() is not pool)
            return len(self._pools) < before

    def _statistics(self) -> Iterator[PoolStatistics]:
        for known in self._pools:
            pool = known()
            if pool is not None:
                yield pool.get_statistics()

    def _observer(
        self, read: Callable[[PoolStatistics], int]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(read(s), {POOL_NAME: s.pool}) for s in self._statistics()]

        return observe

    def _observe_count(self, _: CallbackOptions) -> Iterable[Observation]:
        for s in self._statistics():
            used = s.active_connections + s.validating_connections + s.resetting_connections
            yield Observation(s.idle_connections, {POOL_NAME: s.pool, STATE: "idle"})
            yield Observation(used, {POOL_NAME: s.pool, STATE: "used"})


class _GlobalProvider:
    """Key of the global provider, which is one object before it is set and another afterwards."""


_GLOBAL = _GlobalProvider()
_known: weakref.WeakKeyDictionary[object, _Instruments] = weakref.WeakKeyDictionary()
_known_lock = threading.Lock()


def _instruments_of(meter_provider: MeterProvider | None) -> _Instruments:
    if meter_provider is metrics.get_meter_provider():
        meter_provider = None
    key = _GLOBAL if meter_provider is None else meter_provider
    with _known_lock:
        if key not in _known:
            _known[key] = _Instruments(meter_provider)
        return _known[key]
