import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper.observability.statistics import (
    BUCKET_BOUNDS,
    Histogram,
    PoolCounters,
    PoolStatistics,
)
from poolkeeper.snapshot import PoolSnapshot
from tests.observability.pools import SNAPSHOT, CountingPool

durations = st.floats(min_value=0.0, max_value=600.0)
counts = st.integers(min_value=0, max_value=50)


def filled(values):
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    return histogram.snapshot()


def test_bounds_hold_those_of_opentelemetry():
    assert list(BUCKET_BOUNDS) == sorted(set(BUCKET_BOUNDS))
    assert {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10} <= set(BUCKET_BOUNDS)


@given(st.lists(durations | st.sampled_from(BUCKET_BOUNDS)))
def test_cumulative_counts_are_how_many_values_a_bound_covers(values):
    """A value on a bound belongs to that bucket, as Prometheus counts it."""
    snapshot = filled(values)
    for bound, count in zip(snapshot.bounds, snapshot.cumulative, strict=False):
        assert count == sum(value <= bound for value in values)
    assert snapshot.cumulative[-1] == snapshot.count == len(values)
    assert snapshot.sum == pytest.approx(sum(values))


@given(st.lists(durations, min_size=1), st.floats(min_value=0.0, max_value=1.0))
def test_quantile_lies_in_the_bucket_of_the_true_one(values, q):
    """An estimate is never further off than one bucket."""
    estimate = filled(values).quantile(q)
    rank = q * len(values)
    true = next(v for i, v in enumerate(sorted(values), 1) if i >= rank)
    edges = [0.0, *BUCKET_BOUNDS]
    low = max((edge for edge in edges if edge < true), default=0.0)
    high = min((edge for edge in edges[1:] if edge >= true), default=edges[-1])
    assert low <= estimate <= high


def test_quantile_inside_a_bucket_is_linear():
    snapshot = filled([0.6] * 100)
    assert snapshot.quantile(0.5) == pytest.approx(0.75)
    assert snapshot.quantile(1.0) == pytest.approx(1.0)
    assert snapshot.mean == pytest.approx(0.6)


def test_histogram_without_values_estimates_nothing():
    snapshot = filled([])
    assert snapshot.quantile(0.99) is None
    assert snapshot.mean is None


@pytest.mark.parametrize("q", [-0.1, 99])
def test_quantile_outside_its_range_is_refused_with_advice(q):
    with pytest.raises(ValueError, match="Suggestion"):
        filled([1.0]).quantile(q)


@given(st.tuples(*[counts] * 6), counts, st.lists(st.tuples(durations, durations)))
def test_numbers_add_up(states, waiting, served):
    """Whatever happened, the states sum to the total and each histogram to its counter."""
    idle, active, connecting, validating, resetting, closing = states
    pool = CountingPool(
        total=sum(states),
        idle=idle,
        active=active,
        connecting=connecting,
        validating=validating,
        resetting=resetting,
        closing=closing,
        waiting=waiting,
        max_size=max(1, sum(states)),
    )
    for wait, use in served:
        pool.serve(wait, use)
    stats = pool.get_statistics()
    assert stats.total_connections == (
        stats.idle_connections
        + stats.active_connections
        + stats.connecting_connections
        + stats.validating_connections
        + stats.resetting_connections
        + stats.closing_connections
    )
    assert stats.waiting_requests == waiting
    assert stats.wait_seconds.count == stats.total_acquisitions == len(served)
    assert stats.use_seconds.count == stats.total_releases == len(served)
    assert 0.0 <= stats.utilization <= 1.0


def test_each_number_comes_from_the_counter_of_its_name():
    """No counter ends up under another's name."""
    counters = PoolCounters()
    plain = [f.name for f in dataclasses.fields(PoolCounters) if f.type in {"int", "float"}]
    for number, name in enumerate(plain, start=100):
        setattr(counters, name, number)
    sizes = {f.name: 1000 + i for i, f in enumerate(dataclasses.fields(PoolSnapshot))}
    counters.wait.observe(1)
    counters.use.observe(2)
    counters.create.observe(3)
    stats = PoolStatistics.collect(PoolSnapshot(**sizes), counters, pool="shop", uptime_seconds=7.0)
    for number, name in enumerate(plain, start=100):
        assert getattr(stats, name) == number
    for name in ("total", "idle", "active", "connecting", "validating", "resetting", "closing"):
        assert getattr(stats, f"{name}_connections") == sizes[name]
    assert stats.waiting_requests == sizes["waiting"]
    assert stats.oldest_waiter_seconds == sizes["oldest_waiter_seconds"]
    assert (stats.min_size, stats.max_size) == (sizes["min_size"], sizes["max_size"])
    assert [h.sum for h in (stats.wait_seconds, stats.use_seconds, stats.create_seconds)] == [
        1,
        2,
        3,
    ]
    assert (stats.pool, stats.uptime_seconds) == ("shop", 7.0)


def test_picture_does_not_change_when_the_pool_goes_on():
    pool = CountingPool()
    pool.serve(0.001, 0.2)
    pool.counters.recycled["lifetime"] = 1
    before = pool.get_statistics()
    pool.serve(0.001, 0.2)
    pool.counters.recycled["lifetime"] = 2
    assert before.total_acquisitions == before.wait_seconds.count == 1
    assert before.recycled == {"lifetime": 1}
    with pytest.raises(TypeError):
        before.recycled["lifetime"] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.total_acquisitions = 3


def test_outage_going_on_counts_until_now():
    pool = CountingPool()
    pool.counters.outage_seconds = 10.0
    pool.current_outage_seconds = 2.5
    assert pool.get_statistics().outage_seconds == 12.5


def test_dictionary_fits_into_json_and_holds_everything():
    pool = CountingPool()
    pool.serve(0.001, 0.2)
    pool.counters.recycled["idle"] = 4
    stats = pool.get_statistics()
    plain = json.loads(json.dumps(stats.to_dict()))
    assert set(plain) == {f.name for f in dataclasses.fields(stats)} | {"utilization"}
    assert plain["utilization"] == SNAPSHOT.active / SNAPSHOT.max_size
    assert plain["recycled"] == {"idle": 4}
    assert plain["availability"] == "up"
    assert plain["use_seconds"]["count"] == 1
    assert plain["use_seconds"]["cumulative"][-1] == 1
    assert len(plain["use_seconds"]["cumulative"]) == len(plain["use_seconds"]["bounds"]) + 1
