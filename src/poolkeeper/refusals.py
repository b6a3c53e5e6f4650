"""The errors of ``acquire()``, with the facts a person needs to act."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.core.availability import Failure
from poolkeeper.core.effects import Refusal
from poolkeeper.exceptions import (
    ConnectionPoolError,
    ConnectionValidationError,
    DatabaseUnavailableError,
    PoolClosedError,
    PoolDeadlockError,
    PoolExhaustedError,
    PoolTimeoutError,
)
from poolkeeper.sqlstate import connect_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poolkeeper.snapshot import PoolSnapshot

CLOSED_ADVICE = (
    "Suggestion: acquire connections before close() and inside the application's lifetime; "
    "check the order of start-up and shutdown."
)
GROW_ADVICE = (
    "Suggestion: increase POOL_MAX_SIZE or shorten the work done while holding a connection."
)
MAX_HOLDERS_SHOWN = 5


def closed_error(phase: str) -> PoolClosedError:
    """The pool is not open."""
    if phase == "new":
        return PoolClosedError(
            "Cannot acquire connection: pool is not initialized. Suggestion: use `async with` or "
            "`await pool.initialize()` first."
        )
    return PoolClosedError(f"Cannot acquire connection: pool is closed. {CLOSED_ADVICE}")


def refusal_error(
    why: Refusal,
    *,
    snapshot: PoolSnapshot,
    timeout: float,
    waited: float,
    holders: Sequence[str],
    database: str,
    cause: BaseException | None,
    reason: str | None,
    outage_seconds: float | None,
    next_attempt_seconds: float | None,
    max_waiting: int | None,
    paused: bool,
) -> ConnectionPoolError:
    """Say why a request ended without a connection.

    The last failure is chained as ``cause``; ``reason`` is its text without secrets, which alone
    may go into a message of ours.
    """
    state = f"Pool state: {snapshot.describe()}."
    error: ConnectionPoolError
    if why is Refusal.CLOSED:
        error = closed_error("closed")
    elif why is Refusal.QUEUE_FULL:
        error = PoolExhaustedError(
            f"Too many requests are waiting for a connection (limit {max_waiting}). {state} "
            "Suggestion: try again later, or increase POOL_MAX_SIZE or POOL_MAX_WAITING.",
            snapshot=snapshot,
            max_waiting=max_waiting,
        )
    elif why is Refusal.UNAVAILABLE:
        error = DatabaseUnavailableError(
            f"The database at {database} has been unreachable for {outage_seconds or 0.0:.1f} s"
            f"{_because(reason)}; {_next_attempt(next_attempt_seconds)}. The request was not "
            f"executed. {state} {_unavailable_advice(cause)}",
            outage_seconds=outage_seconds,
            next_attempt_seconds=next_attempt_seconds,
            snapshot=snapshot,
        )
    else:
        kind = ConnectionValidationError if why is Refusal.VALIDATION else PoolTimeoutError
        error = kind(
            _timeout_message(
                why, state, timeout, holders, database, cause, reason, outage_seconds, paused=paused
            ),
            timeout=timeout,
            waited=waited,
            snapshot=snapshot,
            holders=holders,
        )
    error.__cause__ = cause
    return error


def _timeout_message(
    why: Refusal,
    state: str,
    timeout: float,
    holders: Sequence[str],
    database: str,
    cause: BaseException | None,
    reason: str | None,
    outage_seconds: float | None,
    *,
    paused: bool,
) -> str:
    if why is Refusal.HOPELESS:
        head = (
            f"Connection acquisition timeout of {timeout:.1f}s cannot be met: the queue is longer "
            f"than that."
        )
    elif why is Refusal.VALIDATION:
        head = (
            f"Connection validation failed and no replacement could be opened within "
            f"{timeout:.1f}s{_because(reason)}."
        )
    else:
        head = f"Connection acquisition timeout after {timeout:.1f}s."
    parts = [head, state]
    if holders:
        shown = "; ".join(holders[:MAX_HOLDERS_SHOWN])
        more = len(holders) - MAX_HOLDERS_SHOWN
        parts.append(f"Held by {shown}{f' and {more} more' if more > 0 else ''}.")
    if paused:
        parts.append("The pool is paused. Suggestion: call resume().")
    elif outage_seconds is not None:
        parts.append(
            f"The database at {database} has been unreachable for {outage_seconds:.1f} s"
            f"{_because(reason)}. {_unavailable_advice(cause)}"
        )
    else:
        parts.append(GROW_ADVICE)
    return " ".join(parts)


def deadlock_error(
    snapshot: PoolSnapshot, task: str, timeout: float, waited: float, holders: Sequence[str]
) -> PoolDeadlockError:
    """Every holder waits for another connection, this task included."""
    return PoolDeadlockError(
        f"Connection acquisition deadlock: {task} holds a connection and asks for another, "
        f"and so does every other holder. Pool state: {snapshot.describe()}. "
        f"Held by {'; '.join(holders[:MAX_HOLDERS_SHOWN])}. Suggestion: pass the connection you "
        "already hold to the inner function, or increase POOL_MAX_SIZE above the number of tasks "
        "that nest.",
        timeout=timeout,
        waited=waited,
        snapshot=snapshot,
        holders=holders,
    )


def _because(reason: str | None) -> str:
    return "" if reason is None else f": {reason}"


def cause_text(cause: BaseException) -> str:
    """One line for an exception, also for those without a message."""
    text = str(cause).strip()
    name = type(cause).__name__
    return f"{name}: {text.splitlines()[0]}" if text else name


def _next_attempt(seconds: float | None) -> str:
    if seconds is None:
        return "a connection attempt is under way"
    return f"next attempt in {seconds:.1f} s"


def _unavailable_advice(cause: BaseException | None) -> str:
    if cause is not None and connect_failure(cause) is Failure.MISCONFIGURED:
        return (
            "Suggestion: check user, password and database of the URL; the pool keeps trying and "
            "recovers by itself once they are right."
        )
    return (
        "Suggestion: check that the database is running and reachable; the pool reconnects by "
        "itself, so try again later."
    )
