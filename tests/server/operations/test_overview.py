"""How fast an operation goes, for those who look at the dashboard."""

import datetime as dt
from types import SimpleNamespace

from poolkeeper.operations.model import OperationState
from poolkeeper.server.operations.overview import Pace

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def status(second, rows, *, total=1000, epoch=1, state="running"):
    """An operation as it was looked up so many seconds after the start."""
    return SimpleNamespace(
        at=START + dt.timedelta(seconds=second),
        rows_done=rows,
        fraction=None if total is None else rows / total,
        epoch=epoch,
        state=OperationState(state),
    )


def pace(*statuses):
    found = Pace()
    for one in statuses:
        found.take(one)
    return found.rows_per_second, found.seconds_left


def test_one_look_says_nothing_of_the_pace():
    """Nor do two at the same instant."""
    assert pace(status(0, 5)) == (None, None)
    assert pace(status(0, 5), status(0, 5)) == (None, None)


def test_the_pace_is_that_of_the_last_seconds():
    """An operation that got slower takes longer, whatever its mean is."""
    assert pace(status(0, 0), status(2, 200)) == (100.0, 8.0)
    looks = [status(0, 0), status(2, 800), *(status(second, 800) for second in range(4, 30, 2))]
    assert pace(*looks) == (0.0, None)
    assert pace(*looks, status(40, 820)) == (1.4, 126.0)


def test_where_nobody_knows_the_end_nobody_says_when_it_is():
    """The rate is told all the same."""
    assert pace(status(0, 0, total=None), status(2, 50, total=None)) == (25.0, None)


def test_what_was_before_a_pause_or_another_claim_does_not_count():
    """An outage between two claims is no slowness of either."""
    assert pace(status(0, 0), status(60, 100, epoch=2)) == (None, None)
    assert pace(status(0, 0), status(2, 100, state="paused")) == (None, None)
