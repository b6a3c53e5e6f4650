"""What a run found, as markdown, as JSON and as a page with plots."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from poolkeeper.drill.plot import STYLE, plot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from poolkeeper.drill.measuring import FaultReport
    from poolkeeper.drill.terms import Terms

HEADER = (
    "fault",
    "errors",
    "noticed after",
    "down for",
    "back after",
    "full speed after",
    "longest call",
    "longest gap",
    "acknowledged",
    "lost",
    "doubled",
    "unknown",
    "hung",
)
LEGEND = """\
- **errors**: calls that failed for their caller, from the fault on.
- **noticed after**: from the fault to the pool's own report of it.
- **down for**: from the fault until the database accepts connections; 0 where it always did.
- **back after**: from then to the first success of a client. **full speed after**: from then to
  half the throughput of before.
- **longest call**: of those that were under way at the fault or after it. **longest gap**: without
  a success of any client.
- **acknowledged**: inserts whose client was told that they are done. **lost**: of these, not there
  at the end. **doubled**: there more than once. **unknown**: inserts whose client was told neither
  yes nor no.
- **hung**: calls their clients gave up."""


@dataclass(frozen=True, slots=True)
class Run:
    """All drills of one run, and what they were made on."""

    date: str
    database: str
    machine: str
    terms: Terms
    reports: list[FaultReport]

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        return not any(report.broken_promises for report in self.reports)


def seconds(value: float | None) -> str:
    """With a unit, and no more digits than mean something."""
    if value is None:
        return "–"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def errors(report: FaultReport) -> str:
    """How many, and of what types."""
    if not report.errors:
        return "0"
    named = ", ".join(f"{count:,} {name}" for name, count in report.errors.items())
    return named if len(report.errors) == 1 else f"{sum(report.errors.values()):,}: {named}"


def row(report: FaultReport) -> list[str]:
    """The cells under `HEADER`."""
    return [
        report.fault,
        errors(report),
        seconds(report.noticed_after),
        seconds(report.down_for),
        seconds(report.recovered_after),
        seconds(report.full_speed_after),
        seconds(report.longest_call),
        seconds(report.longest_gap),
        f"{report.acknowledged:,}",
        str(report.lost),
        str(report.doubled),
        str(report.unknown),
        str(report.hung),
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table that also reads well unrendered."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def verdicts(run: Run) -> list[str]:
    """One line for each broken promise."""
    return [
        f"{report.fault}: {problem}" for report in run.reports for problem in report.broken_promises
    ]


def conclusion(run: Run) -> str:
    """The last line of a report."""
    if run.kept:
        return "Nothing was lost, doubled or hung, and every call came back within its bound."
    return "Broken promises:\n\n" + "\n".join(f"- {each}" for each in verdicts(run))


def circumstances(run: Run) -> str:
    """What the figures were measured on."""
    terms = run.terms
    return (
        f"{run.date}. {terms.clients} clients, half of them reading by key and half inserting; "
        f"{terms.connections} connections; a call is bound to {terms.bound:g} s, a client gives up "
        f"after {terms.patience:g} s. {run.database}. {run.machine}"
    )


def markdown(run: Run) -> str:
    """`report.md`."""
    contender = run.reports[0].contender if run.reports else "nothing"
    whats = [[f"`{report.fault}`", report.what] for report in run.reports]
    return "\n\n".join(
        [
            f"# Drill: {contender}",
            circumstances(run),
            table(HEADER, [row(report) for report in run.reports]),
            conclusion(run),
            LEGEND,
            table(["fault", "what happens"], whats) + "\n",
        ]
    )


def as_json(run: Run) -> str:
    """`report.json`: everything, the timelines included."""
    facts: dict[str, Any] = asdict(run) | {"kept": run.kept}
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


_PAGE_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1f2328; background: #ffffff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .2rem; }
.facts { color: #656d76; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { border-bottom: 1px solid #d8dee4; padding: .3rem .6rem; text-align: right;
  vertical-align: top; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
.broken-promise { color: #cf222e; font-weight: 600; } .kept { color: #1a7f37; font-weight: 600; }
svg { max-width: 100%; height: auto; display: block; }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117; } .facts { color: #9198a1; }
  th, td { border-color: #30363d; } .broken-promise { color: #ff7b72; } .kept { color: #3fb950; }
}
"""


def html(run: Run) -> str:
    """`report.html`: the table and a plot for every fault; needs nothing else."""
    contender = run.reports[0].contender if run.reports else "nothing"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Drill: {escape(contender)}</title>",
        f"<style>{_PAGE_STYLE}{STYLE}</style></head><body>",
        f"<h1>Drill: {escape(contender)}</h1>",
        f'<p class="facts">{escape(circumstances(run))}</p>',
        '<div class="scroll"><table><thead><tr>',
        *(f"<th>{escape(cell)}</th>" for cell in HEADER),
        "</tr></thead><tbody>",
        *(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row(report)) + "</tr>"
            for report in run.reports
        ),
        "</tbody></table></div>",
    ]
    if run.kept:
        parts.append(f'<p class="kept">{escape(conclusion(run))}</p>')
    else:
        broken = "".join(f"<li>{escape(each)}</li>" for each in verdicts(run))
        parts.append(f'<p class="broken-promise">Broken promises</p><ul>{broken}</ul>')
    for report in run.reports:
        parts += [
            f"<h2>{escape(report.fault)}</h2>",
            f'<p class="facts">{escape(_story(report))}</p>',
            plot(report),
        ]
    return "\n".join([*parts, "</body></html>", ""])


def _story(report: FaultReport) -> str:
    noticed = "the pool reported nothing"
    if report.noticed_after is not None:
        noticed = f"noticed after {seconds(report.noticed_after)} ({report.noticed_by})"
    return (
        f"{report.calls_per_second:,.0f} calls/s before, p50 {seconds(report.p50)}, "
        f"p99 {seconds(report.p99)}; {noticed}; errors: {errors(report)}."
    )


def write(run: Run, folder: Path) -> list[Path]:
    """Write all three into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in (
        ("report.md", markdown(run)),
        ("report.json", as_json(run)),
        ("report.html", html(run)),
    ):
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
