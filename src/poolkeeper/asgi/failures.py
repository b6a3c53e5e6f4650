"""What an exception means to an HTTP client: one table, from exception to status."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from poolkeeper import exceptions, sqlstate
from poolkeeper.outcomes import LOST, NEVER_SENT, Outcome, is_driver_error, outcome_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Became: TypeAlias = Literal["not_executed", "rolled_back", "unknown", "executed"]

# As RFC 9110 has it: their effect is not what the client asks for.
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_LONGEST_QUEUE_ADVICE = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """How a request that failed is answered.

    Attributes:
        status: HTTP status.
        kind: Stable name of the situation, for programs.
        outcome: What became of the call that failed: ``not_executed``, ``rolled_back``,
            ``unknown`` or, for work done by an earlier request, ``executed``.
        detail: A sentence for people, without anything of this system in it.
        retry_after: Whole seconds after which trying again makes sense; None where it may not.
        facts: More fields for programs, such as ``transaction_id``.
    """

    status: int
    kind: str
    outcome: Became
    detail: str
    retry_after: int | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Rule:
    status: int
    kind: str
    outcome: Became
    detail: str


_BUSY = "The service is too busy to answer this request. It was not executed."
_AWAY = "The database is not available at the moment. The request was not executed."
_LOST_BEFORE = (
    "The connection to the database was lost before anything was sent. The request was not "
    "executed."
)
_UNDONE = "The connection to the database was lost. The request was rolled back."
_TOO_LONG = "The request took too long and was rolled back."
_SEND_AGAIN = "Suggestion: send it again; it only reads."
_IN_DOUBT = (
    "The connection to the database was lost. Whether the request took effect is unknown. "
    "Suggestion: look before sending it again."
)

_UNKNOWN = _Rule(502, "outcome-unknown", "unknown", _IN_DOUBT)

# The nearest ancestor counts. Errors that are not here are mistakes of the application.
_RULES: Mapping[type[BaseException], _Rule] = {
    exceptions.PoolTimeoutError: _Rule(503, "pool-timeout", "not_executed", _BUSY),
    exceptions.PoolExhaustedError: _Rule(503, "queue-full", "not_executed", _BUSY),
    exceptions.ConnectionValidationError: _Rule(
        503, "connection-lost", "not_executed", _LOST_BEFORE
    ),
    exceptions.DatabaseUnavailableError: _Rule(503, "database-unavailable", "not_executed", _AWAY),
    exceptions.PoolClosedError: _Rule(
        503,
        "draining",
        "not_executed",
        "This instance is starting or shutting down. The request was not executed.",
    ),
    exceptions.TransactionRolledBackError: _Rule(503, "transaction-lost", "rolled_back", _UNDONE),
    exceptions.TransactionTimeoutError: _Rule(504, "transaction-timeout", "rolled_back", _TOO_LONG),
    exceptions.TransactionOutcomeUnknownError: _UNKNOWN,
    exceptions.TransactionAlreadyCommittedError: _Rule(
        409,
        "already-committed",
        "executed",
        "This has been done before, by a request with the same key; nothing was changed now.",
    ),
}


def failure_of(error: BaseException, *, method: str = "POST") -> Failure | None:
    """Say how to answer a request that failed with ``error``; None if that is the application's.

    503 means that the failed call had no effect and may be made again, and comes with
    ``retry_after``; 502 that its outcome is unknown; 504 that time ran out and it had no effect,
    or that ``method`` is a safe one. What else the request had done before, outside of the same
    transaction, it does not speak of. SQL errors and mistakes in using the pool are not
    answered: they are the application's.
    """
    rule = next((_RULES[kind] for kind in type(error).__mro__ if kind in _RULES), None)
    if rule is None and is_driver_error(error):
        rule = _driver_rule(error)
    elif rule is None and isinstance(error, TimeoutError):
        rule = _timeout_rule(error, method)
    if rule is None:
        return None
    detail = rule.detail
    if rule is _UNKNOWN and method in _SAFE_METHODS:
        detail = f"The connection to the database was lost. {_SEND_AGAIN}"
    return Failure(
        rule.status,
        rule.kind,
        rule.outcome,
        detail,
        _seconds_until_useful(error) if rule.status == 503 else None,
        _facts(error),
    )


def out_of_time(seconds: float, *, method: str) -> Failure:
    """The answer to a request that was given up at its deadline, in the middle of something."""
    return Failure(
        504 if method in _SAFE_METHODS else 502,
        "request-deadline",
        "unknown",
        f"The request was not finished within {seconds:g} s and was given up. {_advice(method)}",
    )


def bad_timeout(header: str) -> Failure:
    """The answer to a request whose own time limit makes no sense."""
    return Failure(
        400,
        "bad-request",
        "not_executed",
        f"{header} is not a number of milliseconds above 0. Suggestion: send {header}: 5000.",
    )


def _driver_rule(error: BaseException) -> _Rule | None:
    outcome = outcome_of(error)
    code = getattr(error, "sqlstate", None)
    if code == sqlstate.QUERY_CANCELED and outcome is Outcome.ROLLED_BACK:
        return _Rule(504, "statement-timeout", "rolled_back", _TOO_LONG)
    if not _is_loss(error, code):
        return None
    match outcome:
        case Outcome.NOT_SENT:
            return _Rule(503, "connection-lost", "not_executed", _LOST_BEFORE)
        case Outcome.ROLLED_BACK:
            return _Rule(503, "transaction-lost", "rolled_back", _UNDONE)
        case Outcome.UNKNOWN:
            return _UNKNOWN


def _is_loss(error: BaseException, code: object) -> bool:
    """Whether the connection is gone, rather than a statement or an argument wrong."""
    if isinstance(code, str):
        return code in LOST
    if any(text in str(error) for text in (NEVER_SENT[0], "connection is closed")):
        return True
    # Without a code, libpq's own words for a broken connection.
    return any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)


def _timeout_rule(error: TimeoutError, method: str) -> _Rule:
    """A time limit of the driver's (``command_timeout``) or of the application's."""
    if outcome_of(error) is Outcome.ROLLED_BACK:
        return _Rule(504, "statement-timeout", "rolled_back", _TOO_LONG)
    return _Rule(
        504 if method in _SAFE_METHODS else 502,
        "timeout",
        "unknown",
        f"The request took too long. {_advice(method)}",
    )


def _advice(method: str) -> str:
    """What to do about a request that may have been executed."""
    if method in _SAFE_METHODS:
        return _SEND_AGAIN
    return "Whether it took effect is unknown. Suggestion: look before sending it again."


def _seconds_until_useful(error: BaseException) -> int:
    """Whole seconds: never 0, and not the same for all, so that not all come back at once."""
    known = 0.0
    if isinstance(error, exceptions.DatabaseUnavailableError):
        known = error.next_attempt_seconds or 0.0
    elif isinstance(error, exceptions.PoolTimeoutError | exceptions.PoolExhaustedError):
        # Who asks now waits behind the oldest; a queue rarely stays this long for longer.
        snapshot = error.snapshot
        known = min(snapshot.oldest_waiter_seconds, _LONGEST_QUEUE_ADVICE) if snapshot else 0.0
    return max(1, math.ceil(known + random.random()))  # noqa: S311 - spreads clients, no secret


def _facts(error: BaseException) -> dict[str, object]:
    key = getattr(error, "transaction_id", None)
    return {} if key is None else {"transaction_id": str(key)}
