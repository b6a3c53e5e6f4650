"""Single statements made again after a lost connection, where that is safe."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.outcomes import LOST, Outcome, is_driver_error, mark, outcome_of
from poolkeeper.sqlstate import sqlstate_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from poolkeeper.config import PoolConfig
    from poolkeeper.observability.statistics import PoolCounters
    from poolkeeper.transactions.budget import RetryBudget

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 1.0


class Retries:
    """The rules by which calls and transactions of one pool are made again."""

    def __init__(
        self,
        config: Callable[[], PoolConfig],
        budget: RetryBudget,
        counters: PoolCounters,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._budget = budget
        self._counters = counters
        self._rng = rng

    def pause(self, retry: int) -> float:
        """Seconds to wait before the retry of that number, from 1: full jitter, doubling."""
        return self._rng.uniform(0.0, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**retry))

    def afford(self, error: BaseException) -> bool:
        """Take one retry from the budget; if that is empty, say so on ``error``."""
        if self._budget.spend():
            return True
        error.add_note(
            "Not tried again: the retry budget of this pool (10 a second and 10 % of its requests) "
            "is spent. Suggestion: look at why so many calls fail."
        )
        return False

    def counted(self) -> None:
        """A retry begins."""
        self._counters.total_retries += 1

    async def again(
        self, call: Repeatable[T], *, idempotent: bool, deadline: float, failed: bool = False
    ) -> T:
        """Make a call, and make it again while that is safe and there is time.

        Args:
            call: What to do.
            idempotent: Whether it may be made again although it may have taken effect.
            deadline: No attempt begins after it, on the pool's clock.
            failed: Whether it has failed once already, in a way that may be repeated.

        Raises:
            Exception: What the last attempt raised.
        """
        retries = 0
        unsure = False
        while True:
            if failed:
                failure = call.failure
                assert failure is not None
                retries += 1
                unsure = unsure or outcome_of(failure) is Outcome.UNKNOWN
                pause = self.pause(retries)
                if (
                    retries > self._config().max_retries
                    or monotonic() + pause >= deadline
                    or not self.afford(failure)
                ):
                    if unsure:
                        mark(failure, Outcome.UNKNOWN)
                    raise failure
                await asyncio.sleep(pause)
                self.counted()
            try:
                return await call.make(deadline - monotonic())
            except Exception as error:
                if not may_repeat(error, lost=call.lost, idempotent=idempotent):
                    if unsure:
                        # An earlier attempt may have taken effect.
                        mark(error, Outcome.UNKNOWN)
                    raise
                failed = True


class Repeatable(Protocol[T_co]):
    """A call that can be made several times."""

    failure: Exception | None
    """How it failed last."""
    lost: bool
    """Whether its connection was gone then."""

    async def make(self, left: float) -> T_co:
        """Make it, with so many seconds left."""


def may_repeat(error: Exception, *, lost: bool, idempotent: bool) -> bool:
    """Whether a failed statement may be run again.

    The pool's own refusals may not: the pool has waited already.
    """
    if isinstance(error, ConnectionPoolError) or not is_driver_error(error):
        return False
    if not (lost or sqlstate_of(error) in LOST):
        return False
    outcome = outcome_of(error)
    return outcome is Outcome.NOT_SENT or (idempotent and outcome is Outcome.UNKNOWN)
