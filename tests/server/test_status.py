"""The one table from failure to answer."""

from random import Random

import psycopg
import pytest

from poolkeeper import exceptions
from poolkeeper.server.execute import (
    CopyRefusedError,
    NothingSentError,
    OutcomeUnknownError,
    ResultTooLargeError,
)
from poolkeeper.server.interrupt import DeadlineExceededError
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.status import (
    RULES,
    BodyTimeoutError,
    BodyTooLargeError,
    ShutDownError,
    StartingError,
    TransactionLostError,
    UnauthorizedError,
    answer,
)
from poolkeeper.snapshot import PoolSnapshot

NEON_FIELDS = {
    "message",
    "code",
    "detail",
    "hint",
    "position",
    "internalPosition",
    "internalQuery",
    "severity",
    "where",
    "table",
    "column",
    "schema",
    "dataType",
    "constraint",
    "file",
    "line",
    "routine",
}
SNAPSHOT = PoolSnapshot(
    total=1,
    idle=0,
    active=1,
    connecting=0,
    validating=0,
    resetting=0,
    closing=0,
    waiting=3,
    oldest_waiter_seconds=2.4,
    min_size=1,
    max_size=1,
)
STARTING = exceptions.DatabaseUnavailableError("down", next_attempt_seconds=0.2)
# As libpq reports a refused login: text alone, no SQLSTATE.
STARTING.__cause__ = psycopg.OperationalError(
    'connection to server at "127.0.0.1" failed: FATAL:  the database system is starting up'
)

CASES = [
    (BadRequestError("what?", code="22021"), 400, "22021", "not_executed"),
    (psycopg.errors.UniqueViolation("twice"), 400, "23505", "rolled_back"),
    (psycopg.errors.SerializationFailure("again"), 400, "40001", "rolled_back"),
    (psycopg.errors.QueryCanceled("statement timeout"), 400, "57014", "rolled_back"),
    (DeadlineExceededError("too long"), 400, "57014", "rolled_back"),
    (CopyRefusedError(), 400, "0A000", "not_executed"),
    (UnauthorizedError("who?"), 400, "28P01", "not_executed"),
    (BodyTooLargeError(10), 413, "54000", "not_executed"),
    (BodyTimeoutError(30.0), 408, "", "not_executed"),
    (ResultTooLargeError(10, executed=True), 507, "54000", "executed"),
    (ResultTooLargeError(10, executed=False), 507, "54000", "rolled_back"),
    (exceptions.PoolTimeoutError("late", snapshot=SNAPSHOT), 503, "53300", "not_executed"),
    (exceptions.PoolDeadlockError("stuck"), 503, "53300", "not_executed"),
    (exceptions.PoolExhaustedError("full", snapshot=SNAPSHOT), 503, "53300", "not_executed"),
    (exceptions.DatabaseUnavailableError("down"), 503, "08001", "not_executed"),
    (STARTING, 503, "57P03", "not_executed"),
    (exceptions.ConnectionValidationError("broken"), 503, "08006", "not_executed"),
    (NothingSentError("gone"), 503, "08006", "not_executed"),
    (StartingError(), 503, "57P03", "not_executed"),
    (exceptions.PoolClosedError("closed"), 503, "57P01", "not_executed"),
    (ShutDownError(), 503, "57P01", "rolled_back"),
    (TransactionLostError("gone"), 503, "08006", "rolled_back"),
    (OutcomeUnknownError("gone"), 502, "08007", "unknown"),
    (ZeroDivisionError("secret detail"), 500, "XX000", "unknown"),
]


def answered(error, seed=1):
    return answer(error, request_id="r-1", random=Random(seed))


@pytest.mark.parametrize(("error", "status", "code", "outcome"), CASES)
def test_each_failure_has_its_status_code_and_outcome(error, status, code, outcome):
    """503 only where nothing took effect, 502 where nobody knows."""
    result = answered(error)
    assert (result.status, result.body["code"], result.body["outcome"]) == (status, code, outcome)
    assert (result.status == 502) == (outcome == "unknown" and code == "08007")
    if result.status == 503:
        assert outcome in {"not_executed", "rolled_back"}


@pytest.mark.parametrize("error", [case[0] for case in CASES])
def test_each_answer_has_neons_fields_and_the_problems(error):
    """One object for both kinds of client; Neon's fields are strings or null."""
    body = answered(error).body
    assert body.keys() >= NEON_FIELDS | {"type", "title", "status", "request_id"}
    assert all(body[name] is None or isinstance(body[name], str) for name in NEON_FIELDS)
    assert body["detail"]


def test_every_row_of_the_table_is_covered_here():
    """A new row without a case would be untested."""
    assert set(RULES) <= {kind for case in CASES for kind in type(case[0]).__mro__}


def test_retry_after_is_a_whole_number_from_one_and_only_where_trying_again_helps():
    """Never 0, not the same for everybody, not before the next attempt to reach the database."""
    for error, status, *_ in CASES:
        header = answered(error).headers.get("Retry-After")
        assert (header is not None) == (status == 503)
    soon = exceptions.DatabaseUnavailableError("down", next_attempt_seconds=7.3)
    seconds = {int(answered(soon, seed).headers["Retry-After"]) for seed in range(50)}
    assert seconds == {8, 9}
    unknown = exceptions.DatabaseUnavailableError("down")
    assert {answered(unknown, seed).headers["Retry-After"] for seed in range(50)} == {"1"}


def test_our_own_bugs_are_answered_without_details():
    """The log has them, under the id the answer names."""
    body = answered(ZeroDivisionError("secret detail")).body
    assert "secret" not in str(body)
    assert "r-1" in body["message"]


def test_messages_say_what_became_of_the_request_before_the_suggestion():
    """One suggestion, at the end."""
    error = exceptions.PoolTimeoutError("Nobody came after 1.0s. Suggestion: be patient.")
    assert answered(error).body["message"] == (
        "Nobody came after 1.0s. The request was not executed. Suggestion: be patient."
    )
    said = exceptions.PoolExhaustedError("Full. The request was not executed. Go on.")
    assert answered(said).body["message"].count("was not executed") == 1
    unknown = answered(OutcomeUnknownError("EOF\n\tdetected")).body["message"]
    assert "EOF detected. Whether the request took effect is unknown. Suggestion: " in unknown


def test_a_draining_server_asks_for_a_new_connection():
    """Behind a load balancer that leads to another server."""
    draining = answered(exceptions.PoolClosedError("Closed. Suggestion: use `async with`."))
    headers = draining.headers
    assert (headers["Connection"], headers["Retry-After"]) == ("close", "1")
    assert draining.body["message"] == (
        "The server is shutting down. The request was not executed. Suggestion: send the request "
        "to another instance or again after Retry-After."
    )
