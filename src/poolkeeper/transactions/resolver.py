"""What became of a transaction whose COMMIT was not answered."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from poolkeeper.deadlines import bounded
from poolkeeper.drivers.base import session_of
from poolkeeper.exceptions import (
    ConnectionPoolError,
    PoolClosedError,
    PoolUsageError,
    TransactionOutcomeUnknownError,
)
from poolkeeper.observability.events import TransactionResolved
from poolkeeper.outcomes import LOST, TransactionOutcome
from poolkeeper.sqlstate import sqlstate_of
from poolkeeper.transactions.ids import age_of
from poolkeeper.transactions.ledger import end_committing_script, tombstone_script

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from poolkeeper.drivers.base import TransactionalSession
    from poolkeeper.observability.events import Event
    from poolkeeper.observability.statistics import PoolCounters
    from poolkeeper.pool import Pool
    from poolkeeper.transactions.ledger import Ledger

LOCK_SECONDS: Final = 1.0
"""How long a transaction that is still committing may go on before its process is ended."""

ANSWER_SECONDS: Final = 3.0
"""How long one question may take before its connection is dropped and it is asked anew."""

PAUSE_SECONDS: Final = 0.1
"""Between two questions."""

LOCK_NOT_AVAILABLE: Final = "55P03"

FOR_THE_MOMENT: Final = LOST | {
    LOCK_NOT_AVAILABLE,
    "25006",  # read_only_sql_transaction: a standby, or a primary that was; another may come
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "53100",  # disk_full
    "53200",  # out_of_memory
    "53300",  # too_many_connections
    "57014",  # query_canceled
}
"""Answers after which asking again may help."""


class Resolver:
    """Asks the database until it knows, or until there is no time left; never guesses."""

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger,
        *,
        timeout: Callable[[], float],
        retention: Callable[[], float],
        counters: PoolCounters,
        emit: Callable[[Event], None],
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._timeout = timeout
        self._retention = retention
        self._counters = counters
        self._emit = emit

    async def outcome(self, key: UUID, timeout: float | None) -> TransactionOutcome:
        """Answer for a transaction of anybody's; see ``ConnectionPoolManager``."""
        age = age_of(key)
        retention = self._retention()
        if age is not None and age > retention:
            raise PoolUsageError(
                f"Transaction {key} is {age:.0f} s old, and transactions are remembered for "
                f"{retention:.0f} s: its absence would prove nothing. Suggestion: ask sooner, or "
                "raise POOL_LEDGER_RETENTION before it is needed."
            )
        seconds = self._timeout() if timeout is None else timeout
        return await self.resolve(key, key, monotonic() + seconds)

    async def resolve(self, key: UUID, name: UUID, deadline: float) -> TransactionOutcome:
        """Make the outcome of a transaction final and return it.

        Args:
            key: The row it has in the ledger if it was committed.
            name: The id its caller knows it by.
            deadline: When to give up, on the pool's clock.

        Raises:
            TransactionOutcomeUnknownError: No answer by then.
        """
        started = monotonic()
        attempts = 0
        cause: BaseException | None = None
        while attempts == 0 or monotonic() < deadline:
            attempts += 1
            try:
                outcome = await self._ask(key, deadline)
            except (PoolClosedError, PoolUsageError) as error:
                cause = error
                break
            except (ConnectionPoolError, OSError) as error:
                # TimeoutError is an OSError: a question that got no answer.
                cause = error
            except Exception as error:  # noqa: BLE001 - it is chained to what is raised
                cause = error
                code = sqlstate_of(error)
                if code is not None and code not in FOR_THE_MOMENT:
                    break
            else:
                self._resolved(name, outcome.value, attempts, started)
                return outcome
            await asyncio.sleep(max(0.0, min(PAUSE_SECONDS, deadline - monotonic())))
        self._resolved(name, "unknown", attempts, started)
        raise self._unknown(name, attempts, monotonic() - started, cause) from cause

    async def _ask(self, key: UUID, deadline: float) -> TransactionOutcome:
        pool = self._pool
        left = max(0.05, deadline - monotonic())
        lease = await pool.wait(min(left, self._timeout()))
        session: TransactionalSession = session_of(lease)
        try:
            await self._ledger.ensure(session)
            left = max(0.05, deadline - monotonic())
            return await bounded(
                self._bury(session, key, left), min(left, ANSWER_SECONDS), give_up=session.abort
            )
        finally:
            pool.release(lease)

    async def _bury(
        self,
        session: TransactionalSession,
        key: UUID,
        left: float,
    ) -> TransactionOutcome:
        try:
            tag = await session.run_script(tombstone_script(key, min(LOCK_SECONDS, left / 3)))
        except Exception as error:
            if sqlstate_of(error) == LOCK_NOT_AVAILABLE and not session.is_closed():
                await session.run_script("rollback")
                await session.run_script(end_committing_script(key))
            raise
        return TransactionOutcome.COMMITTED if tag == "SELECT 1" else TransactionOutcome.ABORTED

    def _resolved(self, name: UUID, outcome: str, attempts: int, started: float) -> None:
        if outcome == "unknown":
            self._counters.total_transactions_unknown += 1
        else:
            self._counters.total_transactions_resolved += 1
        self._emit(
            TransactionResolved(
                pool=self._pool.name,
                transaction_id=str(name),
                outcome=outcome,
                attempts=attempts,
                elapsed_seconds=monotonic() - started,
            )
        )

    def _unknown(
        self, name: UUID, attempts: int, elapsed: float, cause: BaseException | None
    ) -> TransactionOutcomeUnknownError:
        reason = "" if cause is None else f" Last failure: {self._pool.reporter.describe(cause)}."
        return TransactionOutcomeUnknownError(
            f"Whether transaction {name} was committed is unknown: the answer to its COMMIT is "
            f"lost, and {self._pool.database} could not be asked within {elapsed:.1f} s "
            f"({attempts} attempts).{reason} Suggestion: ask again later with `await "
            f"pool.transaction_outcome(UUID('{name}'))`; do not run it again before that.",
            transaction_id=name,
            elapsed=elapsed,
            attempts=attempts,
        )
