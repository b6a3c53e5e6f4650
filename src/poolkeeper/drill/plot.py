"""Throughput, errors and latency of a drill over time, as SVG by hand: no library, no network.

Readable on light and dark ground alike: colours come from a style sheet that asks which one it is.
"""

from __future__ import annotations

from html import escape
from math import ceil, log10
from typing import TYPE_CHECKING

from poolkeeper.drill.measuring import BIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poolkeeper.drill.measuring import FaultReport

STYLE = """
.drill { color-scheme: light dark; --ink: #1f2328; --faint: #656d76; --grid: #d8dee4;
  --ground: #ffffff; --done: #2f81b7; --failed: #cf222e; --p99: #8250df; --broken: #9a670033; }
@media (prefers-color-scheme: dark) { .drill { --ink: #e6edf3; --faint: #9198a1;
  --grid: #30363d; --ground: #0d1117; --done: #58a6d6; --failed: #ff7b72; --p99: #d2a8ff;
  --broken: #d2992233; } }
.drill text { font: 11px system-ui, sans-serif; fill: var(--faint); }
.drill .title { font-weight: 600; font-size: 12px; fill: var(--ink); }
.drill .end { text-anchor: end; } .drill .middle { text-anchor: middle; }
.drill .ground { fill: var(--ground); } .drill .broken { fill: var(--broken); }
.drill .grid { stroke: var(--grid); } .drill .back { stroke: var(--ink); stroke-dasharray: 3 3; }
.drill rect { shape-rendering: crispEdges; }
.drill .done { fill: var(--done); } .drill .failed { fill: var(--failed); }
.drill .line { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.drill .p50 { stroke: var(--done); } .drill .p99 { stroke: var(--p99); }
.drill .legend-p99 { fill: var(--p99); }
"""

WIDTH = 720.0
RATE_HEIGHT = 110.0
LATENCY_HEIGHT = 90.0
LEFT = 52.0
RIGHT = 12.0
TOP = 24.0
BETWEEN = 18.0
BOTTOM = 30.0
HEIGHT = TOP + RATE_HEIGHT + BETWEEN + LATENCY_HEIGHT + BOTTOM
FASTEST = 0.001
"""Where the logarithmic axis of the latencies begins, in seconds."""


class _Plot:
    """The coordinates of one plot."""

    def __init__(self, report: FaultReport, *, title: str, width: float, top_rate: float) -> None:
        self.report = report
        self.bins = report.timeline
        self.title = title
        self.width = width
        self.start = self.bins[0].at
        self.end = self.bins[-1].at + BIN_SECONDS
        self.top_rate = top_rate
        slowest = max((each.p99 or 0.0 for each in self.bins), default=0.0)
        self.decades = max(2, ceil(log10(max(slowest, FASTEST) / FASTEST)))

    def x(self, at: float) -> float:
        share = (at - self.start) / (self.end - self.start)
        return round(LEFT + share * (self.width - LEFT - RIGHT), 1)

    def rate(self, calls: float) -> float:
        per_second = calls / BIN_SECONDS
        return round(TOP + RATE_HEIGHT * (1 - min(per_second / self.top_rate, 1.0)), 1)

    @property
    def floor(self) -> float:
        return TOP + RATE_HEIGHT

    def latency(self, seconds: float) -> float:
        share = log10(max(seconds, FASTEST) / FASTEST) / self.decades
        return round(HEIGHT - BOTTOM - LATENCY_HEIGHT * share, 1)

    def draw(self) -> Iterator[str]:
        yield f'<text class="title" x="{LEFT}" y="14">{escape(self.title)}</text>'
        yield from self._spans()
        yield from self._axes()
        yield from self._calls()
        yield from self._line("p50")
        yield from self._line("p99")

    def _spans(self) -> Iterator[str]:
        report = self.report
        broken = max(report.fault_seconds, report.down_for, BIN_SECONDS / 2)
        left, right = self.x(0.0), self.x(min(broken, self.end))
        height = HEIGHT - TOP - BOTTOM
        yield (
            f'<rect class="broken" x="{left}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{height}"/>'
        )
        if report.recovered_after is not None:
            back = self.x(min(report.down_for + report.recovered_after, self.end))
            yield (
                f'<line class="back" x1="{back}" x2="{back}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
                "<title>first success</title></line>"
            )

    def _axes(self) -> Iterator[str]:
        right = self.width - RIGHT
        for share in (0.0, 0.5, 1.0):
            y = round(TOP + RATE_HEIGHT * (1 - share), 1)
            yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            yield (
                f'<text class="end" x="{LEFT - 6}" y="{y + 4}">{self.top_rate * share:,.0f}</text>'
            )
        for decade in range(self.decades + 1):
            seconds = FASTEST * 10**decade
            y = self.latency(seconds)
            text = f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"
            yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            yield f'<text class="end" x="{LEFT - 6}" y="{y + 4}">{text}</text>'
        span = self.end - self.start
        step = next(step for step in (1, 2, 5, 10, 20, 50, 1000) if span / step <= self.width / 60)
        for tick in range(ceil(self.start / step) * step, int(self.end) + 1, step):
            x = self.x(tick)
            text = f"{tick} s" if tick else "fault"
            yield f'<text class="middle" x="{x}" y="{HEIGHT - BOTTOM + 16}">{text}</text>'

    def _calls(self) -> Iterator[str]:
        """Successes as columns that touch, errors on top of them."""
        for each in self.bins:
            failed = sum(each.errors.values())
            left, width = self.x(each.at), self.x(each.at + BIN_SECONDS) - self.x(each.at)
            done = self.rate(each.successes)
            if each.successes:
                yield _column("done", left, done, width, self.floor - done)
            if failed:
                top = min(self.rate(each.successes + failed), done - 1.5)
                named = ", ".join(f"{count} {name}" for name, count in each.errors.items())
                yield _column("failed", left, top, width, done - top, named)

    def _line(self, name: str) -> Iterator[str]:
        """Broken where nothing succeeded."""
        points: list[str] = []
        for each in [*self.bins, None]:
            value = None if each is None else getattr(each, name)
            if each is not None and value is not None:
                points.append(f"{self.x(each.at + BIN_SECONDS / 2)},{self.latency(value)}")
            elif points:
                if len(points) == 1:
                    x, y = points[0].split(",")
                    points.append(f"{float(x) + 1.5},{y}")
                yield f'<polyline class="line {name}" points="{" ".join(points)}"/>'
                points = []


def _column(kind: str, x: float, y: float, width: float, height: float, title: str = "") -> str:
    shape = f'<rect class="{kind}" x="{x}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"


def _legend(x: float, y: float) -> str:
    return (
        f'<text x="{x}" y="{y}">calls/s: <tspan class="done">■</tspan> succeeded '
        '<tspan class="failed">■</tspan> failed; latency: <tspan class="done">▬</tspan> p50 '
        '<tspan class="legend-p99">▬</tspan> p99; shaded: broken; dashed: first success</text>'
    )


def _round_up(value: float) -> float:
    """To a number that reads well on an axis."""
    magnitude = 10.0 ** int(log10(max(value, 10.0)))
    return next(m * magnitude for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * magnitude >= value)


def _highest_rate(reports: Sequence[FaultReport]) -> float:
    return _round_up(
        max(
            (each.successes + sum(each.errors.values())) / BIN_SECONDS
            for report in reports
            for each in report.timeline
        )
    )


def plot(report: FaultReport) -> str:
    """One drill, for a page that has `STYLE`."""
    return figure([report], columns=1, with_style=False)


def figure(reports: Sequence[FaultReport], *, columns: int, with_style: bool = True) -> str:
    """Several drills side by side on the same scale of throughput, as a file of its own."""
    width = WIDTH if columns == 1 else 460.0
    rate = _highest_rate(reports)
    rows = ceil(len(reports) / columns)
    total_width, total_height = width * columns, HEIGHT * rows + 16
    size = f'viewBox="0 0 {total_width:g} {total_height:g}" width="{total_width:g}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" class="drill" role="img" {size}>']
    if with_style:
        parts += [
            f"<style>{STYLE}</style>",
            f'<rect class="ground" width="{total_width:g}" height="{total_height:g}"/>',
        ]
    for index, report in enumerate(reports):
        title = report.what if columns == 1 else f"{report.fault}: {report.contender}"
        row, column = divmod(index, columns)
        drawn = _Plot(report, title=title, width=width, top_rate=rate).draw()
        parts += [f'<g transform="translate({column * width:g} {row * HEIGHT:g})">', *drawn, "</g>"]
    parts += [_legend(LEFT, HEIGHT * rows + 6), "</svg>"]
    return "\n".join(parts)
