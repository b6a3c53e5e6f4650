"""``run_transaction``: run a function in a transaction until it took effect exactly once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from poolkeeper.deadlines import bounded
from poolkeeper.drivers.base import session_of
from poolkeeper.exceptions import (
    ConnectionPoolError,
    PoolUsageError,
    TransactionAbortedError,
    TransactionAlreadyCommittedError,
    TransactionEndedError,
    TransactionOutcomeUnknownError,
    TransactionRolledBackError,
    TransactionTimeoutError,
)
from poolkeeper.outcomes import Outcome, TransactionOutcome, is_driver_error, mark, outcome_of
from poolkeeper.sqlstate import (
    DEADLOCK_DETECTED,
    IN_FAILED_TRANSACTION,
    READ_ONLY_TRANSACTION,
    SERIALIZATION_FAILURE,
    UNIQUE_VIOLATION,
)
from poolkeeper.transactions.ids import age_of, new_id
from poolkeeper.transactions.ledger import (
    MISSING,
    commit_script,
    confirm_script,
    end_process_script,
    known_outcome,
    look_up_script,
)
from poolkeeper.transactions.resolver import ANSWER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from poolkeeper.config import PoolConfig
    from poolkeeper.drivers.base import Identity, OpenTransaction, TransactionalSession
    from poolkeeper.pool import Pool
    from poolkeeper.transactions.ledger import Ledger
    from poolkeeper.transactions.resolver import Resolver
    from poolkeeper.transactions.retries import Retries

T = TypeVar("T")

ISOLATION_LEVELS: Final = frozenset(
    {"read_uncommitted", "read_committed", "repeatable_read", "serializable"}
)

CONFLICTS: Final = frozenset({SERIALIZATION_FAILURE, DEADLOCK_DETECTED})
"""The server rolled back one of several transactions that were in each other's way."""

LEAVE_SECONDS: Final = 0.5
"""How long a function may take to notice that its time is over before it loses its connection."""

RESOLVE_SECONDS: Final = 3.0
"""What is kept of a deadline for finding out about a COMMIT that was not answered."""


@dataclass(slots=True)
class Call(Generic[T]):
    """What one call of ``run_transaction`` was asked to do, and what it has learnt."""

    function: Callable[..., Awaitable[T]]
    args: tuple[Any, ...]
    id: UUID | None
    isolation: str | None
    readonly: bool
    deferrable: bool
    deadline: float | None
    retries: int
    started: float = field(default_factory=monotonic)
    attempts: int = 0
    orphan: Identity | None = None
    """The server process of an attempt whose connection was lost; it may not know yet."""
    ledger_was_missing: bool = False
    """Whether an attempt failed at COMMIT because there was no ledger any more."""

    def left(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self.deadline is None else self.deadline - monotonic()

    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and monotonic() >= self.deadline

    def elapsed(self) -> float:
        """Seconds since the call began."""
        return monotonic() - self.started


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The transaction took effect."""

    result: T


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The attempt certainly had no effect, and another one may have."""

    error: BaseException
    lost: bool


@dataclass(frozen=True, slots=True)
class InDoubt(Generic[T]):
    """COMMIT was sent and not answered."""

    error: BaseException
    result: T
    key: UUID
    """The row it has in the ledger if it was committed."""


class TransactionRunner:
    """Runs the transactions of one pool.

    An attempt that certainly had no effect is made again: after a serialization failure, a
    deadlock, or a connection lost before COMMIT was sent. When the answer to COMMIT is lost, the
    ``Resolver`` decides which it was, and makes sure that it stays so.
    """

    def __init__(
        self,
        pool: Pool,
        config: Callable[[], PoolConfig],
        ledger: Ledger,
        resolver: Resolver,
        retries: Retries,
    ) -> None:
        self._pool = pool
        self._config = config
        self._ledger = ledger
        self._resolver = resolver
        self._retries = retries

    async def run(self, call: Call[T]) -> T:
        """Run it; what is promised and raised stands at ``ConnectionPoolManager``."""
        self._refuse_nonsense(call)
        while True:
            attempt: Done[T] | RolledBack | InDoubt[T] = await self._attempt(call)
            if isinstance(attempt, InDoubt):
                attempt = await self._resolve(call, attempt)
            if isinstance(attempt, Done):
                return attempt.result
            await self._before_the_next(call, attempt)

    def _refuse_nonsense(self, call: Call[T]) -> None:
        if call.isolation is not None and call.isolation not in ISOLATION_LEVELS:
            raise ValueError(
                f"isolation is one of {', '.join(sorted(ISOLATION_LEVELS))}, not "
                f"{call.isolation!r}. Suggestion: isolation='serializable'."
            )
        if call.id is None:
            return
        if call.readonly:
            raise PoolUsageError(
                "A read-only transaction leaves no trace an id could be found by. Suggestion: "
                "leave out id= or readonly=."
            )
        age, retention = age_of(call.id), self._config().ledger_retention
        if age is not None and age > retention:
            raise PoolUsageError(
                f"The id {call.id} is {age:.0f} s old, and transactions are remembered for "
                f"{retention:.0f} s: whether it was committed before cannot be known. Suggestion: "
                "use a new id, or raise POOL_LEDGER_RETENTION."
            )

    # One attempt ------------------------------------------------------------------------------

    async def _attempt(self, call: Call[T]) -> Done[T] | RolledBack | InDoubt[T]:
        pool, left = self._pool, call.left()
        if left is not None and left <= 0:
            raise self._too_late(call)
        call.attempts += 1
        lease = pool.acquire_nowait(depth=5)
        if lease is None:
            patience = self._config().timeout
            lease = await pool.wait(patience if left is None else min(left, patience), depth=5)
            left = call.left()
        session: TransactionalSession = session_of(lease)
        # Whoever is still waiting for an answer then waits in vain.
        guillotine = None if left is None else self._cut_off_after(left, session)
        try:
            try:
                if call.orphan is not None or not call.readonly:
                    await self._prepare(call, session)
                transaction = await session.begin(
                    lease,
                    isolation=call.isolation,
                    readonly=call.readonly,
                    deferrable=call.deferrable,
                )
            except Exception as error:  # noqa: BLE001 - raised again or answered there
                return self._not_begun(call, session, error)
            try:
                result = await self._body(call, lease)
            except TransactionTimeoutError as error:
                self._require_open(transaction, error)
                raise
            except Exception as error:  # noqa: BLE001 - raised again or answered there
                return await self._body_failed(call, session, transaction, error)
            if guillotine is not None:
                guillotine.cancel()
            return await self._commit(call, session, transaction, result)
        finally:
            if guillotine is not None:
                guillotine.cancel()
            pool.release(lease)

    def _not_begun(
        self, call: Call[T], session: TransactionalSession, error: Exception
    ) -> RolledBack:
        if is_driver_error(error):
            mark(error, Outcome.ROLLED_BACK)
        if not self._lost(session, error):
            raise error
        call.orphan = session.identity or call.orphan
        return RolledBack(error, lost=True)

    async def _prepare(self, call: Call[T], session: TransactionalSession) -> None:
        """What has to be known before a transaction begins; nothing for most of them."""
        if call.orphan is not None:
            await self._end(session, call.orphan)
            call.orphan = None
        if call.readonly:
            return
        if not self._ledger.ready:
            await self._ledger.ensure(session, call.left())
        if not session.identified:
            await session.identify()
        if call.id is not None:
            known = await self._known(call, call.id, session)
            if known is not None:
                raise _known_already(call.id, known)

    async def _known(
        self, call: Call[T], key: UUID, session: TransactionalSession
    ) -> TransactionOutcome | None:
        """What the ledger says of an id; ``COMMITTED`` only if that is durable."""
        known = known_outcome(await _ask(session, look_up_script(key)))
        if known is TransactionOutcome.COMMITTED:
            try:
                await _ask(session, confirm_script(key))
            except Exception as error:
                session.abort()
                raise TransactionOutcomeUnknownError(
                    f"Transaction {key} is committed at {self._pool.database}, but not confirmed, "
                    f"perhaps for want of a synchronous standby: "
                    f"{self._pool.reporter.describe(error)}. After a failover it may be missing. "
                    "Suggestion: ask again later with `await pool.transaction_outcome(id)`.",
                    transaction_id=key,
                    elapsed=call.elapsed(),
                    attempts=call.attempts,
                ) from error
        return known

    async def _end(self, session: TransactionalSession, orphan: Identity) -> None:
        """The server may not have noticed that we are gone, and keep locks for us for hours."""
        try:
            await _ask(session, end_process_script(orphan))
        except Exception as error:
            # Not allowed to: then its locks are waited for.
            if self._lost(session, error) or not is_driver_error(error):
                raise

    @staticmethod
    def _cut_off_after(left: float, session: TransactionalSession) -> asyncio.TimerHandle:
        """Drop the connection if the function outlives the deadline by ``LEAVE_SECONDS``.

        It may be waiting for an answer that never comes while it cleans up.
        """
        return asyncio.get_running_loop().call_later(left + LEAVE_SECONDS, session.abort)

    async def _body(self, call: Call[T], lease: Any) -> T:
        work = call.function(lease, *call.args)
        if not hasattr(work, "__await__"):
            raise PoolUsageError(
                f"{call.function!r} returned {type(work).__name__} and nothing to await. "
                "Suggestion: pass a coroutine function (`async def`)."
            )
        if call.deadline is None:
            return await work
        try:
            async with asyncio.timeout(call.left()) as limit:
                return await work
        except TimeoutError as error:
            if limit.expired():
                raise self._too_late(call) from error
            raise

    async def _body_failed(
        self,
        call: Call[T],
        session: TransactionalSession,
        transaction: OpenTransaction,
        error: Exception,
    ) -> RolledBack:
        """COMMIT was not sent: whatever happened, the transaction has no effect."""
        self._require_open(transaction, error)
        if session.is_closed():
            call.orphan = session.identity
            mark(error, Outcome.ROLLED_BACK)
            if is_driver_error(error):
                return RolledBack(error, lost=True)
            raise error
        if is_driver_error(error) and _own_sqlstate(error) in CONFLICTS:
            mark(error, Outcome.ROLLED_BACK)
            return RolledBack(error, lost=False)
        try:
            await bounded(
                transaction.roll_back(), self._config().reset_timeout, give_up=session.abort
            )
        except Exception as failure:
            if not (isinstance(failure, OSError) or is_driver_error(failure)):
                raise
            # The pool rolls back or drops whatever comes back to it.
        mark(error, Outcome.ROLLED_BACK)
        raise error

    # COMMIT -----------------------------------------------------------------------------------

    async def _commit(
        self,
        call: Call[T],
        session: TransactionalSession,
        transaction: OpenTransaction,
        result: T,
    ) -> Done[T] | RolledBack | InDoubt[T]:
        self._require_open(transaction, None)
        if call.expired():
            raise self._too_late(call)
        if session.is_closed():
            call.orphan = session.identity
            lost = ConnectionError("the connection was closed before COMMIT was sent")
            return RolledBack(lost, lost=True)
        key = new_id()
        keys = [key] if call.id is None else [key, call.id]
        script = "commit" if call.readonly else commit_script(keys)
        try:
            tag = await transaction.finish(script, self._patience(call))
        except Exception as error:
            verdict = outcome_of(error)
            if verdict is Outcome.ROLLED_BACK:
                return await self._commit_refused(call, session, error)
            if verdict is Outcome.NOT_SENT and not session.is_closed():
                # The function has left something running on the connection.
                mark(error, Outcome.ROLLED_BACK)
                raise
            session.abort()
            call.orphan = session.identity
            if call.readonly:
                return self._read_to_the_end(call, result, error)
            return InDoubt(error, result, key)
        if tag != "COMMIT":
            raise self._swallowed(call)
        return Done(result)

    def _patience(self, call: Call[T]) -> float | None:
        """Seconds to wait for the answer to COMMIT: time to ask what became of it is kept."""
        left = call.left()
        if left is None:
            return self._config().command_timeout
        return left - min(RESOLVE_SECONDS, left / 2)

    async def _commit_refused(
        self, call: Call[T], session: TransactionalSession, error: Exception
    ) -> RolledBack:
        """The server said no, so that nothing was committed; the question is what to say."""
        code = _own_sqlstate(error)
        mark(error, Outcome.ROLLED_BACK)
        if code in CONFLICTS:
            return RolledBack(error, lost=False)
        if code == IN_FAILED_TRANSACTION:
            raise self._swallowed(call) from error
        if code in MISSING:
            self._ledger.forget()
            if not call.ledger_was_missing:
                # Another database by the same name, or the ledger was dropped: it is made again.
                call.ledger_was_missing = True
                return RolledBack(error, lost=False)
        if code == READ_ONLY_TRANSACTION:
            error.add_note(
                "Suggestion: pass readonly=True for transactions that write nothing; others need "
                "the primary."
            )
        if code == UNIQUE_VIOLATION and call.id is not None:
            try:
                await _ask(session, "rollback")
                known = await self._known(call, call.id, session)
            except Exception as failure:
                if not self._lost(session, failure):
                    raise
                # The refusal itself says enough.
                raise error from failure
            if known is not None:
                raise _known_already(call.id, known) from error
        raise error

    def _read_to_the_end(
        self, call: Call[T], result: T, error: BaseException
    ) -> Done[T] | RolledBack:
        """What was read is read, unless only the COMMIT would have said that it fits together."""
        if call.isolation == "serializable" and not call.deferrable:
            return RolledBack(error, lost=True)
        return Done(result)

    async def _resolve(self, call: Call[T], doubt: InDoubt[T]) -> Done[T] | RolledBack:
        deadline = call.deadline
        if deadline is None:
            deadline = monotonic() + self._config().timeout
        try:
            outcome = await self._resolver.resolve(doubt.key, call.id or doubt.key, deadline)
        except ConnectionPoolError as error:
            error.add_note(f"COMMIT had failed: {self._pool.reporter.describe(doubt.error)}.")
            raise
        if outcome is TransactionOutcome.COMMITTED:
            return Done(doubt.result)
        return RolledBack(doubt.error, lost=True)

    # Between two attempts ---------------------------------------------------------------------

    async def _before_the_next(self, call: Call[T], attempt: RolledBack) -> None:
        """Wait a little before the next attempt, or raise why there is none."""
        error = attempt.error
        pause = self._retries.pause(call.attempts)
        left = call.left()
        in_time = left is None or pause < left
        if (
            in_time
            and call.attempts <= call.retries
            # Conflicts are the price of concurrency, not a sign of a database in trouble.
            and (not attempt.lost or self._retries.afford(error))
        ):
            await asyncio.sleep(pause)
            self._retries.counted()
            return
        if not attempt.lost:
            raise error
        if not in_time:
            raise self._too_late(call) from error
        raise TransactionRolledBackError(
            f"The connection was lost in each of {call.attempts} attempts "
            f"({call.elapsed():.1f} s) before the transaction was committed; it has no effect. "
            f"Last failure: {self._pool.reporter.describe(error)}. Suggestion: run it again later.",
            attempts=call.attempts,
            elapsed=call.elapsed(),
        ) from error

    @staticmethod
    def _require_open(transaction: OpenTransaction, error: Exception | None) -> None:
        """Refuse to say that nothing happened if the function may have committed."""
        if not transaction.is_open():
            raise TransactionEndedError(
                "The function given to run_transaction ended the transaction by itself (COMMIT or "
                "ROLLBACK); what it committed stays, and is not exactly-once. Suggestion: leave "
                "the end of the transaction to run_transaction, and use "
                "`async with connection.transaction():` for a part that may be undone."
            ) from error

    @staticmethod
    def _lost(session: TransactionalSession, error: Exception) -> bool:
        return session.is_closed() and not isinstance(error, ConnectionPoolError)

    def _too_late(self, call: Call[T]) -> TransactionTimeoutError:
        return TransactionTimeoutError(
            f"The transaction was not ready to commit within its time limit ({call.elapsed():.1f} "
            f"s, {call.attempts} attempts); it was rolled back. Suggestion: raise timeout=, or do "
            "less in one transaction.",
            attempts=call.attempts,
            elapsed=call.elapsed(),
        )

    @staticmethod
    def _swallowed(call: Call[T]) -> TransactionRolledBackError:
        return TransactionRolledBackError(
            "A statement of the transaction had failed, and the function given to run_transaction "
            "swallowed its error: PostgreSQL commits nothing after that. Suggestion: let the error "
            "leave the function, or put a statement that may fail into a block of its own "
            "(`async with connection.transaction():`), which is a savepoint.",
            attempts=call.attempts,
            elapsed=call.elapsed(),
        )


async def _ask(session: TransactionalSession, sql: str) -> str:
    """Run a statement of our own, which nobody watches for silence."""
    return await bounded(session.run_script(sql), ANSWER_SECONDS, give_up=session.abort)


def _own_sqlstate(error: BaseException) -> str | None:
    """What the server said with this error, and not with one it was raised in the handling of."""
    code: str | None = getattr(error, "sqlstate", None)
    return code


def _known_already(key: UUID, known: TransactionOutcome) -> ConnectionPoolError:
    if known is TransactionOutcome.COMMITTED:
        return TransactionAlreadyCommittedError(
            f"A transaction with the id {key} has been committed before; this call changed "
            "nothing. Suggestion: treat the work as done, or use a new id for new work.",
            transaction_id=key,
        )
    return TransactionAbortedError(
        f"Somebody asked for the outcome of the transaction {key} before it was committed, which "
        "declared it aborted: it can never commit; nothing was changed. Suggestion: use a new id."
    )
