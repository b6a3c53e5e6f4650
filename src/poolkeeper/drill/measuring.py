"""From the account of the clients to figures: a timeline, and what one fault did."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, floor
from statistics import fmean
from typing import TYPE_CHECKING

from poolkeeper.drill.clients import WRONG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poolkeeper.drill.clients import Call, Writes
    from poolkeeper.drill.contender import Contender
    from poolkeeper.drill.faults import Fault

BIN_SECONDS = 0.1
BOUND_SLACK_SECONDS = 1.0
"""What a call may take beyond its bound: a busy machine."""
FULL_SPEED_BINS = 5
FULL_SPEED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Marks:
    """When things happened, by the monotonic clock.

    Attributes:
        started: The clients had had their first successes.
        begun: The fault began.
        healing: Mending began.
        accepting: The database accepted connections; during the fault that is its beginning.
        ended: The last success before the clients were told to stop; when they were told, if the
            pool was gone for good.
    """

    started: float
    begun: float
    healing: float
    accepting: float
    ended: float


@dataclass(frozen=True, slots=True)
class Bin:
    """A tenth of a second. ``at`` counts from the beginning of the fault; latencies are seconds."""

    at: float
    successes: int
    p50: float | None
    p99: float | None
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class FaultReport:
    """What one fault did to one contender. Durations are seconds; None: never, or not known.

    Attributes:
        noticed_after: From the fault to the pool's own report, or to the first error of a client
            for pools that report nothing; ``noticed_by`` says which.
        unhealthy_after: From the fault to the pool's health check saying so.
        recovered_after: From the database accepting connections to the next success.
        full_speed_after: From there to half the throughput of before.
        stricken_back_after: From the fault to the end of the last call that was under way then.
        longest_call: The longest call that was under way during or after the fault.
        longest_gap: The longest time without any success.
        down_for: From the fault to the database accepting connections; 0 if it always did.
        contradicted: Rows whose writer was told that they were not written, and that are there.
        messages: The first message of each type of error.
        reports: All that the pool reported, with the time since the fault.
        broken_promises: What a contender with bounds must not do, and did.
    """

    fault: str
    what: str
    contender: str
    calls: int
    calls_per_second: float
    p50: float
    p99: float
    errors: dict[str, int]
    read_errors: int
    write_errors: int
    noticed_after: float | None
    noticed_by: str | None
    unhealthy_after: float | None
    recovered_after: float | None
    full_speed_after: float | None
    stricken_back_after: float
    longest_call: float
    longest_gap: float
    down_for: float
    acknowledged: int
    lost: int
    doubled: int
    unknown: int
    contradicted: int
    hung: int
    fault_seconds: float
    messages: dict[str, str] = field(default_factory=dict)
    reports: list[tuple[float, str]] = field(default_factory=list)
    broken_promises: list[str] = field(default_factory=list)
    timeline: list[Bin] = field(default_factory=list)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank."""
    return ordered[ceil(len(ordered) * percent / 100) - 1]


def timeline(calls: Sequence[Call], marks: Marks) -> list[Bin]:
    """Calls by the tenth of a second in which they ended, from the first to the last."""
    latencies: dict[int, list[float]] = defaultdict(list)
    errors: dict[int, Counter[str]] = defaultdict(Counter)
    for call in calls:
        index = floor(_bins(call.ended - marks.begun))
        if call.error is not None:
            errors[index][call.error] += 1
        elif call.kind != "slow":
            latencies[index].append(call.ended - call.started)
    # only those that are measured from end to end
    first = ceil(_bins(marks.started - marks.begun))
    last = floor(_bins(marks.ended - marks.begun))
    bins = []
    for index in range(first, last):
        ordered = sorted(latencies[index])
        bins.append(
            Bin(
                at=round(index * BIN_SECONDS, 3),
                successes=len(ordered),
                p50=percentile(ordered, 50) if ordered else None,
                p99=percentile(ordered, 99) if ordered else None,
                errors=dict(errors[index]),
            )
        )
    return bins


def _bins(seconds: float) -> float:
    return round(seconds / BIN_SECONDS, 6)


def longest_gap(calls: Sequence[Call], marks: Marks) -> tuple[float, float]:
    """The longest time without a success since the fault began: from when to when."""
    ends = sorted(
        call.ended
        for call in calls
        if call.error is None and call.kind != "slow" and marks.begun < call.ended < marks.ended
    )
    # a success just before the fault is no news of what comes after it
    instants = [marks.begun, *ends, marks.ended]
    return max(pairwise(instants), key=lambda pair: pair[1] - pair[0])


def full_speed(bins: Sequence[Bin], before: float, since: float) -> float | None:
    """Seconds from ``since`` to the first half second at half the throughput of before."""
    for index, each in enumerate(bins):
        window = bins[index : index + FULL_SPEED_BINS]
        if each.at < since or len(window) < FULL_SPEED_BINS:
            continue
        if fmean(b.successes for b in window) >= FULL_SPEED_SHARE * before * BIN_SECONDS:
            return each.at - since
    return None


def measure(
    fault: Fault,
    contender: Contender,
    marks: Marks,
    calls: Sequence[Call],
    writes: Writes,
    stored: Counter[int],
    *,
    reports: Sequence[tuple[float, str]],
    unhealthy_at: float | None,
    messages: dict[str, str],
    hung: int,
    recovered_at: float | None,
) -> FaultReport:
    """Everything about one drill."""
    before = sorted(
        call.ended - call.started
        for call in calls
        if call.error is None and marks.started <= call.ended < marks.begun
    )
    struck = [call for call in calls if call.ended >= marks.begun and call.kind != "slow"]
    failed = [call for call in calls if call.ended >= marks.begun and call.error is not None]
    bins = timeline(calls, marks)
    speed = len(before) / (marks.begun - marks.started)
    gap = longest_gap(calls, marks)
    noticed = next(((at, by) for at, by in reports if at >= marks.begun), None)
    if noticed is None and failed and not contender.bounded:
        noticed = min(call.ended for call in failed), "first error"
    report = FaultReport(
        fault=fault.name,
        what=fault.what,
        contender=contender.name,
        calls=len(calls),
        calls_per_second=speed,
        p50=percentile(before, 50),
        p99=percentile(before, 99),
        errors=dict(Counter(call.error for call in failed if call.error).most_common()),
        read_errors=sum(call.kind == "read" for call in failed),
        write_errors=sum(call.kind == "write" for call in failed),
        noticed_after=None if noticed is None else noticed[0] - marks.begun,
        noticed_by=None if noticed is None else noticed[1],
        unhealthy_after=None if unhealthy_at is None else unhealthy_at - marks.begun,
        recovered_after=None if recovered_at is None else max(0.0, recovered_at - marks.accepting),
        full_speed_after=full_speed(bins, speed, marks.accepting - marks.begun),
        stricken_back_after=max(
            (call.ended - marks.begun for call in struck if call.started < marks.begun), default=0.0
        ),
        longest_call=max((call.ended - call.started for call in struck), default=0.0),
        longest_gap=gap[1] - gap[0],
        down_for=marks.accepting - marks.begun,
        acknowledged=len(writes.acknowledged),
        lost=len(writes.acknowledged - stored.keys()),
        doubled=sum(times > 1 for times in stored.values()),
        unknown=len(writes.unknown),
        contradicted=len(writes.denied & stored.keys()),
        hung=hung,
        fault_seconds=marks.healing - marks.begun,
        messages=messages,
        reports=[(at - marks.begun, what) for at, what in reports],
        timeline=bins,
    )
    if contender.bounded:
        slow_killed = any(call.kind == "slow" and call.error is not None for call in calls)
        report.broken_promises.extend(broken_promises(report, contender.terms.bound, slow_killed))
    return report


def broken_promises(report: FaultReport, bound: float, slow_killed: bool) -> list[str]:  # noqa: FBT001
    """What poolkeeper promises whatever happens, in words."""
    found = []
    for count, problem in (
        (report.lost, "acknowledged and lost"),
        (report.doubled, "written twice"),
        (report.contradicted, "reported as not written, and there"),
        (report.hung, "calls hung"),
        (report.errors.get(WRONG, 0), "reads with a wrong answer"),
    ):
        if count:
            found.append(f"{count} {problem}")
    if report.longest_call > bound + BOUND_SLACK_SECONDS:
        found.append(f"a call took {report.longest_call:.1f} s, more than {bound:g} s")
    if slow_killed:
        found.append("a slow statement was killed")
    if report.recovered_after is None:
        found.append("never came back")
    return found
