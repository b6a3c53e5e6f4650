"""The verdict on a run, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from poolkeeper.testing.checker import bounds as bound_rules
from poolkeeper.testing.checker import exactly_once, reads
from poolkeeper.testing.checker.evidence import Bounds, Evidence, Finding, Kind
from poolkeeper.testing.history import NEMESIS, Type

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from poolkeeper.testing.checker.evidence import FinalRead
    from poolkeeper.testing.history import History

Rule: TypeAlias = Callable[[Evidence], Iterable[Finding]]

FINAL_RULES: tuple[Rule, ...] = (
    exactly_once.acknowledged_writes_are_there_once,
    exactly_once.failed_writes_are_not_there,
    exactly_once.unknown_writes_are_there_at_most_once,
    exactly_once.nothing_is_there_that_nobody_wrote,
    exactly_once.verdicts_are_true,
    exactly_once.counters_add_up,
    exactly_once.balances_follow_the_log,
    exactly_once.failover_loses_nothing,
)
"""What the final read shows: a write that is lost or doubled is found here once."""

OTHER_RULES: tuple[Rule, ...] = (
    reads.totals_are_constant,
    reads.reads_see_only_writes,
    reads.reads_see_what_was_acknowledged,
    reads.reads_never_go_backwards,
    reads.lists_only_grow,
    reads.counters_only_grow,
    bound_rules.calls_end_in_time,
    bound_rules.service_returns,
    bound_rules.resources_add_up,
)

FINDINGS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has shown; ``print`` it.

    Attributes:
        seed: What its randomness was made from.
        operations: Operations begun, reads included.
        acked: Writes that were acknowledged.
        failed: Writes that surely did not happen.
        unknown: Writes whose fate their client was not told.
        resolved: Those of them whose fate was found out later.
        lost: Acknowledged writes that are gone.
        doubled: Writes that are there more than once.
        wrong_verdicts: Fates found out wrongly.
        lost_by_failover: Acknowledged writes that another timeline does not have. With
            asynchronous replication they are counted here and are no finding.
        longest_gap: The longest time in seconds without any success.
        faults: How often each fault was made.
        findings: Every broken promise.
    """

    seed: int | None
    operations: int
    acked: int
    failed: int
    unknown: int
    resolved: int
    lost: int
    doubled: int
    wrong_verdicts: int
    lost_by_failover: int
    longest_gap: float
    faults: Mapping[str, int]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.findings

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        yield f"seed              {self.seed}"
        yield f"faults            {sum(self.faults.values())}" + (f" ({faults})" if faults else "")
        yield f"operations        {self.operations}"
        yield f"acknowledged      {self.acked}"
        yield f"failed            {self.failed}"
        yield f"unknown           {self.unknown}, {self.resolved} of them resolved"
        yield f"lost              {self.lost}"
        yield f"doubled           {self.doubled}"
        yield f"wrong verdicts    {self.wrong_verdicts}"
        yield f"lost by failover  {self.lost_by_failover}"
        yield f"longest gap       {self.longest_gap:.2f} s"
        kinds = Counter(finding.kind for finding in self.findings)
        kept = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
        yield f"broken promises   {kept or 'none'}"
        for finding in self.findings[:FINDINGS_SHOWN]:
            yield ""
            yield str(finding)
        more = len(self.findings) - FINDINGS_SHOWN
        if more > 0:
            yield ""
            yield f"… and {more} more"


def check(history: History, final: FinalRead, *, bounds: Bounds | None = None) -> Report:
    """Judge a run.

    Args:
        history: What clients did and were told.
        final: What the database holds when all is over.
        bounds: What was promised beyond nothing lost and nothing doubled.

    Raises:
        ValueError: Two writes of the history cannot be told apart in the final read.
    """
    evidence = Evidence(history, final, Bounds() if bounds is None else bounds)
    findings = [finding for rule in FINAL_RULES for finding in rule(evidence)]
    kinds = Counter(finding.kind for finding in findings)
    findings += [finding for rule in OTHER_RULES for finding in rule(evidence)]
    writes = evidence.writes
    types = Counter(operation.type for operation in writes)
    if types[Type.OK] < evidence.bounds.acknowledged:
        findings.append(
            Finding(
                Kind.NO_EVIDENCE,
                f"{types[Type.OK]} writes were acknowledged, fewer than the "
                f"{evidence.bounds.acknowledged} without which nothing is shown",
            )
        )
    return Report(
        seed=history.seed,
        operations=len(evidence.operations),
        acked=types[Type.OK],
        failed=types[Type.FAIL],
        unknown=types[Type.INFO],
        resolved=sum(
            operation.type is Type.INFO and operation.invoke.index in evidence.verdicts
            for operation in writes
        ),
        lost=kinds[Kind.LOST],
        doubled=kinds[Kind.DOUBLED],
        wrong_verdicts=kinds[Kind.WRONG_VERDICT],
        lost_by_failover=len(exactly_once.lost_by_failover(evidence)),
        longest_gap=_longest_gap(history),
        faults=Counter(event.value for event in history.notes(NEMESIS, "fault")),
        findings=tuple(findings),
    )


def combined(reports: Sequence[Report], *, seed: int | None = None) -> Report:
    """One report on several runs; ``seed`` is the one their seeds were made from."""
    faults: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)
    return Report(
        seed=seed,
        faults=faults,
        longest_gap=max((report.longest_gap for report in reports), default=0.0),
        findings=tuple(finding for report in reports for finding in report.findings),
        **{
            name: sum(getattr(report, name) for report in reports)
            for name in (
                "operations", "acked", "failed", "unknown", "resolved", "lost", "doubled",
                "wrong_verdicts", "lost_by_failover",
            )
        },
    )  # fmt: skip


def _longest_gap(history: History) -> float:
    """From one success to the next, and from the last one to the last thing a client heard."""
    times = [e.time for e in history.events if isinstance(e.process, int) and e.type is Type.OK]
    ends = [e.time for e in history.events if isinstance(e.process, int)]
    times += ends[-1:]
    return max((later - sooner for sooner, later in pairwise(times)), default=0.0)
