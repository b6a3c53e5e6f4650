"""How much to do in one transaction; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from poolkeeper.operations.kind import Sizing

TARGET_SECONDS: Final = 0.09
"""Of 50 to 100 ms: a COMMIT costs little of that, a lost chunk is soon done again, and no lock is
held for longer than people notice."""
FASTEST_GROWTH: Final = 2.0
SMOOTHING: Final = 0.5


class ChunkSize:
    """The size of the next chunk, from how long those before it took.

    It follows the rate, smoothed, but grows twofold at the most at a time. After a failure it is a
    quarter of what it was, so that a chunk the server cannot digest gets smaller and smaller.
    """

    __slots__ = ("_largest", "_rate", "_smallest", "size")

    def __init__(self, sizing: Sizing) -> None:
        self._smallest = sizing.smallest
        self._largest = sizing.largest
        self._rate: float | None = None
        self.size = self._bounded(sizing.initial)

    def took(self, size: int, seconds: float) -> None:
        """A chunk of ``size`` took so long, from its BEGIN to the answer to its COMMIT."""
        if size <= 0 or seconds <= 0.0:
            return
        rate = size / seconds
        self._rate = rate if self._rate is None else (self._rate + rate) * SMOOTHING
        wanted = self._rate * TARGET_SECONDS
        if size * FASTEST_GROWTH < self.size:
            # The end of the source, or a sparse stretch: it says little of full chunks.
            return
        self.size = self._bounded(min(wanted, self.size * FASTEST_GROWTH))

    def failed(self) -> None:
        """A chunk of the present size failed."""
        self._rate = None
        self.size = self._bounded(self.size / 4)

    def _bounded(self, size: float) -> int:
        return max(self._smallest, min(self._largest, round(size)))
