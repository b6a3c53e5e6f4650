import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from poolkeeper.core.availability import Availability
from poolkeeper.observability.health import build_health_report
from tests.observability.pools import SNAPSHOT

NOW = datetime(2025, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)


def report(availability=Availability.UP, snapshot=SNAPSHOT, **facts):
    return build_health_report(availability, snapshot, now=NOW, uptime_seconds=60.0, **facts)


@pytest.mark.parametrize(
    ("availability", "status", "http_status"),
    [
        (Availability.UP, "healthy", 200),
        (Availability.DEGRADED, "degraded", 200),
        (Availability.DOWN, "unhealthy", 503),
    ],
)
def test_availability_becomes_health_and_http_status(availability, status, http_status):
    """A degraded pool still serves; only an unhealthy one takes itself out of the balancer."""
    made = report(availability)
    assert (made.status, made.http_status) == (status, http_status)


def test_report_has_exactly_the_promised_shape():
    made = report(
        Availability.DOWN,
        reasons=["the database has not answered for 3 s"],
        latency_seconds=0.00123456,
        last_error="connection refused",
        outage_seconds=3.00049,
        next_attempt_seconds=0.25,
    )
    assert json.loads(json.dumps(made.to_dict())) == {
        "status": "unhealthy",
        "timestamp": "2025-03-04T05:06:07.891Z",
        "database": {
            "status": "disconnected",
            "pool": {"total": 9, "idle": 2, "active": 3, "waiting": 4},
            "latency_ms": None,
            "last_error": "connection refused",
            "outage_seconds": 3.0,
            "next_attempt_seconds": 0.25,
        },
        "uptime_seconds": 60.0,
        "reasons": ["the database has not answered for 3 s"],
    }


def test_the_latency_is_told_in_milliseconds_while_the_database_answers():
    """In an outage the round trip of before says nothing."""
    assert report(latency_seconds=0.00123456).to_dict()["database"]["latency_ms"] == 1.235


def test_what_is_not_known_is_null():
    database = report().to_dict()["database"]
    for name in ("latency_ms", "last_error", "outage_seconds", "next_attempt_seconds"):
        assert database[name] is None


def test_timestamp_is_utc_whatever_the_zone_of_the_clock():
    local = NOW.astimezone(timezone(timedelta(hours=9)))
    made = build_health_report(Availability.UP, SNAPSHOT, now=local, uptime_seconds=1.0)
    assert made.timestamp == "2025-03-04T05:06:07.891Z"
    assert datetime.fromisoformat(made.timestamp) == NOW.replace(microsecond=891000)


EMPTY = dataclasses.replace(
    SNAPSHOT, total=0, idle=0, active=0, connecting=0, validating=0, resetting=0, closing=0
)
DIALLING = dataclasses.replace(EMPTY, total=1, connecting=1)


@pytest.mark.parametrize(
    ("availability", "snapshot", "outage_seconds", "expected"),
    [
        (Availability.UP, SNAPSHOT, None, "connected"),
        (Availability.DEGRADED, SNAPSHOT, None, "connected"),
        (Availability.UP, EMPTY, None, "connected"),  # min_size 0, nobody asks
        (Availability.DEGRADED, DIALLING, None, "connecting"),
        (Availability.DOWN, DIALLING, None, "connecting"),  # the very first connection
        (Availability.DOWN, EMPTY, None, "disconnected"),
        (Availability.DOWN, SNAPSHOT, 0.0, "disconnected"),
        (
            Availability.DOWN,
            DIALLING,
            0.0,
            "disconnected",
        ),  # an outage that began this very instant
        (Availability.DOWN, DIALLING, 4.0, "disconnected"),  # the prober's dialling makes no hope
    ],
)
def test_word_for_the_database_follows_from_evidence(
    availability, snapshot, outage_seconds, expected
):
    made = report(availability, snapshot, outage_seconds=outage_seconds)
    assert made.database.status == expected


def test_attempt_that_is_overdue_is_not_in_the_past():
    assert report(Availability.DOWN, next_attempt_seconds=-0.2).database.next_attempt_seconds == 0.0
