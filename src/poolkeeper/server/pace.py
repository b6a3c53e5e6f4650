"""How fast the queue for connections moves: what makes an honest Retry-After."""

from __future__ import annotations

from collections import deque
from time import monotonic

_WINDOW = 5


class Pace:
    """Counts connections given back, by the second. Belongs to one event loop."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._second = int(self._began)
        self._count = 0
        # Of the last whole seconds, the newest last.
        self._counts: deque[int] = deque(maxlen=_WINDOW)

    def released(self) -> None:
        """A connection was given back."""
        second = int(monotonic())
        if second != self._second:
            self._roll(second)
        self._count += 1

    def per_second(self) -> float:
        """Connections given back per second, over the last few seconds."""
        now = monotonic()
        self._roll(int(now))
        seconds = min(now - self._began, len(self._counts) + now % 1)
        return (sum(self._counts) + self._count) / max(1.0, seconds)

    def _roll(self, second: int) -> None:
        passed = second - self._second
        if passed:
            self._counts.append(self._count)
            self._counts.extend([0] * min(passed - 1, _WINDOW))
            self._second, self._count = second, 0
