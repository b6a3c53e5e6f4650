"""How many connections to open, and how long a newcomer would wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Limits:
    """The numbers a pool decides by; seconds unless said otherwise. ``resize()`` changes them."""

    min_size: int = 2
    max_size: int = 10
    max_waiting: int | None = None
    validation_bypass: float = 0.5
    max_lifetime: float | None = 3600.0
    lifetime_jitter: float = 0.1
    max_idle: float | None = 300.0
    max_uses: int | None = 50_000
    reconnect_initial_delay: float = 0.05
    reconnect_max_delay: float = 1.0
    outage_patience: float = 10.0


def connections_to_open(
    *,
    min_size: int,
    max_size: int,
    total: int,
    leaving: int,
    waiting: int,
    coming: int,
    connecting: int,
    window: int,
) -> int:
    """How many to dial now.

    Enough for every waiter nobody is preparing a connection for, and for the floor; never more
    than there is room for, and never more at once than the slow-start ``window`` allows.

    Args:
        min_size: The floor.
        max_size: The ceiling; connecting and closing connections count.
        total: All connections in whatever state.
        leaving: Those being closed: they take room but serve nobody.
        waiting: Requests in the queue.
        coming: Connections being opened, validated or reset, which will serve the queue.
        connecting: Those of ``coming`` being opened.
        window: How many may be opened at the same time.
    """
    for_waiters = waiting - coming
    for_floor = min_size - (total - leaving)
    wanted = max(for_waiters, for_floor, 0)
    return max(0, min(wanted, max_size - total, window - connecting))


def expected_wait(*, ahead: int, max_size: int, mean_use: float) -> float:
    """Seconds until a newcomer with ``ahead`` requests before it would be served.

    Little's law with every connection busy: the queue moves ``max_size`` places per mean use.
    """
    return (ahead + 1) * mean_use / max_size


MEAN_USE_WEIGHT = 0.05
"""Weight of the newest use in the moving mean that predicts waiting times."""


HOPELESS_FACTOR = 2.0
"""How far beyond its deadline a request must be expected to end before it is refused at once.
The prediction is rough, so only a clear case counts."""

NEGLIGIBLE_USE = 0.01
"""A mean use (seconds) below this predicts no wait to refuse for: idle pools skip the sum."""


def smoothed_use(mean: float, use: float) -> float:
    """The moving mean after one more use, in seconds.

    One very long use must not make all the short ones after it look hopeless, so it counts as a
    few times the mean at most.
    """
    return mean + (min(use, 4.0 * mean + 0.1) - mean) * MEAN_USE_WEIGHT
