"""What the checker accepts and what it finds; a checker that finds nothing proves nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from poolkeeper.testing.checker import Bounds, FinalRead, Kind, check, combined
from tests.testing.corruptions import CORRUPTIONS, Spoiler
from tests.testing.stories import OPENING, Story, correct_run

BOUNDS = Bounds(recovery=1.0)
RUNS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def kinds(report) -> set[Kind]:
    return {finding.kind for finding in report.findings}


@settings(max_examples=150, deadline=None)
@given(st.integers(), st.integers(0, 300), st.integers(1, 12))
def test_a_correct_run_is_accepted(seed, steps, clients):
    """However its operations interleave, fail, get lost or take effect late."""
    story, final = correct_run(random.Random(seed), steps, clients)
    report = check(story.history, final, bounds=replace(BOUNDS, recovery=None))
    assert report.ok, str(report)
    assert (report.lost, report.doubled, report.wrong_verdicts) == (0, 0, 0)


@pytest.mark.parametrize(("kind", "spoil"), CORRUPTIONS.values(), ids=CORRUPTIONS)
@RUNS
@given(st.integers())
def test_any_single_corruption_is_found(kind: Kind, spoil: Spoiler, seed):
    """Planted anywhere in a correct run, under its right name."""
    rng = random.Random(seed)
    story, final = correct_run(rng, 200)
    spoilt = spoil(story, final, rng)
    assume(spoilt is not None)
    report = check(story.history, spoilt, bounds=BOUNDS)
    assert kind in kinds(report), str(report)


def test_every_kind_of_finding_is_planted():
    """A kind without a corruption would be one the checker may have forgotten."""
    assert {kind for kind, _spoil in CORRUPTIONS.values()} | {Kind.NO_EVIDENCE} == set(Kind)


# What is a violation and what is not, one case each ------------------------------------------


def test_an_unknown_write_may_be_there_or_not():
    """And a verdict must say which."""
    story = Story()
    lost, landed = story.invoke(0, "insert", 1), story.invoke(1, "insert", 2)
    story.info(0)
    story.info(1)
    assert check(story.history, FinalRead(inserts=[2])).ok
    report = check(story.history, FinalRead(inserts=[2, 2]))
    assert (kinds(report), report.doubled) == ({Kind.DOUBLED}, 1)
    story.verdict(lost, committed=False).verdict(landed, committed=True)
    report = check(story.history, FinalRead(inserts=[2]))
    assert report.ok
    assert (report.unknown, report.resolved) == (2, 2)
    report = check(story.history, FinalRead(inserts=[1, 2]))
    assert (kinds(report), report.wrong_verdicts) == ({Kind.WRONG_VERDICT}, 1)


def test_a_call_that_never_ended_is_unknown():
    """A killed client may have written."""
    story = Story()
    story.invoke(0, "insert", 1)
    for inserts in ([], [1]):
        assert check(story.history, FinalRead(inserts=inserts)).ok
    assert check(story.history, FinalRead(inserts=[1, 1])).doubled == 1


def test_a_read_that_overlaps_a_write_may_show_it_or_not():
    """Only what was acknowledged before the read began must be there."""
    for shown in ([], [1]):
        story = Story()
        story.invoke(0, "insert", 1)
        story.invoke(1, "read-inserts", {"low": 0, "high": 9})
        story.ok(0)
        story.ok(1, {"low": 0, "high": 9, "ids": shown})
        assert check(story.history, FinalRead(inserts=[1])).ok


def test_overlapping_reads_may_differ():
    """Neither was over when the other began."""
    story = Story()
    story.invoke(0, "insert", 1)
    for process in (1, 2):
        story.invoke(process, "read-list", "x")
        story.invoke(process + 10, "read-inserts", {"low": 0, "high": 9})
    story.ok(11, {"low": 0, "high": 9, "ids": [1]})
    story.ok(12, {"low": 0, "high": 9, "ids": []})
    story.ok(1, ["x", []])
    story.ok(2, ["x", []])
    story.ok(0)
    assert check(story.history, FinalRead(inserts=[1])).ok


def test_a_read_looks_for_nothing_outside_its_range():
    """What it did not ask for cannot be missing."""
    story = Story().did(0, "insert", 7)
    story.did(1, "read-inserts", {"low": 0, "high": 7}, {"low": 0, "high": 7, "ids": []})
    assert check(story.history, FinalRead(inserts=[7])).ok


def test_a_replica_may_be_behind_unless_it_had_replayed_the_write():
    """The LSN noted with a write and with a read decide."""
    seen = {"low": 0, "high": 9, "ids": []}
    for replayed, wrong in ((None, set()), (99, set()), (100, {Kind.STALE})):
        story = Story().did(0, "insert", 1, lsn=100)
        story.did(1, "read-inserts", {"low": 0, "high": 9}, seen, replica=True, lsn=replayed)
        assert kinds(check(story.history, FinalRead(inserts=[1]))) == wrong
    story = Story().did(0, "insert", 1, lsn=100)
    story.did(1, "read-inserts", {"low": 0, "high": 9}, seen, lsn=99)
    assert kinds(check(story.history, FinalRead(inserts=[1]))) == {Kind.STALE}


def test_a_list_on_a_replica_is_the_beginning_of_the_final_one():
    """Behind is allowed, another order is not."""
    for shown, wrong in (([1], set()), ([2, 1], {Kind.BACKWARDS})):
        story = Story().did(0, "append", ["x", 1]).did(0, "append", ["x", 2])
        story.did(1, "read-list", "x", ["x", shown], replica=True)
        assert kinds(check(story.history, FinalRead(lists={"x": [1, 2]}))) == wrong


@pytest.mark.parametrize(
    ("timeline", "lsn", "asynchronous", "wrong", "counted"),
    [
        (2, 300, False, {Kind.LOST}, 0),
        (1, 100, False, {Kind.LOST}, 0),
        (1, 101, False, {Kind.LOST_BY_FAILOVER}, 1),
        (1, 100, True, {Kind.LOST}, 0),
        (1, 101, True, set(), 1),
        (None, None, True, {Kind.LOST}, 0),
        (3, 50, False, {Kind.LOST_BY_FAILOVER}, 1),
    ],
)
def test_only_what_a_timeline_left_behind_is_lost_by_failover(
    timeline, lsn, asynchronous, wrong, counted
):
    """Before the switch, or on the final timeline, nothing excuses a loss."""
    story = Story()
    story.invoke(0, "insert", 1)
    facts = {} if timeline is None else {"timeline": timeline, "lsn": lsn}
    story.ok(0, **facts)
    final = FinalRead(timeline=2, switches={1: 100})
    report = check(story.history, final, bounds=Bounds(asynchronous=asynchronous))
    assert (kinds(report), report.lost_by_failover) == (wrong, counted)
    assert report.lost == (Kind.LOST in wrong)


def test_asynchronous_failover_excuses_reads_of_what_it_lost():
    """The old timeline showed it, the new one cannot."""
    story = Story()
    story.invoke(0, "insert", 1)
    story.ok(0, timeline=1, lsn=200)
    both = {"low": 0, "high": 9}
    story.did(1, "read-inserts", both, both | {"ids": [1]}, timeline=1, lsn=200)
    story.did(1, "read-inserts", both, both | {"ids": []}, timeline=2, lsn=110)
    final = FinalRead(timeline=2, switches={1: 100})
    assert check(story.history, final, bounds=Bounds(asynchronous=True)).ok
    strict = check(story.history, final)
    assert kinds(strict) == {Kind.LOST_BY_FAILOVER, Kind.STALE, Kind.BACKWARDS}


def test_recovery_is_judged_only_where_the_next_fault_leaves_time():
    """And only if it was promised."""
    story = Story().did(0, "insert", 1).heal()
    story.pause(0.5).fault("crash")
    story.pause(5).resources()
    final = FinalRead(inserts=[1])
    assert check(story.history, final, bounds=BOUNDS).ok
    story.heal().pause(0.9).did(0, "insert", 2)
    story.pause(5).resources()
    final = FinalRead(inserts=[1, 2])
    assert check(story.history, final, bounds=BOUNDS).ok
    report = check(story.history, final, bounds=Bounds(recovery=0.5))
    assert kinds(report) == {Kind.NO_SERVICE}
    assert check(story.history, final).ok


def test_a_call_may_take_its_deadline_and_a_little():
    """`overtime` is that little."""
    story = Story()
    story.invoke(0, "insert", 1, deadline=2.0)
    story.pause(2.5).ok(0)
    final = FinalRead(inserts=[1])
    assert check(story.history, final).ok
    assert kinds(check(story.history, final, bounds=Bounds(overtime=0.1))) == {Kind.LATE}


def test_too_little_evidence_is_a_finding():
    """A run in which nothing was acknowledged would be clean."""
    story = Story().did(0, "insert", 1)
    final = FinalRead(inserts=[1])
    assert check(story.history, final, bounds=Bounds(acknowledged=1)).ok
    report = check(story.history, final, bounds=Bounds(acknowledged=2))
    assert kinds(report) == {Kind.NO_EVIDENCE}


def test_writes_that_cannot_be_told_apart_are_refused():
    """Which of the two was lost could not be said."""
    story = Story().did(0, "insert", 1).did(0, "insert", 1)
    with pytest.raises(ValueError, match=r"Two writes of .* Suggestion: "):
        check(story.history, FinalRead(inserts=[1, 1]))


def test_a_final_read_that_was_forgotten_is_a_loss():
    """Not a clean report."""
    story = Story().did(0, "append", ["x", 1]).did(0, "increment", {"key": "m", "by": 1})
    assert check(story.history, FinalRead()).lost == 2


def test_a_verdict_about_an_increment_narrows_what_the_counter_may_be():
    """One unknown increment of 1: both 0 and 1 are possible, the verdict says which."""
    for value, committed in ((0, False), (1, True)):
        story = Story()
        unknown = story.invoke(0, "increment", {"key": "m", "by": 1})
        story.info(0)
        story.verdict(unknown, committed=committed)
        assert check(story.history, FinalRead(counters={"m": value})).ok
        report = check(story.history, FinalRead(counters={"m": 1 - value}))
        assert kinds(report) == {Kind.WRONG_VERDICT}


def test_a_counter_may_be_read_between_what_was_acknowledged_and_what_had_begun():
    """One increment of 2 is acknowledged, one of 3 under way, one of 5 begins after the read."""
    for value, wrong in ((1, {Kind.STALE}), (2, set()), (5, set()), (6, {Kind.DOUBLED})):
        story = Story().did(0, "increment", {"key": "m", "by": 2})
        story.invoke(1, "increment", {"key": "m", "by": 3})
        story.did(2, "read-counter", "m", ["m", value])
        story.ok(1)
        story.did(0, "increment", {"key": "m", "by": 5})
        assert kinds(check(story.history, FinalRead(counters={"m": 10}))) == wrong


def test_a_report_names_the_seed_the_numbers_and_the_events():
    """It is what a person reads after a night of soak."""
    story = Story().did(0, "insert", 1).fault("crash").fault("crash").fault("reset")
    story.pause(2).heal().did(0, "insert", 2)
    history = story.history
    history.seed = 4711
    report = check(history, FinalRead(inserts=[2], opening=OPENING, balances=OPENING))
    text = str(report)
    assert report.faults == {"crash": 2, "reset": 1}
    assert 2 < report.longest_gap < 2.5
    for words in ("4711", "crash 2, reset 1", "acknowledged      2", "1 × lost", "LOST: insert 1"):
        assert words in text
    assert str(story.events[1]) in text


def test_a_doubled_write_counts_once_however_often_it_was_read():
    """The count is of writes; every read that showed it is a finding of its own."""
    story = Story().did(0, "insert", 1)
    wanted = {"low": 0, "high": 9}
    for _ in range(3):
        story.did(1, "read-inserts", wanted, wanted | {"ids": [1, 1]})
    report = check(story.history, FinalRead(inserts=[1, 1]))
    assert report.doubled == 1
    assert [finding.kind for finding in report.findings] == [Kind.DOUBLED] * 4


def test_a_long_report_shows_the_first_findings_and_counts_the_rest():
    """A thousand lost rows are one cause."""
    story = Story()
    for number in range(25):
        story.did(0, "insert", number)
    report = check(story.history, FinalRead())
    assert report.lost == 25
    assert str(report).count("LOST: ") == 10
    assert "… and 15 more" in str(report)


def test_a_gap_at_the_end_is_a_gap():
    """Clients that only fail until the run is over had no service."""
    story = Story().did(0, "insert", 1).pause(3)
    story.invoke(0, "insert", 2)
    story.fail(0)
    assert check(story.history, FinalRead(inserts=[1])).longest_gap > 3


def test_the_reports_of_several_runs_are_one():
    """Counts add up, the longest gap is the longest, and every finding is kept."""
    lost = Story().did(0, "insert", 1).fault("crash").pause(2).did(0, "insert", 2)
    clean = Story().did(0, "insert", 1).fault("crash").fault("reset")
    reports = [
        check(lost.history, FinalRead(inserts=[1])),
        check(clean.history, FinalRead(inserts=[1])),
    ]
    both = combined(reports, seed=5)
    assert (both.seed, both.acked, both.lost, both.operations) == (5, 3, 1, 3)
    assert both.faults == {"crash": 2, "reset": 1}
    assert both.longest_gap == reports[0].longest_gap
    assert both.findings == reports[0].findings
    assert not both.ok
    assert combined([]).ok
