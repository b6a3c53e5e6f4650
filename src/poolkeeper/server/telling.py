"""What clients are told of failures of the pool: no address, role or size; the log has those."""

from __future__ import annotations

import re

from poolkeeper import exceptions, sqlstate
from poolkeeper.core.availability import Failure
from poolkeeper.operations import errors as operations

# libpq's guess at why, and where it had dialled.
_GUESS = re.compile(
    r"\s*This probably means the server terminated abnormally.*?request\.?", re.DOTALL
)
_DIALLED = re.compile(
    r'connection to server (?:at "[^"]*"(?: \([^)]*\))?, port \d+|on socket "[^"]*") '
)
_POOL_STATE = re.compile(r" Pool state: .*?(?= Suggestion: |$)", re.DOTALL)

_CAUSES = {
    "connection refused": "connection refused",
    "connect call failed": "connection refused",
    "timeout": "no answer in time",
    "timed out": "no answer in time",
    "translate host name": "its name is not known",
    "name or service not known": "its name is not known",
    "no route to host": "no route to its host",
    "network is unreachable": "no route to its host",
    "closed the connection": "connection closed",
    "reset by peer": "connection closed",
}
_BY_MEANING = {
    Failure.STARTING: "it is starting or shutting down",
    Failure.BACKPRESSURE: "it has no connection left",
    Failure.MISCONFIGURED: "it refuses this server's login",
}


def cause_of(error: BaseException) -> str:
    """In a few words of our own why the database cannot be had; empty if nobody knows."""
    cause = error.__cause__
    if cause is None:
        return ""
    meaning = _BY_MEANING.get(sqlstate.connect_failure(cause))
    if meaning is not None:
        return meaning
    text = f"{type(cause).__name__} {cause}".lower()
    return next((words for phrase, words in _CAUSES.items() if phrase in text), "")


def facts_of(error: exceptions.DatabaseUnavailableError) -> str:
    """Cause, age and next step of an outage, as far as they are known."""
    facts = [cause_of(error)]
    if error.outage_seconds:
        facts.append(f"for {error.outage_seconds:.1f} s")
    if error.next_attempt_seconds is not None:
        facts.append(f"next attempt in {error.next_attempt_seconds:.1f} s")
    return ", ".join([fact for fact in facts if fact])


def told(error: BaseException) -> str:
    """What happened, with a suggestion if the error has one for clients."""
    if isinstance(error, exceptions.DatabaseUnavailableError):
        facts = facts_of(error)
        return f"The database is unreachable{f': {facts}' if facts else ''}"
    if isinstance(error, exceptions.ConnectionValidationError):
        cause = cause_of(error)
        return f"No working connection to the database could be had{f': {cause}' if cause else ''}"
    if isinstance(error, exceptions.LedgerUnavailableError):
        return (
            "The table poolkeeper.ledger, which makes transactions exactly-once, is missing and "
            "cannot be made. Suggestion: have somebody who may create schemas run "
            "`poolkeeper init-db URL --grant-to ROLE` once."
        )
    if isinstance(error, operations.OperationNotFoundError):
        return (
            f"There is no operation {error.operation!r}. "
            "Suggestion: GET /v1/operations?all=true lists them."
        )
    if isinstance(error, operations.OperationsUnavailableError):
        return (
            "The tables of operations are missing and cannot be made. Suggestion: have somebody "
            "who may create schemas run `poolkeeper init-db URL --grant-to ROLE` once."
        )
    if isinstance(error, exceptions.TransactionOutcomeUnknownError):
        return "The answer to COMMIT was lost, and the database could not be asked in time"
    text = " ".join(_DIALLED.sub("", _GUESS.sub("", str(error))).split())
    if isinstance(error, exceptions.PoolTimeoutError | exceptions.PoolExhaustedError):
        text = _POOL_STATE.sub("", text)
        cause = cause_of(error)
        if cause:
            head, separator, advice = text.partition(" Suggestion: ")
            text = f"{head} The database is unreachable: {cause}.{separator}{advice}"
    return text


def first_line(error: BaseException) -> str:
    """What libpq said first; what follows is about the same."""
    return next(iter(str(error).splitlines()), "")
