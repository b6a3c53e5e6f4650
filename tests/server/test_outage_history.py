"""The outages a server remembers."""

from poolkeeper.observability.events import (
    DatabaseConnectionLost,
    DatabaseReconnected,
    FailoverDetected,
    PoolExhausted,
    ReconnectAttempt,
)
from poolkeeper.server.outages import OutageHistory


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def lost(error="refused"):
    return DatabaseConnectionLost(
        pool="p", detection_time_seconds=0.2, reason="closed", error=error, connections_lost=3
    )


def back(seconds=4.5, attempts=2):
    return DatabaseReconnected(pool="p", outage_seconds=seconds, attempts=attempts)


def test_an_outage_is_remembered_with_its_cause_and_end():
    """What, since when, how long, how many attempts."""
    clock = Clock()
    history = OutageHistory(clock=clock)
    history(lost())
    assert history.present is not None
    history(ReconnectAttempt(pool="p", attempt=1, delay_seconds=0.05))
    history(ReconnectAttempt(pool="p", attempt=2, delay_seconds=0.1, error="still refused"))
    history(FailoverDetected(pool="p", reason="r", from_host="a", to_host="b"))
    clock.now += 4.5
    history(back())
    assert history.present is None
    assert history.to_list() == [
        {
            "began_at": 1000.0,
            "ended_at": 1004.5,
            "seconds": 4.5,
            "cause": "closed",
            "error": "refused",
            "detection_seconds": 0.2,
            "connections_lost": 3,
            "attempts": 2,
            "last_error": "still refused",
            "failover": "b",
        }
    ]


def test_where_connections_just_broke_the_first_attempt_tells_why():
    """The last one says how the server came back, not why it was gone."""
    history = OutageHistory()
    history(lost(error=None))
    for attempt, error in enumerate([None, "refused", "starting up"], start=1):
        history(ReconnectAttempt(pool="p", attempt=attempt, delay_seconds=0.1, error=error))
    assert history.present.error == "refused"
    assert history.present.last_error == "starting up"


def test_only_the_latest_fifty_are_kept():
    """Memory does not grow with the years."""
    history = OutageHistory()
    for number in range(60):
        history(lost(f"error {number}"))
        history(back())
    assert [outage["error"] for outage in history.to_list()] == [
        f"error {number}" for number in range(10, 60)
    ]


def test_an_end_without_a_beginning_changes_nothing():
    """Nor does any other event, nor one that comes after the end."""
    history = OutageHistory()
    history(back())
    history(ReconnectAttempt(pool="p", attempt=1, delay_seconds=0.05))
    history(PoolExhausted(pool="p", active=1, waiting=1, max_size=1, oldest_waiter_seconds=0.0))
    assert history.to_list() == []
    history(lost())
    history(back(seconds=1.0))
    history(back(seconds=9.0))
    assert [outage["seconds"] for outage in history.to_list()] == [1.0]
