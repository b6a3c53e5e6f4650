"""The sizes of a pool at one instant; errors, statistics and health carry the same record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """Where every connection of a pool is, and who waits, at one instant.

    The numbers add up: ``total`` is the sum of the six states that follow it.

    Attributes:
        total: All connections; never more than ``max_size``, except just after a ``resize``.
        idle: Open, nobody uses them.
        active: Borrowed.
        connecting: Being opened.
        validating: Answering a probe.
        resetting: Being cleaned after a use.
        closing: Saying goodbye.
        waiting: Requests in the queue.
        oldest_waiter_seconds: How long the first in the queue has waited; 0 without one.
        min_size: The floor.
        max_size: The ceiling.
    """

    total: int
    idle: int
    active: int
    connecting: int
    validating: int
    resetting: int
    closing: int
    waiting: int
    oldest_waiter_seconds: float
    min_size: int
    max_size: int

    @property
    def utilization(self) -> float:
        """Fraction of ``max_size`` in the hands of borrowers, 0 to 1."""
        return self.active / self.max_size

    def describe(self) -> str:
        """Say the state in the words of an error message.

        States that hold no connection are left out, except the ones everybody looks for.
        """
        parts = [f"{self.total} total", f"{self.active} active", f"{self.idle} idle"]
        for name in ("connecting", "validating", "resetting", "closing"):
            count = getattr(self, name)
            if count:
                parts.append(f"{count} {name}")
        parts.append(f"{self.waiting} waiting")
        return ", ".join(parts)
