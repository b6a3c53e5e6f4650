"""What became of the work a failed call was to do: one table for every exception a pool raises."""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Final

from poolkeeper import exceptions
from poolkeeper.sqlstate import chain

if TYPE_CHECKING:
    from collections.abc import Mapping


class Outcome(Enum):
    """What a failed call left behind in the database."""

    NOT_SENT = "not_sent"
    """Nothing reached the server: the call may be made again."""
    ROLLED_BACK = "rolled_back"
    """The server undid it: nothing of it took effect, and it may be made again."""
    UNKNOWN = "unknown"
    """It may have taken effect or not."""


class TransactionOutcome(Enum):
    """What became of a transaction; neither ever turns into the other."""

    COMMITTED = "committed"
    ABORTED = "aborted"


OURS: Mapping[type[BaseException], Outcome] = {
    exceptions.ConnectionPoolError: Outcome.NOT_SENT,
    exceptions.TransactionRolledBackError: Outcome.ROLLED_BACK,
    exceptions.TransactionAlreadyCommittedError: Outcome.ROLLED_BACK,
    exceptions.TransactionOutcomeUnknownError: Outcome.UNKNOWN,
    exceptions.TransactionEndedError: Outcome.UNKNOWN,
}
"""Errors of our own; a subclass has the row of its nearest ancestor."""

LOST: Final = frozenset(
    {
        "08000",  # connection_exception
        "08003",  # connection_does_not_exist
        "08006",  # connection_failure
        "08007",  # transaction_resolution_unknown
        "08P01",  # protocol_violation: how PgBouncer says that its server is gone
        "40003",  # statement_completion_unknown
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
    }
)
"""SQLSTATEs that come with the end of the connection: the statement may have been through."""

NEVER_SENT: Final = (
    "connection was closed by the server before the statement was sent",
    "another operation is in progress",
    "another operation is cancelling",
    "connection is closed",
    "connection has been released",
)
"""What asyncpg, and we in its place, say before a statement is written to the socket."""

NEVER_COMMITTED: Final = "Transaction.__aexit__(): the underlying connection is closed"
"""asyncpg's words for a block that failed: COMMIT was not sent."""

_MARK: Final = "_poolkeeper_outcome"


def outcome_of(error: BaseException) -> Outcome:
    """Say what became of the work of the pool or connection call that raised ``error``.

    It speaks of that call alone: not of statements that had succeeded before it, outside of a
    transaction. Whatever is not certain is ``UNKNOWN``: exceptions that are neither a driver's
    nor the pool's, time limits, cancellations.
    """
    verdict = _verdict(error)
    if verdict is not None:
        return verdict
    if not is_driver_error(error) or not any(text in str(error) for text in NEVER_SENT):
        return Outcome.UNKNOWN
    # The same words follow a connection lost in mid-statement. What the chain says may only make
    # it less certain: it may as well be of a call before this one, whose error is being handled.
    earlier = [link for link in chain(error) if link is not error and is_driver_error(link)]
    lost = any(_verdict(link) in {None, Outcome.UNKNOWN} for link in earlier)
    return Outcome.UNKNOWN if lost else Outcome.NOT_SENT


def _verdict(error: BaseException) -> Outcome | None:
    """What the error says by itself, leaving aside what it is chained to."""
    return getattr(error, _MARK, None) or _of_ours(error) or _of_driver(error)


def mark(error: BaseException, outcome: Outcome) -> None:
    """Make ``outcome_of(error)`` say what we know better than the exception."""
    with contextlib.suppress(AttributeError, TypeError):
        setattr(error, _MARK, outcome)


def is_driver_error(error: BaseException) -> bool:
    """Whether a database driver raised it, rather than somebody's own code."""
    return any(
        kind.__module__.partition(".")[0] in {"asyncpg", "psycopg"} for kind in type(error).__mro__
    )


def _of_ours(error: BaseException) -> Outcome | None:
    return next((OURS[kind] for kind in type(error).__mro__ if kind in OURS), None)


def _of_driver(error: BaseException) -> Outcome | None:
    if not is_driver_error(error):
        return None
    if NEVER_COMMITTED in str(error):
        return Outcome.ROLLED_BACK
    if NEVER_SENT[0] in str(error):
        return Outcome.NOT_SENT
    code = getattr(error, "sqlstate", None)
    if not isinstance(code, str):
        return None
    return Outcome.UNKNOWN if code in LOST or not _from_server(error) else Outcome.ROLLED_BACK


def _from_server(error: BaseException) -> bool:
    """Whether the server said ERROR, after which the connection goes on."""
    diagnostics = getattr(error, "diag", error)
    severity = getattr(diagnostics, "severity_nonlocalized", None) or getattr(
        diagnostics, "severity_en", None
    )
    return severity == "ERROR"
