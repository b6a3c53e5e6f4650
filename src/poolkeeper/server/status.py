"""What each failure means to an HTTP client: one table, from exception to status and code.

503 says that nothing was executed and trying again is safe; 502 that the outcome is unknown. At
``/sql`` errors of the statement itself are 400, because Neon's clients read a body for that status
only; other paths say it with the status that fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import psycopg

from poolkeeper import exceptions, sqlstate
from poolkeeper.operations import errors as operations
from poolkeeper.outcomes import is_driver_error
from poolkeeper.server import execute, interrupt
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.turned_away import (
    ForbiddenError,
    RateLimitedError,
    TooManyRequestsError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Outcome: TypeAlias = Literal["not_executed", "unknown", "rolled_back", "executed"]


class BodyTooLargeError(Exception):
    """The request body exceeds the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"request is too large (max is {limit} bytes)")


class TooManyBytesError(Exception):
    """The bodies of all requests together are more than the server holds."""

    def __init__(self, most: int) -> None:
        super().__init__(f"The bodies of all requests together exceed {most:,} bytes")


class BodyTimeoutError(Exception):
    """The request body did not arrive within the time a request may take."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request body did not arrive within {seconds:g} s")


class StartingError(Exception):
    """The server listens, but its pool is not open yet."""

    def __init__(self) -> None:
        super().__init__("The server is starting")


class PausedError(Exception):
    """The pool is paused, and was not resumed while the request waited."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The server is paused, and was for the {seconds:.1f} s of the wait")


class UnauthorizedError(Exception):
    """The request carries no token, or a wrong one."""


class ReadOnlyRefusedError(Exception):
    """A statement would write, and the server or the token allows reading only.

    What PostgreSQL said is its cause.
    """


class ReadOnlyDeclaredError(Exception):
    """A statement would write in a transaction that was declared read-only.

    What PostgreSQL said is its cause.
    """


class TransactionLostError(Exception):
    """The connection was lost, and the transaction had no effect."""


class OperationInDoubtError(Exception):
    """A request about an operation was sent to the database, and nobody knows what came of it."""


class RequestInFlightError(Exception):
    """Another request with the same idempotency key is being worked on."""


class ShutDownError(Exception):
    """The server is shutting down and could not wait for the statement, which was cancelled."""

    def __init__(self) -> None:
        super().__init__("the server shut down while the request ran")


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of failure is answered.

    Attributes:
        sql: HTTP status at ``/sql``.
        code: SQLSTATE for the body; empty where PostgreSQL has no word for it.
        kind: Stable name of the situation, for programs.
        outcome: What became of the statement.
        native: HTTP status at other paths; None: the same.
        retry_after: Whether to say when to come back.
        retryable: Whether sending the request again is safe and may help.
        proxy_error: The word of RFC 9209 for it, where there is one.
        suggestion: What to do, where the exception does not say it itself.
    """

    sql: int
    code: str
    kind: str
    outcome: Outcome = "not_executed"
    native: int | None = None
    retry_after: bool = False
    retryable: bool = False
    proxy_error: str = ""
    suggestion: str = ""


def _again(
    code: str,
    kind: str,
    outcome: Outcome = "not_executed",
    *,
    proxy_error: str = "",
    suggestion: str = "",
) -> Rule:
    """503: it had no effect, and sending it again later may help."""
    return Rule(
        503,
        code,
        kind,
        outcome,
        retry_after=True,
        retryable=True,
        proxy_error=proxy_error,
        suggestion=suggestion,
    )


_DEADLINE = Rule(
    400,
    sqlstate.QUERY_CANCELED,
    "request-deadline",
    "rolled_back",
    native=504,
    proxy_error="connection_read_timeout",
    suggestion="make the statement faster, or raise X-Timeout-Ms or --request-timeout.",
)
_TRANSACTION_LOST = _again(
    "08006",
    "transaction-lost",
    "rolled_back",
    proxy_error="connection_terminated",
    suggestion="send the request again.",
)
_OUTCOME_UNKNOWN = Rule(
    502,
    "08007",
    "outcome-unknown",
    "unknown",
    proxy_error="connection_terminated",
    suggestion="check whether the statement took effect before sending it again.",
)
SQL_ERROR = Rule(400, "", "sql-error", "rolled_back")

RULES: Mapping[type[BaseException], Rule] = {
    # the client's
    BadRequestError: Rule(400, "", "bad-request"),
    execute.CopyRefusedError: Rule(
        400,
        "0A000",
        "copy-refused",
        suggestion="use INSERT … SELECT FROM unnest($1, …) for many rows, or a PostgreSQL client.",
    ),
    # Neon's clients would not show the message of a 401.
    UnauthorizedError: Rule(400, sqlstate.INVALID_PASSWORD, "unauthorized", native=401),
    ReadOnlyRefusedError: Rule(
        400,
        sqlstate.READ_ONLY_TRANSACTION,
        "read-only",
        "rolled_back",
        native=403,
        suggestion="use a token, or a server, that may write.",
    ),
    ReadOnlyDeclaredError: SQL_ERROR,
    ForbiddenError: Rule(400, "42501", "forbidden", native=403),
    RateLimitedError: Rule(
        429, sqlstate.TOO_MANY_CONNECTIONS, "rate-limited", retry_after=True, retryable=True
    ),
    TooManyRequestsError: Rule(
        429, sqlstate.TOO_MANY_CONNECTIONS, "too-many-requests", retry_after=True, retryable=True
    ),
    BodyTooLargeError: Rule(
        413,
        "54000",
        "request-too-large",
        suggestion="send less at once, or raise the limit with --max-request-bytes.",
    ),
    BodyTimeoutError: Rule(
        408,
        "",
        "request-timeout",
        suggestion="send the body faster or raise the limit with --request-timeout.",
    ),
    TooManyBytesError: _again(
        "53200",
        "too-many-bytes",
        suggestion="send the request again after Retry-After, and fewer large ones at once.",
    ),
    RequestInFlightError: Rule(
        409,
        "55P03",
        "request-in-flight",
        retry_after=True,
        retryable=True,
        suggestion="send it again after Retry-After, with the same key.",
    ),
    exceptions.TransactionAbortedError: Rule(
        409, "40000", "transaction-aborted", suggestion="use a new Idempotency-Key."
    ),
    # the statement's
    psycopg.Error: SQL_ERROR,
    interrupt.DeadlineExceededError: _DEADLINE,
    exceptions.TransactionTimeoutError: _DEADLINE,
    execute.ResultTooLargeError: Rule(
        507,
        "54000",
        "response-too-large",
        suggestion="fetch less at once with LIMIT, or raise the limit with --max-response-bytes.",
    ),
    # the pool's: nothing was sent
    exceptions.PoolTimeoutError: _again(
        sqlstate.TOO_MANY_CONNECTIONS, "pool-timeout", proxy_error="connection_limit_reached"
    ),
    exceptions.PoolExhaustedError: _again(
        sqlstate.TOO_MANY_CONNECTIONS, "queue-full", proxy_error="connection_limit_reached"
    ),
    exceptions.DatabaseUnavailableError: _again(
        "08001",
        "database-unavailable",
        proxy_error="destination_unavailable",
        suggestion="send the request again after Retry-After; the pool reconnects by itself.",
    ),
    exceptions.ConnectionValidationError: _again(
        "08006",
        "connection-lost",
        proxy_error="connection_terminated",
        suggestion="send the request again after Retry-After.",
    ),
    execute.NothingSentError: _again(
        "08006",
        "connection-lost",
        proxy_error="connection_terminated",
        suggestion="send the request again.",
    ),
    PausedError: _again(
        sqlstate.CANNOT_CONNECT_NOW,
        "paused",
        suggestion="send the request again after Retry-After; POST /admin/resume ends the pause.",
    ),
    StartingError: _again(
        sqlstate.CANNOT_CONNECT_NOW,
        "starting",
        suggestion="send the request again after Retry-After.",
    ),
    exceptions.PoolClosedError: _again(
        sqlstate.ADMIN_SHUTDOWN,
        "draining",
        suggestion="send the request to another instance or again after Retry-After.",
    ),
    # Not 503: sending it again helps only after somebody has made the table.
    exceptions.LedgerUnavailableError: Rule(501, "55000", "ledger-unavailable"),
    # operations
    operations.OperationNotFoundError: Rule(404, "", "operation-not-found"),
    operations.OperationConflictError: Rule(409, "", "operation-conflict"),
    operations.OperationsUnavailableError: Rule(501, "55000", "operations-unavailable"),
    operations.OperationError: Rule(422, "", "operation-refused"),
    OperationInDoubtError: Rule(
        502,
        "08007",
        "operation-in-doubt",
        "unknown",
        proxy_error="connection_terminated",
        suggestion="look at GET /v1/operations, or send the request again: without `again` it is "
        "done once.",
    ),
    # after sending
    ShutDownError: _again(sqlstate.ADMIN_SHUTDOWN, "shut-down", "rolled_back"),
    TransactionLostError: _TRANSACTION_LOST,
    exceptions.TransactionRolledBackError: _TRANSACTION_LOST,
    execute.OutcomeUnknownError: _OUTCOME_UNKNOWN,
    exceptions.TransactionOutcomeUnknownError: _OUTCOME_UNKNOWN,
}

_TAKEN = Rule(400, "", "constraint-violation", "rolled_back", native=409)
_CONFLICT = Rule(
    400,
    "",
    "transaction-conflict",
    "rolled_back",
    native=409,
    retryable=True,
    suggestion="send the request again.",
)

SQL_RULES: Mapping[str, Rule] = {
    sqlstate.UNIQUE_VIOLATION: _TAKEN,
    "23503": _TAKEN,  # foreign_key_violation
    "23P01": _TAKEN,  # exclusion_violation
    sqlstate.SERIALIZATION_FAILURE: _CONFLICT,
    sqlstate.DEADLOCK_DETECTED: _CONFLICT,
    "42501": Rule(400, "", "insufficient-privilege", "rolled_back", native=403),
    sqlstate.QUERY_CANCELED: Rule(
        400,
        "",
        "statement-canceled",
        "rolled_back",
        native=504,
        proxy_error="connection_read_timeout",
    ),
    # Nobody asked for a read-only transaction: the server was a primary, and is one no more.
    sqlstate.READ_ONLY_TRANSACTION: Rule(
        400,
        "",
        "read-only-database",
        "rolled_back",
        native=503,
        retry_after=True,
        retryable=True,
        suggestion="send the request again after Retry-After; the pool looks for the primary.",
    ),
}
"""Rows for single SQLSTATEs; what PostgreSQL says otherwise is ``SQL_ERROR``."""

OUR_BUG = Rule(500, "XX000", "internal-error", "unknown", proxy_error="proxy_internal_error")


def rule_for(error: BaseException) -> Rule:
    """The row of the table for an exception; subclasses share the row of their parent."""
    if isinstance(error, psycopg.Error) or (
        is_driver_error(error) and not isinstance(error, exceptions.ConnectionPoolError)
    ):
        return SQL_RULES.get(getattr(error, "sqlstate", None) or "", SQL_ERROR)
    for kind in type(error).__mro__:
        if kind in RULES:
            return RULES[kind]
    return OUR_BUG
