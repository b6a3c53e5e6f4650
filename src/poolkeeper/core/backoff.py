"""How long to wait before the next connection attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class Backoff:
    """Capped exponential backoff with full jitter.

    The n-th delay after a failure is uniform in [0, min(maximum, initial * 2**n)]. Full jitter
    spreads many clients of one database best: "Exponential Backoff And Jitter", M. Brooker, 2015.
    """

    __slots__ = ("_initial", "_maximum", "_rng", "attempts")

    def __init__(self, initial: float, maximum: float, rng: Random) -> None:
        self._initial = initial
        self._maximum = maximum
        self._rng = rng
        self.attempts = 0

    def next_delay(self) -> float:
        """Count one more failure and return the seconds to wait."""
        # The exponent is capped: 2**1024 does not fit a float, and an outage may be long.
        ceiling = min(self._maximum, self._initial * 2.0 ** min(self.attempts, 60))
        self.attempts += 1
        return self._rng.uniform(0.0, ceiling)

    def reset(self) -> None:
        """Forget the failures so far."""
        self.attempts = 0
