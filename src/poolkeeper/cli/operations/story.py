"""What is worth a line in the course of an operation; pure: time is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poolkeeper.cli.operations.words import clean, command, duration, place, reason, rows
from poolkeeper.operations.model import OperationState

if TYPE_CHECKING:
    from poolkeeper.operations import OperationStatus
    from poolkeeper.operations.runner import Report

NOTICED_SECONDS: Final = 1.0
"""Shorter waits get no line of their own: a lock may be waited for many times."""


class Story:
    """Turns reports into lines, and remembers what it waits for.

    Attributes:
        waiting_for: In words; None while it goes on.
    """

    def __init__(self) -> None:
        self.waiting_for: str | None = None
        self._since = 0.0
        self._told = False
        self._by_report = False
        self._status: OperationStatus | None = None
        self._owner: str | None = None
        """Place of the other worker that is being followed."""
        self._ours = False

    def saw(self, report: Report, now: float) -> list[str]:
        """Take note of a report; the lines it is worth."""
        status, before = report.status, self._status
        self._status = status
        lines: list[str] = []
        if report.elsewhere:
            if status.state is OperationState.RUNNING and status.owner_place != self._owner:
                self._owner = status.owner_place
                lines.append(
                    f"{clean(self._owner or 'another worker')} works on it, at {place(status)}: "
                    "following, and taking over if it dies"
                )
            self._ours = False
            self.waiting_for = None
        elif report.waiting_for is not None:
            self._wait(reason(report.waiting_for), now, by_report=True)
        elif status.state is OperationState.RUNNING:
            lines += self._works_here(status, before, now)
        if status.rows_rejected and not (before and before.rows_rejected):
            lines.append(
                f"{rows(status.rows_rejected)} rejected; "
                f"`{command('operations', 'rejects', status.name)}` shows them"
            )
        return lines

    def _works_here(
        self, status: OperationStatus, before: OperationStatus | None, now: float
    ) -> list[str]:
        lines = []
        if not self._ours:
            if self._owner is not None:
                lines.append(f"taken over at {place(status)}")
            elif status.seq:
                lines.append(f"resuming at {place(status)}")
            self._ours, self._owner = True, None
        if self.waiting_for is not None and self._told:
            lines.append(f"goes on at {place(status)} after {duration(now - self._since)}")
        elif before is not None and status.outages > before.outages:
            lines.append(f"goes on at {place(status)} over a new connection")
        self.waiting_for = None
        return lines

    def tick(self, now: float) -> list[str]:
        """Take note that time passes."""
        if self.waiting_for is None or self._told or now - self._since < NOTICED_SECONDS:
            return []
        self._told = True
        return [f"waiting: {self.waiting_for}"]

    def database_away(self, why: str, now: float) -> None:
        """Hear from the pool that the database is gone."""
        self._wait(f"the database is away: {reason(why)}", now, by_report=False)

    def database_back(self, now: float) -> list[str]:
        """Hear from the pool that it is back; the runner tells when the operation goes on."""
        if self.waiting_for is None or self._by_report:
            return []
        self.waiting_for = None
        return [f"the database is back after {duration(now - self._since)}"] if self._told else []

    def _wait(self, why: str, now: float, *, by_report: bool) -> None:
        if self.waiting_for is None:
            self._since, self._told = now, False
            self._by_report = by_report
        self._by_report = self._by_report or by_report
        self.waiting_for = why

    def waited(self, now: float) -> float:
        """Seconds since it began to wait."""
        return now - self._since
