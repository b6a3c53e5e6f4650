import sys

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolkeeper.core.availability import Availability
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.observability.prometheus import OPENMETRICS, TEXT, PoolCollector, exposition
from tests.observability.pools import CountingPool

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


def busy_pool(name="shop"):
    pool = CountingPool(name)
    pool.serve(0.00005, 0.003)
    pool.serve(0.3, 120.0)
    counters = pool.counters
    counters.create.observe(0.02)
    counters.total_connects = 1
    counters.total_connect_failures = 2
    counters.total_timeouts = 3
    counters.total_rejections = 4
    counters.total_unavailable = 5
    counters.total_cancellations = 6
    counters.total_outages = 7
    counters.outage_seconds = 8.5
    counters.total_retries = 11
    counters.total_transactions_resolved = 12
    counters.total_transactions_unknown = 13
    counters.recycled = {"lifetime": 9, "probe_failed": 10}
    return pool


def registry_of(*pools):
    registry = CollectorRegistry()
    registry.register(PoolCollector(*pools, version="1.2.3"))
    return registry


def scrape(*pools, accept=None):
    content_type, body = exposition(registry_of(*pools), accept)
    parse = parse_openmetrics if content_type == OPENMETRICS else parse_text
    families = list(parse(body.decode()))
    samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, "the same series twice"
            samples[key] = sample.value
    return families, samples


def value(samples, name, pool="shop", **labels):
    return samples[f"poolkeeper_{name}", frozenset({"pool": pool, **labels}.items())]


@pytest.mark.parametrize("accept", [None, PROMETHEUS_3], ids=["text", "openmetrics"])
def test_every_number_of_the_pool_can_be_scraped(accept):
    """Both formats are accepted by their strict parsers and carry the same numbers."""
    families, samples = scrape(busy_pool(), accept=accept)
    assert all(family.documentation for family in families)
    states = {"idle": 2, "active": 3, "connecting": 1, "validating": 1, "resetting": 1}
    for state, count in {**states, "closing": 1}.items():
        assert value(samples, "pool_connections", state=state) == count
    expected = {
        "pool_max_connections": 10,
        "pool_min_connections": 2,
        "pool_waiters": 4,
        "pool_oldest_waiter_seconds": 1.5,
        "pool_acquisitions_total": 2,
        "pool_releases_total": 2,
        "pool_acquire_timeouts_total": 3,
        "pool_acquire_cancellations_total": 6,
        "pool_connects_total": 1,
        "pool_connect_failures_total": 2,
        "db_up": 1,
        "db_outages_total": 7,
        "outage_seconds_total": 8.5,
        "retries_total": 11,
        "transactions_resolved_total": 12,
        "transactions_unknown_total": 13,
    }
    assert {name: value(samples, name) for name in expected} == expected
    assert value(samples, "pool_acquire_rejections_total", reason="queue_full") == 4
    assert value(samples, "pool_acquire_rejections_total", reason="database_unavailable") == 5
    assert value(samples, "pool_connections_recycled_total", reason="lifetime") == 9
    assert value(samples, "pool_connections_recycled_total", reason="probe_failed") == 10
    assert samples["poolkeeper_build_info", frozenset({("version", "1.2.3")})] == 1
    assert len(samples) == 6 + len(expected) + 4 + 1 + 3 * (19 + 2)


@pytest.mark.parametrize("accept", [None, PROMETHEUS_3], ids=["text", "openmetrics"])
def test_histograms_are_complete(accept):
    """Buckets are cumulative and end at +Inf with the count; sum and count are there."""
    _, samples = scrape(busy_pool(), accept=accept)
    assert value(samples, "pool_acquire_seconds_bucket", le="0.0001") == 1
    assert value(samples, "pool_acquire_seconds_bucket", le="0.25") == 1
    assert value(samples, "pool_acquire_seconds_bucket", le="0.5") == 2
    assert value(samples, "pool_acquire_seconds_bucket", le="+Inf") == 2
    assert value(samples, "pool_acquire_seconds_count") == 2
    assert value(samples, "pool_acquire_seconds_sum") == pytest.approx(0.30005)
    assert value(samples, "pool_use_seconds_bucket", le="60.0") == 1
    assert value(samples, "pool_use_seconds_bucket", le="+Inf") == 2
    assert value(samples, "pool_create_seconds_count") == 1


def test_openmetrics_names_the_unit():
    families, _ = scrape(busy_pool(), accept=PROMETHEUS_3)
    units = {family.name: family.unit for family in families}
    assert units["poolkeeper_pool_use_seconds"] == "seconds"
    assert units["poolkeeper_outage_seconds"] == "seconds"
    assert units["poolkeeper_pool_waiters"] == ""


@pytest.mark.parametrize("availability", Availability)
def test_database_is_up_until_it_is_down(availability):
    pool = busy_pool()
    pool.availability = availability
    _, samples = scrape(pool)
    assert value(samples, "db_up") == (availability is not Availability.DOWN)


def test_many_pools_are_told_apart():
    other = busy_pool('db:5432/a "quoted"\\name')
    other.counters.total_timeouts = 42
    _, samples = scrape(busy_pool(), other)
    assert value(samples, "pool_acquire_timeouts_total") == 3
    assert value(samples, "pool_acquire_timeouts_total", pool=other.name) == 42


def test_two_pools_of_one_name_are_refused_with_advice():
    """Duplicate series would make Prometheus drop the whole scrape."""
    collector = PoolCollector(busy_pool())
    with pytest.raises(PoolConfigurationError, match=r"'shop'.*Suggestion: give each pool a name"):
        collector.add(busy_pool())


def test_pool_that_was_removed_is_not_scraped():
    pool = busy_pool()
    collector = PoolCollector(pool)
    collector.add(pool)
    collector.remove(pool)
    registry = CollectorRegistry()
    registry.register(collector)
    assert b'pool="shop"' not in exposition(registry)[1]


def test_registry_that_describes_its_collectors_takes_ours():
    """The default registry of prometheus_client collects once while registering."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(PoolCollector(busy_pool()))
    assert b"poolkeeper_pool_waiters" in exposition(registry)[1]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4;q=0.3", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.8", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0", TEXT),
        ("application/openmetrics-text;q=much", TEXT),
        ("application/openmetrics-text;version", TEXT),
        (";;;,=,", TEXT),
        (PROMETHEUS_3, OPENMETRICS),
    ],
)
def test_format_is_the_one_the_client_prefers(accept, expected):
    """A header that makes no sense gets the format everybody understands, not an error."""
    content_type, body = exposition(registry_of(busy_pool()), accept)
    assert content_type == expected
    assert body.endswith(b"# EOF\n") == (expected == OPENMETRICS)


def test_missing_package_is_named_with_advice(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "poolkeeper.observability.prometheus")
    with pytest.raises(ImportError, match=r"Suggestion: pip install 'poolkeeper\[server\]'"):
        import poolkeeper.observability.prometheus  # noqa: F401, PLC0415
