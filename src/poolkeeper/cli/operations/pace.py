"""How fast an operation goes and when it may be done; pure: time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from poolkeeper.operations import OperationStatus

WINDOW_SECONDS: Final = 15.0
"""A rate is the mean over so much working time: smooth, and it still follows a change."""

ENOUGH_SECONDS: Final = 1.0
"""After so much working time it can be told how long the rest takes."""


@dataclass(frozen=True, slots=True)
class _Mark:
    worked: float
    rows: int
    bytes: int
    fraction: float | None


class Pace:
    """The pace of one run.

    Time in which the database was away does not count: it says nothing of what is to come.
    """

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque()
        self._worked = 0.0
        self._last: float | None = None
        self._away = False
        self._began_at: float | None = None
        self.first: OperationStatus | None = None
        """How it was when this run began."""

    def saw(self, status: OperationStatus, now: float, *, away: bool) -> None:
        """Take note of how it is at ``now``.

        Args:
            status: As last read or committed.
            now: In seconds, by a monotonic clock.
            away: Whether nothing can be done right now.
        """
        if self.first is None:
            self.first, self._began_at = status, now
        elif self._last is not None and not away and not self._away:
            self._worked += now - self._last
        self._last, self._away = now, away
        self._marks.append(
            _Mark(self._worked, status.rows_done, status.bytes_done, status.fraction)
        )
        while (
            len(self._marks) > 2 and self._marks[-1].worked - self._marks[1].worked > WINDOW_SECONDS
        ):
            self._marks.popleft()

    @property
    def rows_per_second(self) -> float | None:
        """Rows for each second of work, lately."""
        span = self._span
        return (self._marks[-1].rows - self._marks[0].rows) / span if span else None

    @property
    def bytes_per_second(self) -> float | None:
        """The same in bytes."""
        span = self._span
        return (self._marks[-1].bytes - self._marks[0].bytes) / span if span else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds of work to the end at this pace; None while that cannot be told."""
        span = self._span
        if self._away or span is None or span < ENOUGH_SECONDS:
            return None
        first, last = self._marks[0].fraction, self._marks[-1].fraction
        # A fraction of an estimate may be whole before the end is there.
        if first is None or last is None or last <= first or last >= 1:
            return None
        return (1 - last) * span / (last - first)

    def elapsed(self, now: float) -> float:
        """Seconds of this run, outages included."""
        return 0.0 if self._began_at is None else now - self._began_at

    @property
    def worked(self) -> float:
        """Seconds of this run up to its last report, without outages."""
        return self._worked

    @property
    def _span(self) -> float | None:
        span = self._marks[-1].worked - self._marks[0].worked if self._marks else 0.0
        return span or None
