"""The numbers behind the charts."""

import json

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.observability.statistics import Histogram
from poolkeeper.server.activity import Activity
from poolkeeper.server.context import RequestContext
from poolkeeper.server.dashboard.sampler import COLUMNS, KEPT_SECONDS, DurationWindow, Sampler


class Clock:
    """Moves when told."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


def made():
    """A sampler of a pool that was never opened, its activity, and its clock."""
    pool = ConnectionPoolManager(
        PoolConfig(database_url="postgresql://app@localhost/app", min_size=1, max_size=7)
    )
    activity, clock = Activity(), Clock()
    return Sampler(pool, activity, clock=clock), activity, clock


def answer(activity, status):
    running = activity.begin(RequestContext("id", 0.0), "/sql")
    running.got(4711)
    activity.end(running, status=status)


def rows(sampler, cursor=0):
    return [dict(zip(COLUMNS, row, strict=True)) for row in json.loads(sampler.rows_since(cursor))]


def test_answers_are_told_per_second_by_what_they_mean_to_a_client():
    sampler, activity, clock = made()
    assert sampler.beat()
    for status in (200, 200, 200, 200, 400, 507, 503, 502, 500, 500):
        answer(activity, status)
    clock.now += 2.0
    assert sampler.beat()
    before, now = rows(sampler)
    assert (before["succeeded"], now["succeeded"]) == (0, 2)
    assert now["client_errors"] == 1
    assert now["not_executed"] == 0.5
    assert now["server_errors"] == 1.5
    assert now["max_size"] == 7


def test_a_beat_too_soon_takes_no_sample():
    """The heart may beat faster than once per second."""
    sampler, _activity, clock = made()
    assert sampler.beat()
    clock.now += 0.5
    assert not sampler.beat()
    clock.now += 0.5
    assert sampler.beat()
    assert len(rows(sampler)) == 2


def test_a_clock_set_back_does_not_stop_the_samples():
    sampler, _activity, clock = made()
    sampler.beat()
    clock.now -= 3600
    assert sampler.beat()
    assert rows(sampler)[-1]["succeeded"] == 0


def test_ten_minutes_are_kept_and_a_cursor_gets_what_is_new():
    sampler, _activity, clock = made()
    for _ in range(KEPT_SECONDS + 5):
        sampler.beat()
        clock.now += 1.0
    kept = rows(sampler)
    assert len(kept) == KEPT_SECONDS
    assert kept[0]["at"] == 1_000_005.0
    assert [row["at"] for row in rows(sampler, sampler.taken - 2)] == [1_000_603.0, 1_000_604.0]
    assert rows(sampler, sampler.taken) == []


def test_quantiles_are_those_of_the_recent_past():
    """What was slow a while ago does not colour what is fast now."""
    histogram, window = Histogram(), DurationWindow(60)
    histogram.observe(20.0)
    for _ in range(12):
        window.add(histogram.snapshot())
    histogram.observe(0.004)
    window.add(histogram.snapshot())
    recent = window.last(10)
    assert recent.count == 1
    assert 0.0025 < recent.quantile(0.99) <= 0.005
    assert window.last(60).count == 1


def test_a_sample_tells_the_latency_of_the_last_ten_seconds():
    sampler, activity, clock = made()
    sampler.beat()
    activity.seconds.observe(20.0)
    highest = []
    for _ in range(12):
        clock.now += 1.0
        sampler.beat()
        highest.append(rows(sampler)[-1]["request_p99"])
    assert min(highest[:10]) > 10.0
    assert highest[10:] == [None, None]


def test_durations_without_any_are_null():
    sampler, activity, clock = made()
    sampler.beat()
    assert rows(sampler)[0]["request_p99"] is None
    answer(activity, 200)
    clock.now += 1.0
    sampler.beat()
    assert rows(sampler)[1]["request_p99"] > 0
    assert sampler.quantiles(60)["request"]["count"] == 1
    assert sampler.quantiles(60)["wait"] == {"count": 0, "p50": None, "p95": None, "p99": None}
