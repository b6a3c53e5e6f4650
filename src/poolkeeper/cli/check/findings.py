"""What a diagnosis found out, one record per step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Verdict: TypeAlias = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one step.

    Attributes:
        step: What was looked at.
        verdict: ``failed`` means the database cannot be used; a ``warning`` is worth reading.
        summary: What was seen, in one line without secrets.
        advice: What to do next; only where something is wrong.
        facts: The numbers and names behind the summary, for programs.
    """

    step: str
    verdict: Verdict
    summary: str
    advice: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


class StepFailedError(Exception):
    """A step failed in a way that makes the following ones pointless."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.summary)
        self.finding = finding


def fail(step: str, summary: str, advice: str, **facts: object) -> StepFailedError:
    """Make the exception that ends a diagnosis."""
    return StepFailedError(Finding(step, "failed", summary, advice, facts))
