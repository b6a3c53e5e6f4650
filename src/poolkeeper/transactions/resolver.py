"""What became of a transaction whose COMMIT was not answered."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from poolkeeper.core.lifecycle import Phase
from poolkeeper.deadlines import bounded
from poolkeeper.dialling import dial
from poolkeeper.drivers.base import session_of
from poolkeeper.exceptions import (
    ConnectionPoolError,
    LedgerUnavailableError,
    PoolClosedError,
    PoolUsageError,
    TransactionOutcomeUnknownError,
)
from poolkeeper.observability.events import TransactionResolved
from poolkeeper.outcomes import LOST, TransactionOutcome
from poolkeeper.sqlstate import (
    DEADLOCK_DETECTED,
    DISK_FULL,
    LOCK_NOT_AVAILABLE,
    OUT_OF_MEMORY,
    QUERY_CANCELED,
    READ_ONLY_TRANSACTION,
    SERIALIZATION_FAILURE,
    TOO_MANY_CONNECTIONS,
    sqlstate_of,
)
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

FOR_THE_MOMENT: Final = LOST | {
    LOCK_NOT_AVAILABLE,
    READ_ONLY_TRANSACTION,  # a standby, or a primary that was; another may come
    SERIALIZATION_FAILURE,
    DEADLOCK_DETECTED,
    DISK_FULL,
    OUT_OF_MEMORY,
    TOO_MANY_CONNECTIONS,
    QUERY_CANCELED,
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
        begun = self._pool.state.phase is not Phase.CLOSED
        return await self.resolve(key, key, monotonic() + seconds, begun=begun)

    async def resolve(
        self, key: UUID, name: UUID, deadline: float, *, begun: bool = True
    ) -> TransactionOutcome:
        """Make the outcome of a transaction final and return it.

        Args:
            key: The row it has in the ledger if it was committed.
            name: The id its caller knows it by.
            deadline: When to give up, on the pool's clock.
            begun: Whether the pool was not closed then; what was begun goes on while it closes.

        Raises:
            TransactionOutcomeUnknownError: No answer by then.
        """
        started = monotonic()
        attempts = 0
        cause: BaseException | None = None
        while attempts == 0 or monotonic() < deadline:
            attempts += 1
            try:
                outcome = await self._ask(key, deadline, begun=begun)
            except PoolClosedError as error:
                cause = error
                if not (begun and self._closing()):
                    break
            except PoolUsageError as error:
                cause = error
                break
            except LedgerUnavailableError as error:
                if key == name and begun and attempts == 1:
                    # Asked from outside: there is no COMMIT to be in doubt about.
                    raise
                cause = error
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

    async def _ask(self, key: UUID, deadline: float, *, begun: bool) -> TransactionOutcome:
        pool = self._pool
        left = _left(deadline)
        if begun and self._closing():
            # The pool lends nothing any more; a transaction must not remain in doubt for that.
            session: TransactionalSession = await dial(pool.driver, min(left, ANSWER_SECONDS))
            try:
                return await self._ask_on(session, key, deadline)
            finally:
                session.abort()
        lease = await pool.wait(min(left, self._timeout()))
        try:
            return await self._ask_on(session_of(lease), key, deadline)
        finally:
            pool.release(lease)

    def _closing(self) -> bool:
        """Whether the pool ends in peace: ``terminate`` ends this as well."""
        pool = self._pool
        return pool.state.phase in {Phase.DRAINING, Phase.CLOSED} and not pool.terminated

    async def _ask_on(
        self, session: TransactionalSession, key: UUID, deadline: float
    ) -> TransactionOutcome:
        await self._ledger.ensure(session, _left(deadline))
        left = _left(deadline)
        return await bounded(
            self._bury(session, key, left), min(left, ANSWER_SECONDS), give_up=session.abort
        )

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


def _left(deadline: float) -> float:
    return max(0.05, deadline - monotonic())
