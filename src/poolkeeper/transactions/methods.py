"""The methods of a pool that run transactions."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from poolkeeper.exceptions import PoolUsageError
from poolkeeper.keepers import LedgerKeeper
from poolkeeper.transactions.budget import RetryBudget
from poolkeeper.transactions.ids import id_from
from poolkeeper.transactions.ledger import Ledger
from poolkeeper.transactions.resolver import Resolver
from poolkeeper.transactions.retries import Retries
from poolkeeper.transactions.runner import Call, TransactionRunner

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from poolkeeper.config import PoolConfig
    from poolkeeper.keepers import Keeper
    from poolkeeper.observability.events import Event
    from poolkeeper.observability.statistics import PoolCounters
    from poolkeeper.outcomes import TransactionOutcome
    from poolkeeper.pool import Pool

T = TypeVar("T")


class Transactions:
    """What a pool needs for retries and transactions, put together.

    Args:
        pool: The pool.
        config: Its options; they may change.
        counters: Of the pool.
        emit: Takes its events.
        rng: For jitter.
        employ: Starts a keeper and stops it with the pool.
    """

    def __init__(
        self,
        pool: Pool,
        config: Callable[[], PoolConfig],
        *,
        counters: PoolCounters,
        emit: Callable[[Event], None],
        rng: random.Random,
        employ: Callable[[Keeper], None],
    ) -> None:
        def retention() -> float:
            return config().ledger_retention

        budget = RetryBudget(
            requests=lambda: counters.total_acquisitions,
            largest_loss=lambda: pool.state.limits.max_size,
        )
        self.retries = Retries(config, budget, counters, rng)
        self.ledger = Ledger(
            pool,
            retention,
            on_first_use=lambda: employ(LedgerKeeper(self.ledger.purge, retention())),
        )
        self.resolver = Resolver(
            pool,
            self.ledger,
            timeout=lambda: config().timeout,
            retention=retention,
            counters=counters,
            emit=emit,
        )
        self.runner = TransactionRunner(pool, config, self.ledger, self.resolver, self.retries)


class TransactionMethods:
    """``run_transaction`` and ``transaction_outcome``."""

    _config: PoolConfig
    _pool: Pool
    _transactions: Transactions

    async def run_transaction(
        self,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        id: UUID | str | None = None,  # noqa: A002 - nothing else says it as well
        isolation: str | None = None,
        readonly: bool = False,
        deferrable: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> T:
        """Run ``await fn(connection, *args)`` in a transaction that takes effect exactly once.

        Whatever happens to the connection: if this returns, the transaction is committed, once;
        if it raises, it is not, with the one exception of ``TransactionOutcomeUnknownError``.

        ``fn`` gets a borrowed connection with an open transaction, which it must not end itself;
        ``connection.transaction()`` inside is a savepoint. It may be called several times, so what
        it does outside the database must bear repetition. An exception it raises rolls back and
        passes through.

        It is run again after a serialization failure or deadlock (40001, 40P01), after a lost
        connection, and when the answer to COMMIT is lost and the transaction turns out to have
        been aborted; never after 57014. For this each transaction that may write inserts a row
        into ``poolkeeper.ledger`` in the message of its COMMIT. The table is created on first use.

        A caller that is cancelled leaves at once. COMMIT is never cancelled by that: if it had been
        sent, the transaction may be committed.

        Args:
            fn: A coroutine function.
            args: Its further arguments.
            id: An id of the caller's (an idempotency key): of all transactions with it one at most
                is committed within ``ledger_retention``, in whatever process. Ids of version 7
                are best: they tell their age, and one that is older is refused. One of another
                version could be committed again then.
            isolation: ``read_committed``, ``repeatable_read`` or ``serializable``; by default the
                server's.
            readonly: The transaction only reads; it then costs nothing but its BEGIN and COMMIT.
            deferrable: See PostgreSQL; for serializable, read-only transactions.
            timeout: Seconds all of it may take, with half of one more at most to end ``fn``. None:
                each wait for a connection and each question for an outcome is bounded by the option
                ``timeout``, COMMIT by ``command_timeout``, and ``fn`` by nothing.
            retries: How often it may be run again; None: the option ``max_retries``.

        Raises:
            TransactionRolledBackError: It had no effect: connections were lost too often, or
                ``fn`` swallowed the error of a statement.
            TransactionTimeoutError: It was not ready to commit in time and had no effect.
            TransactionOutcomeUnknownError: The answer to COMMIT is lost, and the database could not
                be asked in time.
            TransactionAbortedError: ``transaction_outcome`` has declared ``id`` aborted.
            TransactionAlreadyCommittedError: A transaction with ``id`` is committed already.
            TransactionEndedError: ``fn`` ended the transaction by itself.
            LedgerUnavailableError: The ledger is missing and cannot be created.
            ConnectionPoolError: What ``acquire`` raises; it had no effect.
            Exception: What ``fn`` or, without effect, COMMIT raised.
        """
        if timeout is not None and not timeout > 0:
            raise PoolUsageError(f"timeout is {timeout}. Suggestion: give a positive number.")
        return await self._transactions.runner.run(
            Call(
                fn,
                args,
                id=None if id is None else id_from(id),
                isolation=isolation,
                readonly=readonly,
                deferrable=deferrable,
                deadline=None if timeout is None else monotonic() + timeout,
                retries=self._config.max_retries if retries is None else retries,
            )
        )

    async def transaction_outcome(
        self,
        id: UUID | str,  # noqa: A002 - as in run_transaction
        *,
        timeout: float | None = None,
    ) -> TransactionOutcome:
        """Say what became of a transaction of ``run_transaction``, and make it final.

        After ``ABORTED`` it can never commit, even if it is still running somewhere.

        Args:
            id: From ``TransactionOutcomeUnknownError``, or the one given to ``run_transaction``.
            timeout: Seconds to try; None: the option ``timeout``.

        Raises:
            TransactionOutcomeUnknownError: The database could not be asked in time.
            PoolUsageError: The id is older than ``ledger_retention``. Only ids of version 7 tell.
            LedgerUnavailableError: There is no ledger, and it cannot be created.
        """
        return await self._transactions.resolver.outcome(id_from(id), timeout)
