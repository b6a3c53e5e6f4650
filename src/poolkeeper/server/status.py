"""What each failure means to an HTTP client: one table, from exception to status and code.

503 says that nothing was executed and trying again is safe; 502 that the outcome is unknown.
Errors of the statement itself are 400, because Neon's clients read a body for that status only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeAlias

import psycopg

from poolkeeper import exceptions, sqlstate
from poolkeeper.server import execute, interrupt
from poolkeeper.server.neon.request import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

Outcome: TypeAlias = Literal["not_executed", "unknown", "rolled_back", "executed"]


class BodyTooLargeError(Exception):
    """The request body exceeds the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"request is too large (max is {limit} bytes)")


class BodyTimeoutError(Exception):
    """The request body did not arrive within the time a request may take."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request body did not arrive within {seconds:g} s")


class StartingError(Exception):
    """The server listens, but its pool is not open yet."""

    def __init__(self) -> None:
        super().__init__("The server is starting")


class UnauthorizedError(Exception):
    """The request carries no token, or a wrong one."""


class TransactionLostError(Exception):
    """The connection was lost before COMMIT was sent, so the batch was rolled back."""


class ShutDownError(Exception):
    """The server is shutting down and could not wait for the statement, which was cancelled."""

    def __init__(self) -> None:
        super().__init__("the server shut down while the request ran")


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of failure is answered.

    Attributes:
        status: HTTP status.
        code: SQLSTATE for the body; empty where PostgreSQL has no word for it.
        kind: Stable name of the situation, for programs.
        outcome: What became of the statement.
        retry_after: Whether to say when to come back.
        suggestion: What to do, where the exception does not say it itself.
    """

    status: int
    code: str
    kind: str
    outcome: Outcome = "not_executed"
    retry_after: bool = False
    suggestion: str = ""


RULES: Mapping[type[BaseException], Rule] = {
    # the client's
    BadRequestError: Rule(400, "", "bad-request"),
    execute.CopyRefusedError: Rule(
        400,
        "0A000",
        "copy-refused",
        suggestion="use INSERT … SELECT FROM unnest($1, …) for many rows, or a PostgreSQL client.",
    ),
    # 401 elsewhere, but Neon's clients would not show the message.
    UnauthorizedError: Rule(400, sqlstate.INVALID_PASSWORD, "unauthorized"),
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
    # the statement's
    psycopg.Error: Rule(400, "", "sql-error", "rolled_back"),
    interrupt.DeadlineExceededError: Rule(
        400,
        sqlstate.QUERY_CANCELED,
        "request-deadline",
        "rolled_back",
        suggestion="make the statement faster or raise the limit with --request-timeout.",
    ),
    execute.ResultTooLargeError: Rule(
        507,
        "54000",
        "response-too-large",
        suggestion="fetch less at once with LIMIT, or raise the limit with --max-response-bytes.",
    ),
    # the pool's: nothing was sent
    exceptions.PoolTimeoutError: Rule(
        503, sqlstate.TOO_MANY_CONNECTIONS, "pool-timeout", retry_after=True
    ),
    exceptions.PoolExhaustedError: Rule(
        503, sqlstate.TOO_MANY_CONNECTIONS, "queue-full", retry_after=True
    ),
    exceptions.DatabaseUnavailableError: Rule(
        503, "08001", "database-unavailable", retry_after=True
    ),
    exceptions.ConnectionValidationError: Rule(503, "08006", "connection-lost", retry_after=True),
    execute.NothingSentError: Rule(
        503,
        "08006",
        "connection-lost",
        retry_after=True,
        suggestion="send the request again.",
    ),
    StartingError: Rule(
        503,
        sqlstate.CANNOT_CONNECT_NOW,
        "starting",
        retry_after=True,
        suggestion="send the request again after Retry-After.",
    ),
    exceptions.PoolClosedError: Rule(
        503,
        sqlstate.ADMIN_SHUTDOWN,
        "draining",
        retry_after=True,
        suggestion="send the request to another instance or again after Retry-After.",
    ),
    # after sending
    ShutDownError: Rule(503, sqlstate.ADMIN_SHUTDOWN, "shut-down", "rolled_back", retry_after=True),
    TransactionLostError: Rule(
        503,
        "08006",
        "transaction-lost",
        "rolled_back",
        retry_after=True,
        suggestion="send the batch again.",
    ),
    execute.OutcomeUnknownError: Rule(
        502,
        "08007",
        "outcome-unknown",
        "unknown",
        suggestion="check whether the statement took effect before sending it again.",
    ),
}

OUR_BUG = Rule(500, "XX000", "internal-error", "unknown")


@dataclass(frozen=True, slots=True)
class Answer:
    """A failure ready to be sent."""

    status: int
    kind: str
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)


def rule_for(error: BaseException) -> Rule:
    """The row of the table for an exception; subclasses share the row of their parent."""
    for kind in type(error).__mro__:
        if kind in RULES:
            return RULES[kind]
    return OUR_BUG


def answer(error: BaseException, *, request_id: str, random: Random) -> Answer:
    """Put a failure into Neon's error fields and RFC 9457's problem fields, in one object.

    An error of our own is answered without details; the log has them under the request id.
    """
    rule = rule_for(error)
    outcome: Outcome = rule.outcome
    if isinstance(error, execute.ResultTooLargeError):
        outcome = "executed" if error.executed else "rolled_back"
    neon = _neon_fields(error, rule, outcome, request_id)
    body = {
        **neon,
        "detail": neon["detail"] or neon["message"],
        "type": f"urn:poolkeeper:problem:{rule.kind}",
        "title": HTTPStatus(rule.status).phrase,
        "status": rule.status,
        "outcome": outcome,
        "request_id": request_id,
    }
    headers: dict[str, str] = {}
    if rule.retry_after:
        seconds = _seconds_until_useful(error, random)
        body["retry_after"] = seconds
        headers["Retry-After"] = str(seconds)
    if isinstance(error, exceptions.PoolClosedError | ShutDownError | BodyTimeoutError):
        headers["Connection"] = "close"
    return Answer(rule.status, rule.kind, body, headers)


_DIAGNOSTICS = {
    "detail": "message_detail",
    "hint": "message_hint",
    "position": "statement_position",
    "internalPosition": "internal_position",
    "internalQuery": "internal_query",
    "severity": "severity",
    "where": "context",
    "table": "table_name",
    "column": "column_name",
    "schema": "schema_name",
    "dataType": "datatype_name",
    "constraint": "constraint_name",
    "file": "source_file",
    "line": "source_line",
    "routine": "source_function",
}


def _neon_fields(
    error: BaseException, rule: Rule, outcome: Outcome, request_id: str
) -> dict[str, object]:
    """The seventeen fields Neon's clients know, strings or null."""
    fields: dict[str, object] = dict.fromkeys(_DIAGNOSTICS)
    if isinstance(error, psycopg.Error):
        fields = {name: getattr(error.diag, source) for name, source in _DIAGNOSTICS.items()}
        message = error.diag.message_primary or str(error)
    elif rule is OUR_BUG:
        message = (
            f"The server failed to handle the request. "
            f"Suggestion: look for request {request_id} in its log."
        )
    else:
        message = _sentence(error, rule, outcome)
    return {"message": message, "code": _code(error, rule), **fields}


def _sentence(error: BaseException, rule: Rule, outcome: Outcome) -> str:
    what = " ".join(str(error).split())
    if isinstance(error, execute.CopyRefusedError):
        what = "COPY from or to the client is not possible over HTTP"
    elif isinstance(error, exceptions.PoolClosedError):
        # What it says itself is for whoever calls the pool from Python.
        what = "The server is shutting down"
    elif isinstance(error, execute.NothingSentError | TransactionLostError):
        what = f"The connection to the database was lost: {what}"
    elif isinstance(error, execute.OutcomeUnknownError):
        what = f"The connection to the database was lost while the request ran: {what}"
    head, separator, suggestion = what.partition(" Suggestion: ")
    facts = [head.rstrip(". ") + "."]
    words = _OUTCOME_WORDS[outcome]
    if rule.status >= HTTPStatus.INTERNAL_SERVER_ERROR and words not in head:
        facts.append(words)
    if separator or rule.suggestion:
        facts.append(f"Suggestion: {suggestion or rule.suggestion}")
    return " ".join(facts)


_OUTCOME_WORDS: Mapping[Outcome, str] = {
    "not_executed": "The request was not executed.",
    "unknown": "Whether the request took effect is unknown.",
    "rolled_back": "The request was rolled back.",
    "executed": "The request was executed; only its result is lost.",
}


def _code(error: BaseException, rule: Rule) -> str:
    if isinstance(error, psycopg.Error):
        return error.sqlstate or ""
    if isinstance(error, BadRequestError):
        return error.code
    if isinstance(error, exceptions.DatabaseUnavailableError):
        # Starting up is worth telling from unreachable; other causes are the operator's matter.
        cause = error.__cause__
        if cause is not None and sqlstate.sqlstate_of(cause) == sqlstate.CANNOT_CONNECT_NOW:
            return sqlstate.CANNOT_CONNECT_NOW
    return rule.code


def _seconds_until_useful(error: BaseException, random: Random) -> int:
    """Whole seconds after which trying again makes sense: never 0, and not the same for all."""
    known = 0.0
    if isinstance(error, exceptions.DatabaseUnavailableError):
        known = error.next_attempt_seconds or 0.0
    elif isinstance(error, exceptions.PoolTimeoutError | exceptions.PoolExhaustedError):
        # Who asks now waits behind the oldest; a queue rarely stays this long for longer.
        snapshot = error.snapshot
        known = min(snapshot.oldest_waiter_seconds, _LONGEST_QUEUE_ADVICE) if snapshot else 0.0
    elif isinstance(error, exceptions.PoolClosedError | ShutDownError):
        return 1
    return max(1, math.ceil(known + random.random()))


_LONGEST_QUEUE_ADVICE = 5.0
