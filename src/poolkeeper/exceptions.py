"""What can go wrong with a pool, as one tree; facts are fields, and no field holds a password."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from poolkeeper.snapshot import PoolSnapshot


class ConnectionPoolError(Exception):
    """Base of every error the pool raises on its own behalf.

    Errors of the database itself (a failed statement, a lost connection in mid-query) are the
    driver's and pass through unchanged.
    """


class PoolConfigurationError(ConnectionPoolError, ValueError):
    """An option has a value the pool cannot work with; nothing was started.

    Attributes:
        option: Name of the option, as it is written in code (``max_size``), if one is to blame.
        value: What was given, already masked where it could hold a password.
    """

    def __init__(self, message: str, *, option: str | None = None, value: object = None) -> None:
        super().__init__(message)
        self.option = option
        self.value = value


class PoolInitializationError(ConnectionPoolError):
    """The pool could not be opened; no connection, task or socket of it is left.

    Attributes:
        url: The database URL with its password masked.
        attempts: How many times a first connection was tried.
        elapsed: Seconds from the first attempt to the last failure.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        attempts: int = 0,
        elapsed: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.url = url
        self.attempts = attempts
        self.elapsed = elapsed


class PoolTimeoutError(ConnectionPoolError, TimeoutError):
    """No connection became free within the acquire timeout. Nothing was sent to the database.

    Attributes:
        timeout: The limit in seconds.
        waited: Seconds actually spent waiting; less than ``timeout`` when the pool could tell
            early that the deadline cannot be met.
        snapshot: State of the pool when it gave up.
        holders: One line per connection in use: by which task, for how long.
    """

    def __init__(
        self,
        message: str,
        *,
        timeout: float | None = None,
        waited: float | None = None,
        snapshot: PoolSnapshot | None = None,
        holders: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.waited = waited
        self.snapshot = snapshot
        self.holders = tuple(holders)


class PoolExhaustedError(ConnectionPoolError):
    """The queue of waiters is full (``max_waiting``); the request was refused at once.

    Attributes:
        snapshot: State of the pool when it refused.
        max_waiting: The limit that was reached.
    """

    def __init__(
        self,
        message: str,
        *,
        snapshot: PoolSnapshot | None = None,
        max_waiting: int | None = None,
    ) -> None:
        super().__init__(message)
        self.snapshot = snapshot
        self.max_waiting = max_waiting


class PoolDeadlockError(PoolTimeoutError):
    """Every connection is held by a task that waits for another one; nobody could go on.

    Raised within about a second in the task that asked last, so that the others can continue.
    """


class ConnectionValidationError(PoolTimeoutError):
    """A connection proved broken and no replacement could be had in time. Nothing was sent."""


class DatabaseUnavailableError(ConnectionPoolError):
    """The database has been unreachable for longer than waiters are held. Nothing was sent.

    Also raised, at once, when it refuses this client (password, role, database) and when the next
    connection attempt comes after the deadline of the request. The pool goes on trying in each
    case. The cause is the latest failure to reach the database.

    Attributes:
        outage_seconds: Age of the outage.
        next_attempt_seconds: Seconds until the next connection attempt, or None while one runs.
        snapshot: State of the pool when it refused.
    """

    def __init__(
        self,
        message: str,
        *,
        outage_seconds: float | None = None,
        next_attempt_seconds: float | None = None,
        snapshot: PoolSnapshot | None = None,
    ) -> None:
        super().__init__(message)
        self.outage_seconds = outage_seconds
        self.next_attempt_seconds = next_attempt_seconds
        self.snapshot = snapshot


class PoolClosedError(ConnectionPoolError):
    """The pool is closed, closing, or was never opened; the request did not run.

    Requests that wait when the pool begins to close get it at once.
    """


class PoolUsageError(ConnectionPoolError, RuntimeError):
    """The pool was used from another event loop, thread or process than its own,
    a connection was released to a pool it is not from, or used after its release. Nothing was
    sent.
    """


class LedgerUnavailableError(ConnectionPoolError):
    """The table of transactions (``poolkeeper.ledger``) is missing and cannot be made.

    Nothing of the transaction has taken effect.
    """


class TransactionRolledBackError(ConnectionPoolError):
    """A transaction certainly did not take effect, although its body did not fail.

    Its connection was lost before COMMIT, or the server answered COMMIT with ROLLBACK because an
    error inside it had been swallowed. Running it again is safe.

    Attributes:
        attempts: How many times it was run.
        elapsed: Seconds since the first attempt began.
    """

    def __init__(self, message: str, *, attempts: int = 1, elapsed: float = 0.0) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.elapsed = elapsed


class TransactionTimeoutError(TransactionRolledBackError, TimeoutError):
    """A transaction was not ready to commit within its ``timeout`` and was rolled back."""


class TransactionAbortedError(TransactionRolledBackError):
    """``transaction_outcome()`` has declared the transaction's id aborted; it can never commit."""


class TransactionAlreadyCommittedError(ConnectionPoolError):
    """A transaction with the id given to ``run_transaction`` has been committed before.

    This call changed nothing.

    Attributes:
        transaction_id: The id.
    """

    def __init__(self, message: str, *, transaction_id: UUID | None = None) -> None:
        super().__init__(message)
        self.transaction_id = transaction_id


class TransactionOutcomeUnknownError(ConnectionPoolError):
    """COMMIT was sent, its answer is lost, and the database could not be asked in time.

    ``await pool.transaction_outcome(error.transaction_id)`` asks again.

    Attributes:
        transaction_id: The id of the transaction in doubt.
        elapsed: Seconds spent asking.
        attempts: How many times the database was asked.
    """

    def __init__(
        self,
        message: str,
        *,
        transaction_id: UUID | None = None,
        elapsed: float = 0.0,
        attempts: int = 0,
    ) -> None:
        super().__init__(message)
        self.transaction_id = transaction_id
        self.elapsed = elapsed
        self.attempts = attempts


class TransactionEndedError(PoolUsageError):
    """The function given to ``run_transaction`` ended the transaction by itself.

    What it committed stays committed.
    """


class InvariantViolated(AssertionError):
    """A bug in poolkeeper itself. Please report it with the traceback."""
