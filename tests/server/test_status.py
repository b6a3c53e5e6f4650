"""The one table from failure to answer, for both kinds of client."""

from random import Random

import asyncpg
import psycopg
import pytest

from poolkeeper import exceptions
from poolkeeper.operations import errors as operations
from poolkeeper.server.answers import neon_answer, problem_answer, situation
from poolkeeper.server.execute import (
    CopyRefusedError,
    NothingSentError,
    OutcomeUnknownError,
    ResultTooLargeError,
)
from poolkeeper.server.interrupt import DeadlineExceededError
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.pace import Pace
from poolkeeper.server.status import (
    RULES,
    SQL_RULES,
    BodyTimeoutError,
    BodyTooLargeError,
    OperationInDoubtError,
    PausedError,
    ReadOnlyDeclaredError,
    ReadOnlyRefusedError,
    RequestInFlightError,
    ShutDownError,
    StartingError,
    TooManyBytesError,
    TransactionLostError,
    UnauthorizedError,
)
from poolkeeper.server.turned_away import (
    ForbiddenError,
    RateLimitedError,
    TooManyRequestsError,
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
    waiting=30,
    oldest_waiter_seconds=2.4,
    min_size=1,
    max_size=1,
)
STARTING = exceptions.DatabaseUnavailableError("down", next_attempt_seconds=0.2)
# As libpq reports a refused login: text alone, no SQLSTATE.
STARTING.__cause__ = psycopg.OperationalError(
    'connection to server at "127.0.0.1" failed: FATAL:  the database system is starting up'
)
ID = "018f3a5e-7a00-7000-8000-000000000001"

# error, status at /sql, status elsewhere, code, outcome
CASES = [
    (BadRequestError("what?", code="22021"), 400, 400, "22021", "not_executed"),
    (psycopg.errors.DivisionByZero("no"), 400, 400, "22012", "rolled_back"),
    (psycopg.errors.UniqueViolation("twice"), 400, 409, "23505", "rolled_back"),
    (psycopg.errors.ForeignKeyViolation("who?"), 400, 409, "23503", "rolled_back"),
    (psycopg.errors.ExclusionViolation("both"), 400, 409, "23P01", "rolled_back"),
    (psycopg.errors.SerializationFailure("again"), 400, 409, "40001", "rolled_back"),
    (psycopg.errors.DeadlockDetected("again"), 400, 409, "40P01", "rolled_back"),
    (psycopg.errors.InsufficientPrivilege("no"), 400, 403, "42501", "rolled_back"),
    (psycopg.errors.QueryCanceled("statement timeout"), 400, 504, "57014", "rolled_back"),
    (psycopg.errors.ReadOnlySqlTransaction("no"), 400, 503, "25006", "rolled_back"),
    (ReadOnlyRefusedError("no"), 400, 403, "25006", "rolled_back"),
    (ReadOnlyDeclaredError("no"), 400, 400, "25006", "rolled_back"),
    (DeadlineExceededError("too long"), 400, 504, "57014", "rolled_back"),
    (CopyRefusedError(), 400, 400, "0A000", "not_executed"),
    (UnauthorizedError("who?"), 400, 401, "28P01", "not_executed"),
    (ForbiddenError("no"), 400, 403, "42501", "not_executed"),
    (RateLimitedError("slow down", retry_after=2.5), 429, 429, "53300", "not_executed"),
    (TooManyRequestsError("slow down"), 429, 429, "53300", "not_executed"),
    (BodyTooLargeError(10), 413, 413, "54000", "not_executed"),
    (TooManyBytesError(10), 503, 503, "53200", "not_executed"),
    (BodyTimeoutError(30.0), 408, 408, "", "not_executed"),
    (ResultTooLargeError(10, executed=True), 507, 507, "54000", "executed"),
    (ResultTooLargeError(10, executed=False), 507, 507, "54000", "rolled_back"),
    (RequestInFlightError("busy"), 409, 409, "55P03", "not_executed"),
    (exceptions.TransactionAbortedError("declared"), 409, 409, "40000", "not_executed"),
    (exceptions.PoolTimeoutError("late", snapshot=SNAPSHOT), 503, 503, "53300", "not_executed"),
    (exceptions.PoolDeadlockError("stuck"), 503, 503, "53300", "not_executed"),
    (exceptions.PoolExhaustedError("full", snapshot=SNAPSHOT), 503, 503, "53300", "not_executed"),
    (exceptions.DatabaseUnavailableError("down"), 503, 503, "08001", "not_executed"),
    (STARTING, 503, 503, "57P03", "not_executed"),
    (exceptions.ConnectionValidationError("broken"), 503, 503, "08006", "not_executed"),
    (NothingSentError("gone"), 503, 503, "08006", "not_executed"),
    (PausedError(1.0), 503, 503, "57P03", "not_executed"),
    (StartingError(), 503, 503, "57P03", "not_executed"),
    (exceptions.PoolClosedError("closed"), 503, 503, "57P01", "not_executed"),
    (exceptions.LedgerUnavailableError("none"), 501, 501, "55000", "not_executed"),
    (operations.OperationNotFoundError("none"), 404, 404, "", "not_executed"),
    (operations.OperationConflictError("taken"), 409, 409, "", "not_executed"),
    (operations.OperationsUnavailableError("none"), 501, 501, "55000", "not_executed"),
    (operations.NotHereError("no file"), 422, 422, "", "not_executed"),
    (OperationInDoubtError("late"), 502, 502, "08007", "unknown"),
    # of the connections of operations
    (asyncpg.InsufficientPrivilegeError("no"), 400, 403, "42501", "rolled_back"),
    (asyncpg.UndefinedTableError("where?"), 400, 400, "42P01", "rolled_back"),
    (ShutDownError(), 503, 503, "57P01", "rolled_back"),
    (TransactionLostError("gone"), 503, 503, "08006", "rolled_back"),
    (exceptions.TransactionRolledBackError("gone"), 503, 503, "08006", "rolled_back"),
    (exceptions.TransactionTimeoutError("late"), 400, 504, "57014", "rolled_back"),
    (OutcomeUnknownError("gone"), 502, 502, "08007", "unknown"),
    (
        exceptions.TransactionOutcomeUnknownError("gone", transaction_id=ID),
        502,
        502,
        "08007",
        "unknown",
    ),
    (ZeroDivisionError("secret detail"), 500, 500, "XX000", "unknown"),
]
ERRORS = [case[0] for case in CASES]


def judged(error, seed=1, pace=None):
    return situation(error, request_id="r-1", random=Random(seed), pace=pace)


def neon(error, **options):
    return neon_answer(judged(error), **options)


def native(error):
    return problem_answer(judged(error))


@pytest.mark.parametrize(("error", "sql", "status", "code", "outcome"), CASES)
def test_each_failure_has_its_status_code_and_outcome(error, sql, status, code, outcome):
    """503 only where nothing took effect, 502 where nobody knows."""
    answer = neon(error)
    assert (answer.status, answer.body["code"], answer.body["outcome"]) == (sql, code, outcome)
    assert (answer.status == 502) == (outcome == "unknown" and code == "08007")
    problem = native(error)
    assert (problem.status, problem.body["code"]) == (status, code or None)
    assert problem.body["outcome"] == outcome
    if problem.status == 503:
        assert outcome in {"not_executed", "rolled_back"}


@pytest.mark.parametrize("error", ERRORS)
def test_each_answer_of_sql_has_neons_fields_and_the_problems(error):
    """One object for both kinds of client; Neon's fields are strings or null."""
    body = neon(error).body
    assert body.keys() >= NEON_FIELDS | {"type", "title", "status", "request_id"}
    assert all(body[name] is None or isinstance(body[name], str) for name in NEON_FIELDS)
    assert body["detail"]


@pytest.mark.parametrize("error", ERRORS)
def test_each_answer_elsewhere_is_a_problem(error):
    """RFC 9457's members, and the facts a program decides by."""
    answer = native(error)
    body = answer.body
    assert body["type"].startswith("urn:poolkeeper:problem:")
    assert (body["status"], body["instance"]) == (answer.status, "urn:poolkeeper:request:r-1")
    assert body["title"]
    assert body["detail"]
    assert isinstance(body["retryable"], bool)
    assert ("WWW-Authenticate" in answer.headers) == (answer.status == 401)


def test_every_row_of_the_table_is_covered_here():
    """A new row without a case would be untested."""
    assert set(RULES) <= {kind for error in ERRORS for kind in type(error).__mro__}
    codes = {error.sqlstate for error in ERRORS if isinstance(error, psycopg.Error)}
    assert set(SQL_RULES) <= codes


def test_what_may_be_sent_again_is_told_from_what_may_not():
    """Conflicts and every 503; never what may have taken effect."""
    again = {type(error).__name__ for error in ERRORS if native(error).body["retryable"]}
    assert {"SerializationFailure", "DeadlockDetected", "RequestInFlightError"} <= again
    for error in ERRORS:
        problem = native(error)
        if problem.status == 503:
            assert problem.body["retryable"]
        if problem.body["outcome"] in {"unknown", "executed"}:
            assert not problem.body["retryable"]


def test_retry_after_is_a_whole_number_from_one_and_only_where_trying_again_helps():
    """Never 0, not the same for everybody, not before the next attempt to reach the database."""
    for error in ERRORS:
        problem = native(error)
        expected = problem.status in {503, 429} or problem.body["type"].endswith("in-flight")
        assert ("Retry-After" in problem.headers) == expected, error
    soon = exceptions.DatabaseUnavailableError("down", next_attempt_seconds=7.3)
    assert {judged(soon, seed).retry_after for seed in range(50)} == {8, 9}
    unknown = exceptions.DatabaseUnavailableError("down")
    assert {judged(unknown, seed).retry_after for seed in range(50)} == {1}


@pytest.mark.parametrize("known", [0.1, 0.9, 1.2, 1.9, 2.5, 40.0])
def test_retry_after_is_never_more_than_twice_of_what_is_known(known):
    """Clients that wait longer than they must are an outage of our own making."""
    error = exceptions.DatabaseUnavailableError("down", next_attempt_seconds=known)
    for seed in range(50):
        assert known - 1 < judged(error, seed).retry_after <= 2 * max(1.0, known)


class SteadyPace(Pace):
    """Ten connections a second, say."""

    def __init__(self, per_second):
        super().__init__()
        self._rate = per_second

    def per_second(self):
        return self._rate


@pytest.mark.parametrize(
    ("per_second", "patience", "known"),
    [(1000.0, 30.0, 1.0), (10.0, 1.0, 2.0), (2.0, 5.0, 10.0), (0.1, 5.0, 10.0), (0.0, 5.0, 1.0)],
)
def test_a_queue_says_when_it_will_be_short_enough(per_second, patience, known):
    """Thirty wait; who comes back then is served within what this one was ready to wait."""
    error = exceptions.PoolTimeoutError("late", timeout=patience, snapshot=SNAPSHOT)
    for seed in range(50):
        seconds = judged(error, seed, SteadyPace(per_second)).retry_after
        assert known <= seconds <= known + 1


def test_infrastructure_failures_can_be_400_for_neons_clients():
    """They read the body of no other status; what it says stays the same."""
    error = exceptions.DatabaseUnavailableError("down")
    plain, shown = neon(error), neon(error, infra_status=400)
    assert (plain.status, shown.status) == (503, 400)
    assert shown.body == plain.body
    assert shown.headers["Retry-After"]
    assert neon(OutcomeUnknownError("gone"), infra_status=400).status == 400
    assert neon(BodyTooLargeError(1), infra_status=400).status == 413


def test_proxies_learn_what_failed_in_registered_words():
    """RFC 9209, for the failures it has words for."""
    assert native(OutcomeUnknownError("gone")).headers["Proxy-Status"] == (
        "poolkeeper; error=connection_terminated"
    )
    words = {native(error).headers.get("Proxy-Status", "").partition("=")[2] for error in ERRORS}
    assert words - {""} == {
        "connection_limit_reached",
        "connection_read_timeout",
        "connection_terminated",
        "destination_unavailable",
        "proxy_internal_error",
    }


def test_our_own_bugs_are_answered_without_details():
    """The log has them, under the id the answer names."""
    for answer in (neon(ZeroDivisionError("secret detail")), native(ZeroDivisionError("secret"))):
        assert "secret" not in str(answer.body)
        assert "r-1" in answer.message


def test_messages_say_what_became_of_the_request_before_the_suggestion():
    """One suggestion, at the end."""
    error = exceptions.PoolTimeoutError("Nobody came after 1.0s. Suggestion: be patient.")
    assert judged(error).message == (
        "Nobody came after 1.0s. The request was not executed. Suggestion: be patient."
    )
    said = exceptions.PoolExhaustedError("Full. The request was not executed. Go on.")
    assert judged(said).message.count("was not executed") == 1
    unknown = judged(OutcomeUnknownError("EOF detected\n\tThis probably means")).message
    assert "EOF detected. Whether the request took effect is unknown. Suggestion: " in unknown


def test_an_unknown_outcome_with_an_id_says_where_to_ask():
    """The id is in the body, too."""
    error = exceptions.TransactionOutcomeUnknownError(
        "Lost. Suggestion: `await pool.transaction_outcome(id)`.", transaction_id=ID
    )
    body = native(error).body
    assert body["transaction_id"] == ID
    assert body["detail"].endswith(f"Suggestion: ask GET /v1/transactions/{ID}.")


def test_a_draining_server_asks_for_a_new_connection():
    """Behind a load balancer that leads to another server."""
    draining = neon(exceptions.PoolClosedError("Closed. Suggestion: use `async with`."))
    headers = draining.headers
    assert (headers["Connection"], headers["Retry-After"]) == ("close", "1")
    assert draining.body["message"] == (
        "The server is shutting down. The request was not executed. Suggestion: send the request "
        "to another instance or again after Retry-After."
    )


OUTAGE = exceptions.DatabaseUnavailableError(
    "The database at app@db.internal:5432/x has been unreachable for 12.0 s: refused. Pool state: "
    "total=0. Suggestion: check that it runs.",
    outage_seconds=12.0,
    next_attempt_seconds=0.8,
)
OUTAGE.__cause__ = psycopg.OperationalError(
    'connection to server at "db.internal", port 5432 failed: Connection refused'
)
TIMEOUT = exceptions.PoolTimeoutError(
    "Connection acquisition timeout after 1.0s. Pool state: total=1. Held by task-1. The database "
    "at app@db.internal:5432/x has been unreachable for 3.0 s. Suggestion: try again later."
)
TIMEOUT.__cause__ = OUTAGE.__cause__
VALIDATION = exceptions.ConnectionValidationError(
    "Connection validation failed and no replacement could be opened: db.internal. Pool state: x."
)
LEDGER = exceptions.LedgerUnavailableError("The table cannot be created at app@db.internal: no.")
COMMIT_LOST = exceptions.TransactionOutcomeUnknownError(
    "Lost, and app@db.internal could not be asked.", transaction_id=ID
)


@pytest.mark.parametrize("error", [OUTAGE, TIMEOUT, VALIDATION, LEDGER, COMMIT_LOST])
def test_clients_are_not_told_where_the_database_is_nor_how_the_pool_does(error):
    """The log has it; they get the cause in words of our own, and what to do."""
    for answer in (neon(error), native(error)):
        told = str(answer.body)
        assert not any(
            word in told for word in ("db.internal", "app@", "5432", "Pool state", "Held")
        )
        assert answer.message.count("Suggestion: ") == 1


def test_an_outage_is_told_with_its_cause_its_age_and_the_next_attempt():
    """Once in the message, and by itself as detail."""
    body = neon(OUTAGE).body
    assert body["detail"] == "connection refused, for 12.0 s, next attempt in 0.8 s"
    assert body["message"].startswith(f"The database is unreachable: {body['detail']}. The request")
    assert "connection refused" in neon(TIMEOUT).body["message"]


def test_detail_does_not_repeat_the_message():
    """Both are shown by drivers."""
    for error in ERRORS:
        if not isinstance(error, psycopg.Error):
            body = neon(error).body
            assert body["detail"] != body["message"], error
            assert "Suggestion: " not in body["detail"]


def test_a_missing_ledger_is_not_to_be_asked_again():
    """Retrying does not make the table; the message says once that nothing was executed."""
    problem = native(LEDGER)
    assert (problem.status, problem.body["retryable"]) == (501, False)
    assert "Retry-After" not in problem.headers
    assert problem.message.count("executed") == 1
    assert "poolkeeper init-db" in problem.message
