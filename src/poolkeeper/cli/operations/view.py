"""What a person sees of an operation while it runs: a bar on a terminal, else lines."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from poolkeeper.cli.operations.pace import Pace
from poolkeeper.cli.operations.story import Story
from poolkeeper.cli.operations.words import clean, duration, outages, percent, rows, size

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from poolkeeper.operations import OperationStatus
    from poolkeeper.operations.runner import Report

LINE_SECONDS: Final = 5.0
"""How often there is a line where there is no bar."""


class View(ABC):
    """Shows one operation; its methods are called from the event loop.

    Args:
        clock: Gives seconds.
    """

    refresh_seconds = 0.25

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.pace = Pace()
        self.story = Story()
        self.status: OperationStatus | None = None

    @property
    def waiting(self) -> bool:
        """Whether it cannot go on right now."""
        return self.story.waiting_for is not None

    def report(self, report: Report) -> None:
        """Take a report of the runner."""
        now = self.clock()
        self.status = report.status
        away = report.waiting_for is not None and not report.elsewhere
        self.pace.saw(report.status, now, away=away)
        for line in self.story.saw(report, now):
            self.say(line)

    def tick(self) -> None:
        """Call this several times a second."""
        for line in self.story.tick(self.clock()):
            self.say(line)
        self.refresh()

    def database_away(self, reason: str) -> None:
        """Hear that the database is gone."""
        self.story.database_away(reason, self.clock())

    def database_back(self) -> None:
        """Hear that it is back."""
        for line in self.story.database_back(self.clock()):
            self.say(line)

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a line that stays."""

    def refresh(self) -> None:  # noqa: B027 - not all have something to refresh
        """Show how it is now."""

    def close(self) -> None:  # noqa: B027 - or to leave
        """Leave the terminal as it was."""


class Silent(View):
    """Shows nothing."""

    def say(self, text: str) -> None:
        """See ``View``."""


class Lines(View):
    """Lines with the time of day: for logs and pipes."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._stream = sys.stderr if stream is None else stream
        self._shown_at = clock()

    def say(self, text: str) -> None:
        """See ``View``."""
        print(f"{time.strftime('%H:%M:%S')}  {clean(text)}", file=self._stream, flush=True)

    def refresh(self) -> None:
        """See ``View``."""
        now = self.clock()
        if self.status is None or now - self._shown_at < LINE_SECONDS:
            return
        self._shown_at = now
        waiting = self.story.waiting_for
        text = ", ".join(progress(self.status, self.pace))
        self.say(f"{text}; waiting: {waiting}" if waiting else text)


def progress(status: OperationStatus, pace: Pace) -> list[str]:
    """How far it is and how fast it goes, in pieces; the most important ones first."""
    pieces = [rows(status.rows_done)]
    if status.fraction is not None:
        pieces.append(percent(status.fraction))
    if pace.rows_per_second is not None:
        pieces.append(f"{pace.rows_per_second:,.0f} rows/s")
    if pace.seconds_left is not None:
        pieces.append(f"{duration(pace.seconds_left)} left")
    if status.bytes_total:
        pieces.append(f"{size(status.bytes_done)} of {size(status.bytes_total)}")
    elif status.bytes_done:
        pieces.append(size(status.bytes_done))
    if status.bytes_done and pace.bytes_per_second is not None:
        pieces.append(f"{size(pace.bytes_per_second)}/s")
    if status.outages:
        pieces.append(outages(status.outages))
    if status.rows_rejected:
        pieces.append(f"{rows(status.rows_rejected)} rejected")
    return pieces
