"""What is known of the database's absence, and how to come back without a herd."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from poolkeeper.core.availability import Failure
from poolkeeper.core.backoff import Backoff
from poolkeeper.core.effects import OutageBegan, OutageEnded

if TYPE_CHECKING:
    from random import Random

    from poolkeeper.core.sizing import Limits

HOLDING = frozenset({Failure.STARTING, Failure.BACKPRESSURE})
"""The server is there and will let us in: as good as back, so waiters keep their own deadlines."""


class Outage:
    """The outage of now, if ``down_since`` is set, and the failures that may lead to one.

    ``window`` is the slow start: how many connections may be opened at the same time. It grows by
    one with each success, so doubles with each round of dials, and falls to one at the first
    failure: a database that comes back never meets a herd.
    """

    __slots__ = (
        "_backoff",
        "_limits",
        "down_since",
        "last_failure",
        "last_failure_at",
        "lost",
        "next_attempt_at",
        "window",
    )

    def __init__(self, limits: Limits, rng: Random) -> None:
        self._limits = limits
        self._backoff = Backoff(limits.reconnect_initial_delay, limits.reconnect_max_delay, rng)
        self.down_since: float | None = None
        self.last_failure: Failure | None = None
        self.last_failure_at: float | None = None
        self.next_attempt_at = -inf
        self.window = 1
        # Connections lost since anything was heard from the database.
        self.lost = 0

    @property
    def attempts(self) -> int:
        """Failed connection attempts since the last success."""
        return self._backoff.attempts

    def begin(self, now: float, silent_for: float, reason: str) -> OutageBegan:
        """No usable connection is left."""
        self.down_since = now
        self.window = 1
        return OutageBegan(silent_for, self.lost, reason)

    def heard(self, now: float) -> OutageEnded | None:
        """Something was heard from the database."""
        self.lost = 0
        if self.down_since is None:
            return None
        ended = OutageEnded(now - self.down_since)
        self.down_since = None
        self.forget_failures()
        return ended

    def dial_failed(self, failure: Failure, now: float) -> None:
        """Count a failed dial and decide when the next may be."""
        self.window = 1
        self.last_failure = failure
        self.last_failure_at = now
        self.next_attempt_at = now + self._backoff.next_delay()

    def forget_failures(self) -> None:
        """A dial succeeded: the backoff begins anew."""
        self._backoff.reset()
        self.next_attempt_at = -inf
        self.last_failure = None
        self.last_failure_at = None

    def patience_until(self) -> float:
        """Until when waiters are held.

        A server that refuses this client will not change its mind while they wait.
        """
        if self.down_since is None or self.last_failure in HOLDING:
            return inf
        if self.last_failure is Failure.MISCONFIGURED:
            return self.down_since
        return self.down_since + self._limits.outage_patience
