"""The progress bar."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from poolkeeper.cli.operations.view import View, progress
from poolkeeper.cli.operations.words import clean, duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import ConsoleOptions, RenderableType, RenderResult

_BAR_WIDTH = 30
_NARROW_BAR = 10


class Bar(View):
    """A bar that stays at the bottom, and lines above it that pass.

    Args:
        title: What it is a bar of.
        console: A terminal.
        clock: Gives seconds.
    """

    refresh_seconds = 0.1

    def __init__(
        self, title: str, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._title = clean(title)
        self._console = console
        # Drawn by tick(): a thread of rich's would look at what is just changing.
        self._live = Live(self, console=console, auto_refresh=False, transient=True)
        self._live.start()

    def say(self, text: str) -> None:
        """See ``View``."""
        self._console.print(Text(clean(text), "dim"))

    def refresh(self) -> None:
        """See ``View``."""
        self._live.refresh()

    def close(self) -> None:
        """See ``View``."""
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        del console
        status = self.status
        fraction = None if status is None else status.fraction
        narrow = options.max_width < 80
        width = _NARROW_BAR if narrow else _BAR_WIDTH
        facts = ["looking at it"] if status is None else progress(status, self.pace)
        room = options.max_width - width - 2
        title = Text(self._title, "bold", no_wrap=True, overflow="ellipsis")
        first = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [self._bar(fraction, width), Text(_fit(facts, room))]
        first.add_row(*cells)
        lines: list[RenderableType] = [title, first]
        if self.story.waiting_for is not None:
            waited = duration(self.story.waited(self.clock()))
            lines.append(
                Text(
                    f"waiting for {waited}: {self.story.waiting_for}",
                    "yellow",
                    no_wrap=True,
                    overflow="ellipsis",
                )
            )
        yield Group(*lines)

    def _bar(self, fraction: float | None, width: int) -> ProgressBar:
        total: dict[str, Any] = {"total": None} if fraction is None else {"total": 1.0}
        pulse = fraction is None
        return ProgressBar(
            completed=fraction or 0.0,
            width=width,
            pulse=pulse,
            animation_time=self.clock(),
            **total,
        )


def _fit(pieces: list[str], width: int) -> str:
    """As many of them as there is room for; the first one always."""
    text = pieces[0]
    for piece in pieces[1:]:
        longer = f"{text}  {piece}"
        if cell_len(longer) > width:
            break
        text = longer
    return text
