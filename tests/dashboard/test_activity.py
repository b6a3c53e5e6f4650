"""What the server remembers of requests."""

from poolkeeper.server.activity import Activity
from poolkeeper.server.context import RequestContext


def begin(activity, request_id="one", statement="select 1"):
    context = RequestContext(request_id, 0.0, statement=statement)
    return activity.begin(context, "/sql")


def test_a_request_waits_until_it_has_a_connection_and_is_gone_when_it_ends():
    activity = Activity()
    running = begin(activity)
    assert running.to_dict()["state"] == "waiting"
    assert running.to_dict()["held_seconds"] is None
    running.got(4711)
    facts = running.to_dict()
    assert (facts["state"], facts["backend_pid"]) == ("running", 4711)
    assert facts["held_seconds"] >= 0
    activity.end(running, status=200)
    assert not activity.running
    assert activity.statuses == {200: 1}
    assert not activity.errors
    assert not activity.slow


def test_the_oldest_requests_come_first():
    activity = Activity()
    begun = [begin(activity, str(number)) for number in range(5)]
    assert activity.oldest(3) == begun[:3]


def test_a_huge_statement_is_not_kept_whole():
    """A hundred errors of ten megabytes each would be a gigabyte."""
    activity = Activity(slow_seconds=0.0)
    running = begin(activity, statement="x" * 10_000_000)
    assert len(running.to_dict()["statement"]) < 3000
    activity.end(running, status=400, message="y" * 10_000_000)
    for finished in (activity.errors[0], activity.slow[0]):
        assert len(finished.statement) < 3000
        assert len(finished.message) < 3000
        assert "9,998,000 more characters" in finished.statement
