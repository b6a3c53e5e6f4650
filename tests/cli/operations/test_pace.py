"""Rate, time left and what is worth a line, from reports and a clock that is an argument."""

import io
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from poolkeeper.cli.operations import words
from poolkeeper.cli.operations.pace import WINDOW_SECONDS, Pace
from poolkeeper.cli.operations.story import Story
from poolkeeper.cli.operations.view import LINE_SECONDS, Lines
from poolkeeper.operations import OperationState, OperationStatus, Report

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def status(rows, *, of=1000, state="running", **more):
    """An operation that has done so many rows."""
    given = dict.fromkeys(OperationStatus.__dataclass_fields__)
    return OperationStatus(
        **{
            **given,
            "id": UUID(int=1),
            "name": "a.csv into a",
            "kind": "load",
            "state": OperationState(state),
            "spec": {},
            "cursor": {},
            "epoch": 1,
            "seq": rows and 1,
            "rows_done": rows,
            "rows_rejected": 0,
            "rows_total": of,
            "bytes_done": 0,
            "owner_place": "here:1",
            "outages": 0,
            "created_at": BEGAN,
            "started_at": BEGAN,
            "updated_at": BEGAN,
            "at": BEGAN + timedelta(seconds=1),
            **more,
        }
    )


def worked(pace, seconds, per_second, *, since=0.0, rows=0):
    """Reports once a second; how many rows it is then."""
    for second in range(seconds + 1):
        pace.saw(status(rows + second * per_second), since + second, away=False)
    return rows + seconds * per_second


def test_the_rate_is_that_of_this_run() -> None:
    """Not of what others have done before."""
    pace = Pace()
    worked(pace, 4, 10, rows=500)
    assert pace.rows_per_second == pytest.approx(10)
    assert pace.seconds_left == pytest.approx((1000 - 540) / 10)


def test_time_without_the_database_is_not_in_the_rate() -> None:
    """It says nothing of the time to come; but while it lasts nobody knows how long it takes."""
    pace = Pace()
    rows = worked(pace, 4, 10)
    pace.saw(status(rows), 5.0, away=True)
    assert pace.seconds_left is None
    worked(pace, 4, 10, since=1000.0, rows=rows)
    assert pace.rows_per_second == pytest.approx(10)
    assert pace.seconds_left == pytest.approx((1000 - 80) / 10)
    assert pace.elapsed(1004.0) == pytest.approx(1004)
    assert pace.worked == pytest.approx(8)


def test_the_rate_follows_a_change() -> None:
    pace = Pace()
    rows = worked(pace, 60, 1)
    rows = worked(pace, int(WINDOW_SECONDS) + 2, 10, since=60.0, rows=rows)
    assert pace.rows_per_second == pytest.approx(10)


def test_no_time_left_is_told_before_it_can_be_known() -> None:
    """Nor when an estimate has been passed, nor without one."""
    pace = Pace()
    assert pace.rows_per_second is None
    pace.saw(status(0), 0.0, away=False)
    pace.saw(status(10), 0.5, away=False)
    assert pace.seconds_left is None
    pace.saw(status(1200), 5.0, away=False)
    assert pace.seconds_left is None
    unknown = Pace()
    for second in range(5):
        unknown.saw(status(second, of=None), float(second), away=False)
    assert unknown.seconds_left is None


def test_a_short_wait_gets_no_line_and_a_long_one_two() -> None:
    story = Story()
    assert story.saw(Report(status(0)), 0.0) == []
    story.saw(Report(status(10), "locked"), 1.0)
    assert story.tick(1.5) == []
    assert story.saw(Report(status(20)), 1.6) == []
    story.saw(Report(status(20), "connection refused"), 2.0)
    assert story.tick(3.1) == ["waiting: connection refused"]
    assert story.tick(4.0) == []
    [line] = story.saw(Report(status(20, outages=1)), 12.0)
    assert line == "goes on at 20 rows (2 %) after 10 s"


def test_a_lost_connection_is_told_although_it_was_replaced_at_once() -> None:
    story = Story()
    story.saw(Report(status(10)), 0.0)
    story.saw(Report(status(10), "connection lost"), 0.1)
    [line] = story.saw(Report(status(10, outages=1)), 0.2)
    assert line == "goes on at 10 rows (1 %) over a new connection"


def test_rejected_rows_are_told_once() -> None:
    story = Story()
    [line] = story.saw(Report(status(10, rows_rejected=1)), 0.0)[1:]
    assert "`poolkeeper operations rejects 'a.csv into a'`" in line
    assert story.saw(Report(status(20, rows_rejected=2)), 0.1) == []


def test_a_log_has_a_line_every_few_seconds() -> None:
    """Not one for each chunk."""
    now = [0.0]
    out = io.StringIO()
    lines = Lines(out, clock=lambda: now[0])
    for step in range(101):
        now[0] = step / 10
        lines.report(Report(status(step)))
        lines.tick()
    logged = out.getvalue().splitlines()
    assert len(logged) == 10 / LINE_SECONDS
    assert all(line.endswith("s left") or "rows/s" in line for line in logged)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.rows(1), "1 row"),
        (words.rows(412301), "412,301 rows"),
        (words.size(999), "999 B"),
        (words.size(53_777_788), "53.8 MB"),
        (words.duration(0.04), "0.0 s"),
        (words.duration(59.4), "59 s"),
        (words.duration(59.6), "1 min 00 s"),
        (words.duration(3599.7), "1 h 00 min"),
        (words.duration(7380), "2 h 03 min"),
        (words.percent(0.9999), "99 %"),
        (words.percent(1.0), "100 %"),
        (words.clean("a\x1b[31m\x07b\u202ec\nd"), "a[31mbc d"),
        (
            words.same_command(
                ["load", "my file.csv", "--again", "--database-url=postgresql://a:b@h/d"]
            ),
            "poolkeeper load 'my file.csv' '--database-url=postgresql://a:***@h/d'",
        ),
    ],
)
def test_words(shown, expected) -> None:
    """Digits somebody reads; 100 % is all; nothing a terminal would obey; no password."""
    assert shown == expected


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "DatabaseUnavailableError: The database at db:1/shop has been unreachable for 5.0 s: "
            "ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 1); next "
            "attempt in 0.1 s. The request was not executed. Suggestion: wait.",
            "connection refused",
        ),
        (
            'InvalidPasswordError: password authentication failed for user "app"',
            'password refused for user "app"',
        ),
        (
            "ConnectionDoesNotExistError: connection was closed in the middle of operation",
            "connection lost",
        ),
        ("CannotConnectNowError: the database system is starting up",) * 2,
        ("TimeoutError", "no answer in time"),
        ("OSError: [Errno 113] No route to host", "No route to host"),
        ("LockNotAvailableError: canceling statement due to lock timeout", "somebody holds a lock"),
        ("the standby 'b' is 3.1 s behind, more than 1",) * 2,
        ("PoolTimeoutError: The pool is paused. Suggestion: call resume().", "The pool is paused"),
    ],
    ids=lambda text: text[:20],
)
def test_a_reason_is_what_a_person_needs(said, shown) -> None:
    """Not which class of which driver said it, and how."""
    assert words.reason(said) == shown.removeprefix("CannotConnectNowError: ")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("give key=, columns that", "give --key, columns that"),
        ("export consistent=True.", "export --consistent."),
        ("or a row (header=False).", "or a row (--no-header)."),
        ("and give compression='gzip'.", "and give --compression 'gzip'."),
        ("raise max_rejects, and", "raise --max-rejects, and"),
        ("pass overwrite (then", "pass --overwrite (then"),
        ("write --set email=lower(email).", "write --set email=lower(email)."),
    ],
)
def test_advice_of_the_library_is_given_in_options(said, shown) -> None:
    """What is of the user's data stays as it is."""
    facts = "The row is: key=1,consistent=True. Suggestion: "
    assert words.in_options(facts + said) == facts + shown
    assert words.in_options(said) == said
