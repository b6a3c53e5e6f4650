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


def fail(activity, status, kind, outcome, statement="select 1", message=None):
    context = RequestContext("id", 0.0, statement=statement)
    context.kind, context.outcome = kind, outcome
    activity.end(activity.begin(context, "/sql"), status=status, message=message)


def test_what_may_have_been_executed_is_not_displaced_by_what_was_not():
    """An outage ends with a few 502s and thousands of 503s, each with other words."""
    activity = Activity()
    fail(activity, 502, "outcome-unknown", "unknown", "insert")
    for number in range(5000):
        fail(activity, 503, "database-unavailable", "not_executed", f"select {number}", f"{number}")
    refused = [failed for failed in activity.errors if failed.status == 503]
    assert sum(failed.count for failed in refused) == 5000
    assert len(refused) <= 2, "one, or two around the turn of a minute"
    assert refused[0].statement == "select 0"
    assert refused[-1].last_at > refused[-1].at
    assert [failed.statement for failed in activity.errors if failed.status == 502] == ["insert"]


def test_mistakes_of_clients_do_not_displace_it_either():
    """They differ, so each is kept, up to a bound."""
    activity = Activity()
    fail(activity, 502, "outcome-unknown", "unknown", "insert")
    for number in range(1000):
        fail(activity, 400, "sql-error", "rolled_back", f"selec {number}")
    assert len(activity.errors) == 101
    latest = activity.failures.latest(50)
    assert len(latest) == 50
    assert (latest[0].status, latest[-1].statement) == (502, "selec 999")


def test_the_kept_failures_are_the_latest_in_order():
    activity = Activity()
    for number in range(300):
        status, kind = (400, "sql-error") if number % 2 else (500, "internal-error")
        fail(activity, status, kind, "unknown", f"{number}")
    assert [failed.statement for failed in activity.errors] == [str(n) for n in range(100, 300)]
    latest = activity.failures.latest(50)
    assert [failed.statement for failed in latest] == [str(n) for n in range(250, 300)]
