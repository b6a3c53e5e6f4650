"""One connection attempt that ends in time, and does not miss the moment a silence ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from poolkeeper.deadlines import bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.drivers.base import Driver

GRACE_SECONDS = 0.5
"""A driver bounds its own connect; this is how much later we stop believing that."""

FRESH_SECONDS = 0.5
"""How long an attempt may stay unanswered in an outage before another one is made beside it."""


async def dial(driver: Driver, timeout: float) -> Any:
    """Open one connection, or raise what the driver says, by ``timeout``.

    Raises:
        TimeoutError: Nobody answered in time.
    """
    return await bounded(
        driver.connect(timeout),
        timeout + GRACE_SECONDS,
        too_late=lambda session: session.abort(),
    )


async def dial_patiently(
    driver: Driver, timeout: float, in_outage: Callable[[], bool], again: Callable[[float], None]
) -> Any:
    """Like ``dial``, but in an outage keep making a fresh attempt beside the first.

    What was sent into a silence is sent again only after seconds, later and later, so an attempt
    under way would notice the end of an outage late. A fresh one, made twice a second and given
    up for the next, notices it at once; the first one stays, for servers that are merely slow.
    So there are never more than two. ``again`` is told of each fresh one: the seconds since the
    attempt before.
    """
    patient = asyncio.ensure_future(dial(driver, timeout))
    fresh: asyncio.Future[Any] | None = None
    winner: asyncio.Future[Any] | None = None
    try:
        while winner is None:
            attempts = {patient} if fresh is None else {patient, fresh}
            done, _ = await asyncio.wait(
                attempts, timeout=FRESH_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                # A refusal of the fresh one counts as well: it is today's truth.
                winner = patient if patient in done else fresh
                break
            if fresh is not None:
                _give_up(fresh)
                fresh = None
            if in_outage():
                again(FRESH_SECONDS)
                fresh = asyncio.ensure_future(dial(driver, timeout))
    finally:
        for attempt in (patient, fresh):
            if attempt is not None and attempt is not winner:
                _give_up(attempt)
    assert winner is not None
    try:
        return winner.result()
    finally:
        # As in ``bounded``: the error is kept, what the attempts have open must not be.
        del attempts, attempt, done, fresh, patient, winner


def _give_up(attempt: asyncio.Future[Any]) -> None:
    attempt.add_done_callback(_abort_unclaimed)
    attempt.cancel()


def _abort_unclaimed(attempt: asyncio.Future[Any]) -> None:
    # It may have succeeded in the very moment it was given up.
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().abort()
