import gc
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from poolkeeper.observability.otel import instrument
from tests.observability.pools import CountingPool

PREFIX = "db.client.connection."
POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader):
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def collect(reader):
    """Give the exported metrics by name."""
    data = reader.get_metrics_data()
    return {
        metric.name: metric
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def values(reader, name):
    metric = collect(reader).get(PREFIX + name)
    points = metric.data.data_points if metric else ()
    return {tuple(point.attributes.values()): point.value for point in points}


def test_names_units_and_kinds_are_those_of_the_semantic_conventions(reader, provider):
    """Dashboards made for any other database client work on ours."""
    pool = CountingPool()
    instrument(pool, provider)
    pool.serve(0.001, 0.2)
    pool.recorder.create(0.03)
    exported = collect(reader)
    assert {name.removeprefix(PREFIX): metric.unit for name, metric in exported.items()} == {
        "count": "{connection}",
        "max": "{connection}",
        "idle.min": "{connection}",
        "idle.max": "{connection}",
        "pending_requests": "{request}",
        "timeouts": "{timeout}",
        "create_time": "s",
        "wait_time": "s",
        "use_time": "s",
    }
    for name in ("count", "max", "idle.min", "idle.max", "pending_requests"):
        assert not exported[PREFIX + name].data.is_monotonic, "an UpDownCounter"
    assert exported[PREFIX + "timeouts"].data.is_monotonic, "a Counter"
    for metric in exported.values():
        for point in metric.data.data_points:
            assert point.attributes[POOL_NAME] == "db.example:5432/shop"
    (state_keys,) = {frozenset(p.attributes) for p in exported[PREFIX + "count"].data.data_points}
    assert state_keys == {POOL_NAME, STATE}


def test_sizes_are_those_of_the_moment_of_collection(reader, provider):
    pool = CountingPool("p")
    instrument(pool, provider)
    pool.counters.total_timeouts = 5
    assert values(reader, "count") == {("p", "idle"): 2, ("p", "used"): 5}
    assert values(reader, "max") == {("p",): 10}
    assert values(reader, "idle.min") == {("p",): 2}
    assert values(reader, "idle.max") == {("p",): 10}
    assert values(reader, "pending_requests") == {("p",): 4}
    assert values(reader, "timeouts") == {("p",): 5}
    pool.counters.total_timeouts = 6
    assert values(reader, "timeouts") == {("p",): 6}


def test_each_duration_reaches_its_own_histogram_in_seconds(reader, provider):
    pool = CountingPool("p")
    instrument(pool, provider)
    pool.recorder.wait(0.002)
    pool.recorder.use(0.3)
    pool.recorder.use(7.0)
    pool.recorder.create(0.04)
    exported = collect(reader)
    seen = {}
    for name in ("wait_time", "use_time", "create_time"):
        (point,) = exported[PREFIX + name].data.data_points
        seen[name] = (point.count, pytest.approx(point.sum))
        assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
    assert seen == {"wait_time": (1, 0.002), "use_time": (2, 7.3), "create_time": (1, 0.04)}


def test_second_pool_is_exported_too(reader, provider):
    """OpenTelemetry drops the callbacks of an instrument made twice; ours are made once."""
    first, second = CountingPool("first"), CountingPool("second", idle=0)
    instrument(first, provider)
    instrument(second, provider)
    assert values(reader, "count") == {
        ("first", "idle"): 2,
        ("first", "used"): 5,
        ("second", "idle"): 0,
        ("second", "used"): 5,
    }
    first.recorder.wait(0.1)
    second.recorder.wait(0.2)
    points = collect(reader)[PREFIX + "wait_time"].data.data_points
    assert {point.attributes[POOL_NAME]: point.sum for point in points} == {
        "first": 0.1,
        "second": 0.2,
    }


def test_pool_without_instrumentation_has_nobody_to_tell():
    """Nothing is recorded for a pool that nobody instrumented, so it costs nothing."""
    assert CountingPool().recorder is None


def test_uninstrumented_pool_is_forgotten_and_tells_nobody(reader, provider):
    pool, other = CountingPool("gone"), CountingPool("stays")
    instrumentation = instrument(pool, provider)
    instrument(other, provider)
    instrumentation.uninstrument()
    instrumentation.uninstrument()
    assert pool.recorder is None
    assert values(reader, "max") == {("stays",): 10}


def test_instrumenting_twice_counts_once(reader, provider):
    pool = CountingPool("p")
    instrument(pool, provider)
    recorder = pool.recorder
    instrument(pool, provider)
    assert pool.recorder is recorder
    assert values(reader, "max") == {("p",): 10}


def test_exporting_does_not_keep_a_pool_alive(reader, provider):
    pool, other = CountingPool("garbage"), CountingPool("stays")
    instrumentation = instrument(pool, provider)
    instrument(other, provider)
    del pool
    gc.collect()
    assert values(reader, "max") == {("stays",): 10}
    instrumentation.uninstrument()


def test_missing_package_is_named_with_advice(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "poolkeeper.observability.otel")
    with pytest.raises(ImportError, match=r"Suggestion: pip install 'poolkeeper\[otel\]'"):
        import poolkeeper.observability.otel  # noqa: F401, PLC0415
