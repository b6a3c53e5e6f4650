"""Figures as markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common.measuring import Figure


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table that also reads well unrendered; all columns but the first are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def number(value: float) -> str:
    """Three significant digits, or all that stand before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def figure(of: Figure, scale: float = 1.0) -> str:
    low, high = number(of.low * scale), number(of.high * scale)
    return f"{number(of.median * scale)} ({low} – {high})"


@dataclass(frozen=True)
class Goal:
    """A promise and the figure that keeps or breaks it."""

    what: str
    measured: Figure
    bound: float
    at_least: bool

    @property
    def reached(self) -> bool:
        value = self.measured.median
        return value >= self.bound if self.at_least else value <= self.bound

    def row(self) -> list[str]:
        sign = "≥" if self.at_least else "≤"
        verdict = "reached" if self.reached else "missed"
        return [self.what, f"{sign} {self.bound:g}", figure(self.measured), verdict]
