"""Figures of a drill whose calls were written down by hand."""

from collections import Counter

import pytest

from poolkeeper.drill.clients import HUNG, WRONG, Call, Writes
from poolkeeper.drill.faults import Crash
from poolkeeper.drill.measuring import Marks, longest_gap, measure
from tests.drill.scripted import Scripted

MARKS = Marks(started=0.0, begun=1.0, healing=2.0, accepting=2.1, ended=4.0)


def steady(start, end, every=0.01):
    """Calls of 5 ms, one after another."""
    count = round((end - start) / every)
    return [Call("read", start + n * every - 0.005, start + n * every) for n in range(1, count)]


def outage(*extra):
    """Service until the fault, a hole, and service again 50 ms after the database is back."""
    held = Call("read", 0.99, 2.15)
    return [*steady(0, 1), held, *extra, *steady(2.15, 4)]


def report(calls, writes=None, stored=(), hung=0, recovered_at=2.15, reports=(), unhealthy_at=None):
    """What is made of it."""
    return measure(
        Crash(),
        Scripted(),
        MARKS,
        calls,
        writes or Writes(),
        Counter(stored),
        reports=reports,
        unhealthy_at=unhealthy_at,
        messages={},
        hung=hung,
        recovered_at=recovered_at,
    )


def test_the_gap_is_measured_between_successes():
    """Failures do not fill it, and slow statements do not either."""
    calls = outage(Call("read", 1.5, 1.6, "OSError"), Call("slow", 1.0, 1.7))
    gone, back = longest_gap(calls, MARKS)
    assert (gone, back) == (1.0, 2.15)


def test_a_pool_that_never_comes_back_has_a_gap_to_the_end():
    found = report(steady(0, 1), recovered_at=None)
    assert found.longest_gap == pytest.approx(3.0)
    assert found.recovered_after is None
    assert found.full_speed_after is None
    assert found.broken_promises == ["never came back"]


def test_recovery_counts_from_the_database_and_not_from_the_fault():
    found = report(outage())
    assert found.recovered_after == pytest.approx(0.05)
    assert found.down_for == pytest.approx(1.1)
    assert found.full_speed_after == pytest.approx(0.0, abs=0.11)
    assert found.longest_call == pytest.approx(1.16)
    assert found.stricken_back_after == pytest.approx(1.15)
    assert found.errors == {}
    assert found.broken_promises == []


def test_the_timeline_has_every_tenth_of_a_second_also_the_empty_ones():
    found = report(outage(Call("write", 1.5, 1.62, "OSError")))
    assert len(found.timeline) == 40
    (failed,) = [each for each in found.timeline if each.errors]
    assert failed.at == pytest.approx(0.6)
    assert failed.errors == {"OSError": 1}
    hole = [each for each in found.timeline if 0.05 < each.at < 1.05]
    assert {(each.successes, each.p50) for each in hole} == {(0, None)}
    assert sum(each.successes for each in found.timeline) == len(outage())


def test_what_was_noticed_before_the_fault_does_not_count():
    found = report(outage(), reports=[(0.5, "lost"), (1.2, "lost")], unhealthy_at=1.3)
    assert found.noticed_after == pytest.approx(0.2)
    assert found.unhealthy_after == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("arguments", "promise"),
    [
        ({"writes": Writes(acknowledged={1, 2}), "stored": [1]}, "1 acknowledged and lost"),
        ({"writes": Writes(acknowledged={1}), "stored": [1, 1]}, "1 written twice"),
        ({"writes": Writes(unknown={1}), "stored": [1, 1]}, "1 written twice"),
        ({"writes": Writes(denied={1}), "stored": [1]}, "1 reported as not written, and there"),
        ({"calls": outage(Call("read", 1, 2, HUNG)), "hung": 1}, "1 calls hung"),
        ({"calls": outage(Call("read", 1, 2, WRONG))}, "1 reads with a wrong answer"),
        ({"calls": outage(Call("read", 0.9, 17.2))}, "a call took 16.3 s, more than 15 s"),
        (
            {"calls": outage(Call("slow", 0, 2, "QueryCanceledError"))},
            "a slow statement was killed",
        ),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_every_broken_promise_is_named(arguments, promise):
    """And nothing else is."""
    arguments = {"calls": outage()} | arguments
    assert report(**arguments).broken_promises == [promise]


def test_unknown_rows_may_be_there_or_not():
    found = report(outage(), Writes(acknowledged={1}, unknown={2, 3}), stored=[1, 2])
    assert (found.unknown, found.lost, found.doubled) == (2, 0, 0)
    assert found.broken_promises == []
