"""Shows a drill while it goes on: moving on a terminal, one line per fault elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from poolkeeper.drill.report import errors, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

    from poolkeeper.drill.arena import Arena
    from poolkeeper.drill.engine import Progress
    from poolkeeper.drill.faults import Fault
    from poolkeeper.drill.measuring import FaultReport

BARS = " ▁▂▃▄▅▆▇█"
SPARK_BINS = 40
SPARK_SECONDS = 0.25
_NAME_WIDTH = 20


class Display(Protocol):
    """What a run tells."""

    def preparing(self, arena: Arena) -> None:
        """The database is being set up."""

    def started(self, what: str) -> None:
        """It is there."""

    def fault(self, fault: Fault, progress: Progress) -> AbstractContextManager[None]:
        """Around one drill."""

    def finished(self, report: FaultReport) -> None:
        """The drill is over, and this came of it."""


@contextmanager
def display(faults: int) -> Iterator[Display]:
    """The one that suits standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield _Plain(console, faults)
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield _Moving(console, faults, live)


def verdict_line(report: FaultReport) -> Text:
    """One drill in one line."""
    kept = not report.broken_promises
    mark = ("✓", "green") if kept else ("✗", "red")
    count = sum(report.errors.values())
    said = f"{count:,} error{'' if count == 1 else 's'}"
    parts = [said]
    if report.noticed_after is not None:
        parts.append(f"noticed after {seconds(report.noticed_after)}")
    parts += [
        f"back after {seconds(report.recovered_after)}",
        f"longest call {seconds(report.longest_call)}",
        f"{report.acknowledged:,} acknowledged",
        f"{report.lost} lost",
        f"{report.doubled} doubled",
        f"{report.unknown} unknown",
    ]
    line = Text.assemble(mark, f" {report.fault:<{_NAME_WIDTH}} ", (", ".join(parts), "dim"))
    for problem in report.broken_promises:
        line.append(f"\n    {problem}", "red")
    if count:
        line.append(f"\n    {errors(report)}", "dim")
    return line


class _Plain:
    """Lines, for logs and pipes."""

    def __init__(self, console: Console, faults: int) -> None:
        self._console = console
        self._faults = faults

    def preparing(self, arena: Arena) -> None:
        del arena

    def started(self, what: str) -> None:
        self._console.print(Text(f"{what}, {self._faults} faults"))

    @contextmanager
    def fault(self, fault: Fault, progress: Progress) -> Iterator[None]:
        del progress
        self._console.print(Text(f"  {fault.name}: {fault.what}"))
        yield

    def finished(self, report: FaultReport) -> None:
        self._console.print(verdict_line(report))


class _Moving:
    """The fault that goes on, its phase, and the throughput of the last seconds."""

    def __init__(self, console: Console, faults: int, live: Live) -> None:
        self._console = console
        self._faults = faults
        self._live = live
        self._done = 0

    def preparing(self, arena: Arena) -> None:
        del arena
        self._live.update(Spinner("dots", Text("setting up a database")))

    def started(self, what: str) -> None:
        self._console.print(Text(what, "bold"))

    @contextmanager
    def fault(self, fault: Fault, progress: Progress) -> Iterator[None]:
        self._live.update(_Current(fault, progress, f"{self._done + 1}/{self._faults}"))
        yield
        self._live.update(Text(""))

    def finished(self, report: FaultReport) -> None:
        self._done += 1
        self._console.print(verdict_line(report))


class _Current:
    """Drawn anew eight times a second by rich, from what the clients have noted."""

    def __init__(self, fault: Fault, progress: Progress, position: str) -> None:
        self._fault = fault
        self._progress = progress
        self._position = position
        self._spinner = Spinner("dots")
        self._rates: dict[int, int] = {}
        self._seen = 0

    def __rich__(self) -> RenderableType:
        clients = self._progress.clients
        now = monotonic()
        self._spinner.update(
            text=Text.assemble(
                (f"{self._position} ", "dim"),
                (self._fault.name, "bold"),
                f": {self._fault.what} ",
                (f"[{self._progress.phase}]", "red" if self._broken else "cyan"),
            )
        )
        if clients is None:
            return self._spinner
        calls = clients.calls
        for call in calls[self._seen :]:
            if call.error is None:
                index = int(call.ended / SPARK_SECONDS)
                self._rates[index] = self._rates.get(index, 0) + 1
        self._seen = len(calls)
        last = int(now / SPARK_SECONDS)
        window = [self._rates.get(last - age, 0) for age in range(SPARK_BINS, 0, -1)]
        top = max(self._rates.values(), default=1)
        spark = "".join(BARS[round((len(BARS) - 1) * rate / top)] for rate in window)
        figures = f" {window[-1] / SPARK_SECONDS:,.0f} calls/s"
        line = Text.assemble("  ", (spark, "blue"), figures)
        if clients.errors:
            line.append(f", {clients.errors:,} errors", "red")
        return Group(self._spinner, line)

    @property
    def _broken(self) -> bool:
        return self._progress.phase in {"broken", "healing"}
