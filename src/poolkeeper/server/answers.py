"""Failures as responses: Neon's error fields at ``/sql``, RFC 9457 problems everywhere else."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import psycopg

from poolkeeper import exceptions, sqlstate
from poolkeeper.outcomes import is_driver_error
from poolkeeper.server import execute, status, telling
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.turned_away import RateLimitedError, TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from poolkeeper.server.pace import Pace
    from poolkeeper.server.status import Outcome, Rule


@dataclass(frozen=True, slots=True)
class Answer:
    """A failure ready to be sent."""

    status: int
    kind: str
    outcome: Outcome
    message: str
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Situation:
    """A failure with all that its answer needs, whatever form that takes."""

    error: BaseException
    rule: Rule
    outcome: Outcome
    code: str
    message: str
    request_id: str
    retry_after: int | None

    @property
    def database_error(self) -> psycopg.Error | None:
        """What PostgreSQL itself said, if it is about that."""
        for error in (self.error, self.error.__cause__):
            if isinstance(error, psycopg.Error) and self.rule.sql == HTTPStatus.BAD_REQUEST:
                return error
        return None


def situation(
    error: BaseException, *, request_id: str, random: Random, pace: Pace | None = None
) -> Situation:
    """Judge a failure. An error of our own is told without details; the log has them."""
    rule = status.rule_for(error)
    outcome: Outcome = rule.outcome
    if isinstance(error, execute.ResultTooLargeError):
        outcome = "executed" if error.executed else "rolled_back"
        if error.executed is None:
            outcome = "unknown"
    if outcome == "rolled_back" and _ran_in_pieces(error):
        outcome = "unknown"
        rule = replace(
            rule,
            native=502 if rule.native == HTTPStatus.SERVICE_UNAVAILABLE else rule.native,
            retry_after=False,
            retryable=False,
            suggestion="look which of its transactions took effect before calling it again.",
        )
    return Situation(
        error,
        rule,
        outcome,
        _code(error, rule),
        _message(error, rule, outcome, request_id),
        request_id,
        _seconds_until_useful(error, random, pace) if rule.retry_after else None,
    )


def _ran_in_pieces(error: BaseException) -> bool:
    """Whether a procedure failed, which may have committed before; see `work.run_alone`."""
    return any(getattr(one, "in_pieces", False) for one in (error, error.__cause__))


def neon_answer(what: Situation, *, infra_status: int | None = None) -> Answer:
    """Neon's error fields and RFC 9457's in one object.

    Args:
        what: The failure.
        infra_status: Status instead of 502 and 503; the body keeps those.
    """
    fields: dict[str, object] = dict.fromkeys(_DIAGNOSTICS)
    error = what.database_error
    if error is not None:
        fields = _said(error, _DIAGNOSTICS)
        fields["hint"] = fields["hint"] or _advice(what) or None
    told = what.rule.sql
    body: dict[str, object] = {
        "message": what.message,
        "code": what.code,
        **fields,
        "detail": fields["detail"] or _detail(what),
        **_shared(what, told),
    }
    if infra_status is not None and told in {
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    }:
        told = infra_status
    return Answer(told, what.rule.kind, what.outcome, what.message, body, _headers(what))


def problem_answer(what: Situation) -> Answer:
    """A problem with the facts as members; what PostgreSQL said is under ``postgres``."""
    told = what.rule.native or what.rule.sql
    body: dict[str, object] = {
        **_shared(what, told),
        "detail": _advised(what),
        "instance": f"urn:poolkeeper:request:{what.request_id}",
        "code": what.code or None,
    }
    if isinstance(what.error, exceptions.TransactionOutcomeUnknownError):
        body["transaction_id"] = str(what.error.transaction_id)
    error = what.database_error
    if error is not None:
        said = _said(error, _POSTGRES)
        body["postgres"] = {name: value for name, value in said.items() if value is not None}
    headers = _headers(what)
    if told == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="poolkeeper"'
    return Answer(told, what.rule.kind, what.outcome, what.message, body, headers)


def _advised(what: Situation) -> str:
    """PostgreSQL's words with what follows from them, where the table knows that."""
    advice = _advice(what)
    if not advice:
        return what.message
    words = _OUTCOME_WORDS[what.outcome]
    return f"{what.message.rstrip('.')}. {words} Suggestion: {advice}"


def _advice(what: Situation) -> str:
    """What follows from PostgreSQL's words; empty where they say it all."""
    if not isinstance(what.error, psycopg.Error):
        return ""
    if what.rule.suggestion:
        return what.rule.suggestion
    if "cannot insert multiple commands" in what.message:
        return (
            "send one statement per request; several as `statements` to /v1/transaction or as "
            "`queries` to /sql."
        )
    if "due to statement timeout" in what.message:
        return "make the statement faster, or raise --statement-timeout of the server."
    bound = _BOUND.search(what.message)
    if bound:
        given, wanted = bound.groups()
        return (
            f"`params` has {given} value{'' if given == '1' else 's'}, the statement has {wanted}."
        )
    return ""


_BOUND = re.compile(r"supplies (\d+) parameters?, but .* requires (\d+)")


def _detail(what: Situation) -> str:
    """Beside the message, what that does not say first: the cause, or what became of it."""
    if isinstance(what.error, psycopg.Error):
        return what.message
    facts = ""
    if isinstance(what.error, exceptions.DatabaseUnavailableError):
        facts = telling.facts_of(what.error)
    return facts or _OUTCOME_WORDS[what.outcome]


def _shared(what: Situation, told: int) -> dict[str, object]:
    members: dict[str, object] = {
        "type": f"urn:poolkeeper:problem:{what.rule.kind}",
        "title": HTTPStatus(told).phrase,
        "status": told,
        "outcome": what.outcome,
        "retryable": what.rule.retryable,
        "request_id": what.request_id,
    }
    if what.retry_after is not None:
        members["retry_after"] = what.retry_after
    return members


_CLOSING = (exceptions.PoolClosedError, status.ShutDownError, status.BodyTimeoutError)


def _headers(what: Situation) -> dict[str, str]:
    headers: dict[str, str] = {}
    if what.retry_after is not None:
        headers["Retry-After"] = str(what.retry_after)
    if what.rule.proxy_error:
        headers["Proxy-Status"] = f"poolkeeper; error={what.rule.proxy_error}"
    if isinstance(what.error, _CLOSING):
        headers["Connection"] = "close"
    return headers


# Somebody's RAISE may say megabytes; the bound on results does not see them.
_LONGEST_TEXT = 8192


def _said(error: psycopg.Error, names: Mapping[str, str]) -> dict[str, object]:
    """PostgreSQL's fields under the names a dialect has for them."""
    found = {name: getattr(error.diag, source) for name, source in names.items()}
    return {name: value and _cut(value) for name, value in found.items()}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"


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
"""Neon's names; with ``message`` and ``code`` they are seventeen, strings or null."""

_POSTGRES = {
    "severity": "severity_nonlocalized",
    "message": "message_primary",
    "detail": "message_detail",
    "hint": "message_hint",
    "position": "statement_position",
    "where": "context",
    "schema": "schema_name",
    "table": "table_name",
    "column": "column_name",
    "data_type": "datatype_name",
    "constraint": "constraint_name",
}


def _message(error: BaseException, rule: Rule, outcome: Outcome, request_id: str) -> str:
    if rule is status.OUR_BUG:
        return (
            "The server failed to handle the request. "
            f"Suggestion: look for request {request_id} in its log."
        )
    # PostgreSQL's own words, which clients know.
    if isinstance(error, psycopg.Error):
        return _cut(error.diag.message_primary or str(error))
    if isinstance(error, status.ReadOnlyDeclaredError):
        return str(error)
    return _sentence(error, rule, outcome)


def _sentence(error: BaseException, rule: Rule, outcome: Outcome) -> str:
    what = telling.told(error)
    if isinstance(error, execute.CopyRefusedError):
        what = "COPY from or to the client is not possible over HTTP"
    elif isinstance(error, exceptions.PoolClosedError):
        # What it says itself is for whoever calls the pool from Python.
        what = "The server is shutting down"
    elif isinstance(error, execute.NothingSentError | status.TransactionLostError):
        what = f"The connection to the database was lost: {telling.first_line(error)}"
    elif isinstance(error, execute.OutcomeUnknownError):
        reason = telling.first_line(error)
        what = f"The connection to the database was lost while the request ran: {reason}"
    head, separator, suggestion = what.partition(" Suggestion: ")
    facts = [head.rstrip(". ") + "."]
    words = _OUTCOME_WORDS[outcome]
    if rule.sql >= HTTPStatus.INTERNAL_SERVER_ERROR and words not in head:
        facts.append(words)
    if isinstance(error, exceptions.TransactionOutcomeUnknownError):
        separator, suggestion = "", f"ask GET /v1/transactions/{error.transaction_id}."
    if isinstance(error, exceptions.TransactionTimeoutError | exceptions.TransactionAbortedError):
        # What they suggest is for whoever calls the pool from Python.
        separator = ""
        suggestion = rule.suggestion
    if separator or suggestion or rule.suggestion:
        facts.append(f"Suggestion: {suggestion or rule.suggestion}")
    return " ".join(facts)


_OUTCOME_WORDS: Mapping[Outcome, str] = {
    "not_executed": "The request was not executed.",
    "unknown": "Whether the request took effect is unknown.",
    "rolled_back": "The request was rolled back.",
    "executed": "The request was executed; only its result is lost.",
}


def _code(error: BaseException, rule: Rule) -> str:
    if isinstance(error, BadRequestError):
        return error.code
    if is_driver_error(error) and not isinstance(error, exceptions.ConnectionPoolError):
        return getattr(error, "sqlstate", None) or ""
    if isinstance(error, status.ReadOnlyDeclaredError):
        return sqlstate.READ_ONLY_TRANSACTION
    if isinstance(error, exceptions.DatabaseUnavailableError):
        # Starting up is worth telling from unreachable; other causes are the operator's matter.
        cause = error.__cause__
        if cause is not None and sqlstate.sqlstate_of(cause) == sqlstate.CANNOT_CONNECT_NOW:
            return sqlstate.CANNOT_CONNECT_NOW
    return rule.code


def _seconds_until_useful(error: BaseException, random: Random, pace: Pace | None) -> int:
    """Whole seconds after which trying again makes sense.

    Never 0, not the same for everybody, and never more than twice what is known: clients that
    wait longer than they have to are an outage of our own making.
    """
    known = 0.0
    if isinstance(error, exceptions.DatabaseUnavailableError):
        known = error.next_attempt_seconds or 0.0
    elif isinstance(error, exceptions.PoolTimeoutError | exceptions.PoolExhaustedError):
        known = _until_served(error, pace)
    elif isinstance(error, RateLimitedError):
        known = error.retry_after
    elif isinstance(error, status.PausedError | TooManyRequestsError | psycopg.Error):
        # Nobody knows; a second is soon enough.
        known = 0.5
    elif not isinstance(error, exceptions.ConnectionPoolError):
        return 1
    longest = max(1, math.floor(2 * known))
    return max(1, min(longest, math.ceil(known + random.random())))


def _until_served(
    error: exceptions.PoolTimeoutError | exceptions.PoolExhaustedError, pace: Pace | None
) -> float:
    """After how long a request is served before its own time limit, if the queue moves on so.

    Whoever comes back then waits as long as this one was ready to wait.
    """
    per_second = pace.per_second() if pace is not None else 0.0
    if error.snapshot is None or not per_second:
        return 0.0
    patience = getattr(error, "timeout", None) or 0.0
    seconds = max(1 / per_second, error.snapshot.waiting / per_second - patience)
    return min(seconds, _LONGEST_FORECAST)


# The pace is that of a few seconds; a forecast for minutes would be made up.
_LONGEST_FORECAST = 10.0
