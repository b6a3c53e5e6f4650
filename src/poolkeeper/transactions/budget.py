"""A limit on what retries may add to the load, shared by all calls of a pool."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PER_SECOND: Final = 10.0
"""Retries a second that are always allowed."""

PER_REQUEST: Final = 0.1
"""Retries each request allows on top of that."""

WINDOW_SECONDS: Final = 10.0
"""For how long unused allowance is kept."""


class RetryBudget:
    """A bucket of tokens; each retry takes one.

    A failing database must not be asked several times as often as a healthy one: when the bucket
    is empty, failures pass through at once.

    Args:
        requests: Counts the pool's requests, retries included.
        largest_loss: The most calls one event can hit, all of which may need a retry at once:
            the pool's ``max_size``.
    """

    def __init__(self, requests: Callable[[], int], largest_loss: Callable[[], int]) -> None:
        self._requests = requests
        self._largest_loss = largest_loss
        self._seen = requests()
        self._at = monotonic()
        self._tokens = self._capacity()

    def _capacity(self) -> float:
        # Twice: a connection dialled while the server goes down is lost a second time.
        return max(PER_SECOND * WINDOW_SECONDS, 2.0 * self._largest_loss())

    def spend(self) -> bool:
        """Take a token for one retry; False if there is none."""
        now, seen = monotonic(), self._requests()
        earned = (now - self._at) * PER_SECOND + (seen - self._seen) * PER_REQUEST
        self._at, self._seen = now, seen
        self._tokens = min(self._capacity(), self._tokens + earned)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
