"""Which of many rows the database refuses, and how to load the others; pure.

COPY stops at the first row it cannot take and undoes those before. So rows are loaded in segments,
each behind a savepoint. A segment that fails is cut at the line the server names, else in halves,
until a single row fails: that one is bad. The next segment is then as long as the stretch of good
rows before it was, and twice as long after each success. So a chunk full of bad rows costs one
short COPY a row, and one with a few is sent about twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poolkeeper.operations.load.csv_records import Bounds

_CONTEXT: Final = re.compile(
    r'COPY \S.*?, line (\d+)(?:, column ("(?:[^"]|"")+"|[^:]+))?', re.DOTALL
)

_CLASSES: Final = (
    "22",  # data exceptions
    "23",  # violated constraints
    "44",  # WITH CHECK OPTION
    "54",  # limits: a value too long for an index, JSON too deep
)
_RAISED: Final = "P0001"
"""RAISE in a trigger of the user's, which refuses the row."""
_NOT_OF_A_ROW: Final = frozenset({"54011", "54023"})
"""Too many columns, too many arguments."""


def is_of_a_row(sqlstate: str | None) -> bool:
    """Whether an error is about what is in a row, so that other rows may do better."""
    if sqlstate is None or sqlstate in _NOT_OF_A_ROW:
        return False
    return sqlstate.startswith(_CLASSES) or sqlstate == _RAISED


@dataclass(frozen=True, slots=True)
class Place:
    """What the server says about where an error is.

    Attributes:
        line: Line of what was sent, from 1.
        column: Column of the table.
    """

    line: int | None
    column: str | None


def place_of(context: str | None, column: str | None = None) -> Place:
    """Read it from an error's context and its column field."""
    found = _CONTEXT.search(context or "")
    if found is None:
        return Place(None, column)
    return Place(int(found[1]), column or found[2])


def record_at(bounds: Sequence[Bounds], first: int, count: int, line: int) -> int | None:
    """Which of ``count`` records from ``first`` on has that line of what was sent.

    The server counts a record by its last line. It is a hint: while it does not know yet how lines
    end, it counts those within quotes differently.
    """
    begins_at = bounds[first].line
    wanted = begins_at + line - 1
    low, high = first, first + count
    while low < high:
        middle = (low + high) // 2
        if bounds[middle].line <= wanted:
            low = middle + 1
        else:
            high = middle
    return low - 1 if first < low else None


class Segments:
    """Decides which rows to load next, and which one is bad.

    Args:
        count: How many rows there are.

    Attributes:
        position: The first row that is neither loaded nor refused.
        length: How many rows from there to load next.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._after_last_bad = 0
        self._suspect: int | None = None
        # Before here is a bad row, as a segment that ended here has failed.
        self._bad_before = 0
        self.position = 0
        self.length = count

    @property
    def finished(self) -> bool:
        """Whether nothing is left."""
        return self.position >= self._count

    def loaded(self) -> None:
        """The segment is loaded."""
        self.position += self.length
        known = self._bad_before - self.position
        if known <= 0:
            self._next(self.length * 2)
        elif self.position == self._suspect:
            self._next(1)
        else:
            self._next(max(1, known // 2))

    def failed(self, hint: int | None) -> bool:
        """The segment is not loaded.

        Args:
            hint: The row the server seems to mean.

        Returns:
            Whether it was a single row, which then is bad and stepped over.
        """
        self._suspect = None
        if self.length == 1:
            distance = self.position - self._after_last_bad
            self.position += 1
            self._after_last_bad = self._bad_before = self.position
            self._next(max(distance, 1))
            return True
        self._bad_before = self.position + self.length
        if hint is None or not self.position <= hint < self._bad_before:
            self.length //= 2
        else:
            self._suspect = hint
            self.length = max(1, hint - self.position)
        return False

    def _next(self, length: int) -> None:
        self.length = min(length, self._count - self.position)
