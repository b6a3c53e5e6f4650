"""What do fifty clients notice when the database or the network fails, pool by pool?"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common.machine import describe, sentence
from benchmarks.common.outage_contenders import CONTENDERS
from benchmarks.common.outage_page import figures, page
from poolkeeper.drill import faults as catalogue
from poolkeeper.drill import report as reports
from poolkeeper.drill.engine import Pace, Range
from poolkeeper.drill.measuring import BOUND_SLACK_SECONDS
from poolkeeper.drill.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from poolkeeper.drill.contender import Contender
    from poolkeeper.drill.faults import Fault
    from poolkeeper.drill.measuring import FaultReport

FULL: tuple[type[Fault], ...] = (
    catalogue.Crash,
    catalogue.StopFast,
    catalogue.LongOutage,
    catalogue.Failover,
    catalogue.FrozenServer,
    catalogue.SilentConnections,
    catalogue.SilentNetwork,
    catalogue.OneDeadConnection,
    catalogue.TerminateBackends,
    catalogue.ResetConnections,
    catalogue.Refused,
    catalogue.Flapping,
    catalogue.TooManyConnections,
    catalogue.RotatedPassword,
    catalogue.SlowStatements,
)
QUICK: tuple[type[Fault], ...] = (
    catalogue.Crash,
    catalogue.Failover,
    catalogue.SilentConnections,
    catalogue.TerminateBackends,
)
OURS = frozenset(kind.name for kind in CONTENDERS if kind.bounded)
DOCS = Path(__file__).parents[1] / "docs" / "explanation"


@dataclass(frozen=True)
class Goal:
    """A promise for one fault and the figure that keeps or breaks it."""

    what: str
    measure: Callable[[FaultReport], float | None]
    bound: Callable[[FaultReport], float]
    show: Callable[[Any], str] = reports.seconds

    def reached(self, report: FaultReport) -> bool:
        value = self.measure(report)
        return value is not None and value <= self.bound(report)

    def row(self, report: FaultReport) -> list[str]:
        value, bound = self.measure(report), self.bound(report)
        verdict = "reached" if self.reached(report) else "MISSED"
        return [
            report.fault,
            report.contender,
            self.what,
            f"≤ {self.show(bound)}",
            self.show(value),
            verdict,
        ]


def _constant(bound: float) -> Callable[[FaultReport], float]:
    return lambda _report: bound


def _broken_accounts(report: FaultReport) -> int:
    return report.lost + report.doubled + report.contradicted + report.hung


def _service_after_calls(report: FaultReport) -> float | None:
    """From the last stricken call's return to full service."""
    if report.full_speed_after is None:
        return None
    return max(0.0, report.down_for + report.full_speed_after - report.stricken_back_after)


GOALS: dict[str, list[Goal]] = {
    "crash": [
        Goal("errors of idempotent reads", lambda r: r.read_errors, _constant(0), str),
        Goal("first success after it accepts", lambda r: r.recovered_after, _constant(0.1)),
    ],
    "silent-connections": [
        Goal("every call", lambda r: r.longest_call, _constant(5.0)),
        Goal("service after the last of them", _service_after_calls, _constant(1.0)),
    ],
    "silent-network": [Goal("unhealthy", lambda r: r.unhealthy_after, _constant(5.0))],
    "long-outage": [Goal("back", lambda r: r.recovered_after, _constant(1.0))],
    "failover": [
        Goal("gap, to promoted + 0.5 s", lambda r: r.longest_gap, lambda r: r.down_for + 0.5)
    ],
}


def goals_for(fault: str, terms: Terms) -> list[Goal]:
    bound = terms.bound + BOUND_SLACK_SECONDS
    return [
        *GOALS.get(fault, []),
        Goal("longest call", lambda r: r.longest_call, _constant(bound)),
        Goal("lost + doubled + contradicted + hung", _broken_accounts, _constant(0), str),
    ]


def goal_rows(found: Iterable[FaultReport], terms: Terms) -> list[list[str]]:
    return [
        goal.row(report)
        for report in found
        if report.contender in OURS
        for goal in goals_for(report.fault, terms)
    ]


# Figures in which less is better, and how much less is a difference and not noise.
COMPARED: dict[str, tuple[Callable[[FaultReport], float | None], float, Callable[[Any], str]]] = {
    "errors": (lambda r: sum(r.errors.values()), 5, str),
    "errors of reads": (lambda r: r.read_errors, 0, str),
    "unknown": (lambda r: r.unknown, 2, str),
    "back after": (lambda r: r.recovered_after, 0.1, reports.seconds),
    "longest gap": (lambda r: r.longest_gap, 0.25, reports.seconds),
}


def better_peers(found: Sequence[FaultReport]) -> list[str]:
    """Where a peer did better than poolkeeper, on either driver, in any figure."""
    lines = []
    for own in (report for report in found if report.contender in OURS):
        rivals = [r for r in found if r.fault == own.fault and r.contender not in OURS]
        for name, (figure, margin, show) in COMPARED.items():
            mine = figure(own)
            better = [
                f"{peer.contender} {show(theirs)}"
                for peer in rivals
                if (theirs := figure(peer)) is not None and (mine is None or theirs + margin < mine)
            ]
            if better:
                lines.append(
                    f"{own.fault}, {name}: {own.contender} {show(mine)}; {'; '.join(better)}"
                )
    return lines


async def measure(
    kinds: Sequence[type[Fault]],
    contenders: Sequence[type[Contender]],
    terms: Terms,
    pace: Pace,
) -> tuple[list[FaultReport], str]:
    found = []
    async with Range() as ground:
        version = await ground.server_version()
        for kind in kinds:
            print(f"\n## {kind.name}: {kind.what}\n", flush=True)
            for contender in contenders:
                report = await ground.drill(kind(), contender, terms, pace=pace)
                found.append(report)
                print("- " + summary(report), flush=True)
    return found, version


def summary(report: FaultReport) -> str:
    return (
        f"{report.contender}: errors {reports.errors(report)}; "
        f"back after {reports.seconds(report.recovered_after)}; "
        f"longest call {reports.seconds(report.longest_call)}; "
        f"longest gap {reports.seconds(report.longest_gap)}; {report.acknowledged:,} acknowledged, "
        f"{report.lost} lost, {report.doubled} doubled, {report.unknown} unknown, "
        f"{report.hung} hung"
    )


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks outages", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four faults, under 3 minutes")
    parser.add_argument(
        "--fault", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument(
        "--contender", action="append", metavar="TEXT", help="only those whose name has this in it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, timelines included")
    parser.add_argument(
        "--write-docs", action="store_true", help="write docs/explanation/outage-matrix.md anew"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    _be_quiet()
    kinds: Sequence[type[Fault]] = QUICK if options.quick else FULL
    if options.fault:
        kinds = [kind for kind in catalogue.FAULTS if kind.name in options.fault]
    contenders = [
        kind
        for kind in CONTENDERS
        if not options.contender or any(text in kind.name for text in options.contender)
    ]
    terms, pace = Terms(), Pace()
    if options.quick:
        terms, pace = replace(terms, patience=terms.bound + 1), Pace(before=1.0, after=1.0)

    machine = describe(loop="asyncio", postgres="")
    print("# Outages: fifty clients, ten connections", flush=True)
    found, machine["postgresql"] = asyncio.run(measure(kinds, contenders, terms, pace))
    run = reports.Run(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        database="PostgreSQL, the clients and the proxy share the machine, fsync off",
        machine=sentence(machine),
        terms=terms,
        reports=found,
    )
    rows, better = goal_rows(found, terms), better_peers(found)
    print("\n" + page(run, rows, better))
    if options.json is not None:
        options.json.write_text(reports.as_json(run), encoding="utf-8")
    if options.write_docs:
        (DOCS / "outage-matrix.md").write_text(page(run, rows, better), encoding="utf-8")
        for name, drawing in figures(run).items():
            (DOCS / name).write_text(drawing, encoding="utf-8")
    return int(options.strict and any(row[-1] == "MISSED" for row in rows))


def _be_quiet() -> None:
    """What pools log in an outage is plenty, and is measured here in other ways."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    sys.exit(main())
