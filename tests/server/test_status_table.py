"""The status table, row by row: real failures of a real server on a database that really breaks.

Every row is seen in both dialects: ``/sql``, where Neon's clients read the body of a 400 only, and
``/v1``, where the status says what happened.
"""

import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.server.processes import ServerProcess, active, barrier, until

TOKEN = {"Authorization": "Bearer let-me-in"}


class Both:
    """Sends the same to both dialects."""

    def __init__(self, server, headers=None):
        self.server = server
        self.headers = headers or {}

    def post(self, path, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.server.client.post(
            f"{self.server.url}{path}", content=content, headers={**self.headers, **headers}
        )

    def query(self, text, *params, **headers):
        body = {"query": text, "params": list(params)}
        return [self.post(path, body, **headers) for path in ("/sql", "/v1/query")]

    def transaction(self, *texts, **headers):
        queries = [{"query": text} for text in texts]
        return [
            self.post("/sql", {"queries": queries}, **headers),
            self.post("/v1/transaction", {"statements": queries}, **headers),
        ]

    def at_once(self, *texts, one=True, **headers):
        """Both at the same time, as futures."""
        body = {"query": texts[0]}
        if one:
            bodies = [("/sql", body), ("/v1/query", body)]
        else:
            queries = [{"query": text} for text in texts]
            bodies = [("/sql", {"queries": queries}), ("/v1/transaction", {"statements": queries})]
        return [self.others.submit(self.post, *each, **headers) for each in bodies]

    def __enter__(self):
        self.others = ThreadPoolExecutor()
        return self

    def __exit__(self, *_error):
        self.others.shutdown()


def check(answers, *, sql, native, code, kind, outcome, retry_after=False):
    """Both answers are this row of the table."""
    for answer, status in zip(answers, (sql, native), strict=True):
        body = answer.json()
        assert (answer.status_code, body["code"] or "") == (status, code), answer.text
        assert body["type"] == f"urn:poolkeeper:problem:{kind}"
        assert (body["status"], body["outcome"]) == (status, outcome)
        assert ("retry-after" in answer.headers) == retry_after
        if retry_after and status == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert "Suggestion: " in body.get("message", body["detail"])
            assert body["retryable"] is True
    assert answers[1].headers["content-type"] == "application/problem+json"
    if answers[1].status_code == 503:
        words = {"not_executed": "not executed", "rolled_back": "rolled back"}[outcome]
        assert words in answers[1].json()["detail"] or code == "25006"


@pytest.fixture(scope="module")
def schema(server):
    """Tables that can be violated."""
    server.sql("create table parent (id int primary key)")
    server.sql(
        "create table child (parent int not null references parent, n int check (n > 0),"
        " during int4range, exclude using gist (during with &&))"
    )
    server.sql("insert into parent values (1)")
    server.sql("insert into child values (1, 1, '[1,5)')")
    server.sql(
        "create function raised(code text) returns void language plpgsql as"
        " $$ begin raise exception 'no' using errcode = code; end $$"
    )
    server.sql(
        "create function not_allowed() returns void language plpgsql as"
        " $$ begin set local role pg_monitor; create schema x; end $$"
    )
    return server


@pytest.mark.parametrize(
    ("text", "code", "native", "kind"),
    [
        ("select 1/0", "22012", 400, "sql-error"),
        ("select * from nowhere", "42P01", 400, "sql-error"),
        ("select 1; select 2", "42601", 400, "sql-error"),
        ("insert into child values (null)", "23502", 400, "sql-error"),
        ("insert into child values (1, 0)", "23514", 400, "sql-error"),
        ("select raised('P0001')", "P0001", 400, "sql-error"),
        ("insert into parent values (1)", "23505", 409, "constraint-violation"),
        ("insert into child values (2)", "23503", 409, "constraint-violation"),
        ("insert into child values (1, 1, '[2,3)')", "23P01", 409, "constraint-violation"),
        ("select raised('40001')", "40001", 409, "transaction-conflict"),
        ("select raised('40P01')", "40P01", 409, "transaction-conflict"),
        ("select not_allowed()", "42501", 403, "insufficient-privilege"),
    ],
)
def test_what_postgresql_says_about_a_statement(schema, text, code, native, kind):
    """Always 400 at /sql; elsewhere the status fits."""
    answers = Both(schema).query(text)
    check(answers, sql=400, native=native, code=code, kind=kind, outcome="rolled_back")
    assert answers[1].json()["retryable"] == (kind == "transaction-conflict")


def test_what_is_not_understood(server):
    """400 in both."""
    both = Both(server)
    answers = [both.post(path, b"{") for path in ("/sql", "/v1/query")]
    check(answers, sql=400, native=400, code="", kind="bad-request", outcome="not_executed")


@pytest.fixture(scope="module")
def strict(postgres_server):
    """A server with little of everything, behind a token."""
    url = postgres_server.create_database("strict_table")
    with strict_server(url) as server:
        yield server.start()


def strict_server(url):
    options = (
        "--port=0",
        "--max-size=1",
        "--statement-timeout=0",
        "--max-request-bytes=1000",
        "--max-response-bytes=1000",
        "--drain-timeout=20",
    )
    env = {"POOLKEEPER_TOKEN": "let-me-in", "POOL_TIMEOUT": "0.6", "POOL_MAX_WAITING": "1"}
    server = ServerProcess(*options, database_url=url, env=env)
    server.database_url = url
    return server


def test_no_token_and_wrong_tokens(strict):
    """Neon's clients would not show the message of a 401."""
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answers = Both(strict, headers).query("select 1")
        row = {"code": "28P01", "kind": "unauthorized", "outcome": "not_executed"}
        check(answers, sql=400, native=401, **row)
        assert answers[1].headers["www-authenticate"].startswith("Bearer")


def test_too_large_a_request_or_response(strict):
    """413 and 507 in both, with the truth about what ran."""
    both = Both(strict, TOKEN)
    row = {"code": "54000", "kind": "request-too-large", "outcome": "not_executed"}
    check(both.query("select $1", "x" * 2000), sql=413, native=413, **row)
    answers = both.query("select repeat('x', 1000) from generate_series(1, 20000)")
    row = {"code": "54000", "kind": "response-too-large", "outcome": "rolled_back"}
    check(answers, sql=507, native=507, **row)


def test_the_deadline_of_a_request(strict):
    """57014, and 504 where it can be said."""
    answers = Both(strict, TOKEN).query("select pg_sleep(60)", **{"X-Timeout-Ms": "200"})
    row = {"code": "57014", "kind": "request-deadline", "outcome": "rolled_back"}
    check(answers, sql=400, native=504, **row)
    assert active(strict.database_url, "pg_sleep(60)") == 0


def test_the_time_limit_of_a_statement(strict):
    """The same for PostgreSQL's own limit."""
    queries = ["set local statement_timeout = '50ms'", "select pg_sleep(60)"]
    answers = Both(strict, TOKEN).transaction(*queries)
    row = {"code": "57014", "kind": "statement-canceled", "outcome": "rolled_back"}
    check(answers, sql=400, native=504, **row)


def holding(both, database_url):
    """One request holds the only connection until the barrier falls."""
    held = both.others.submit(
        both.post, "/sql", {"query": "select 'holder' from pg_advisory_lock(77)"}
    )
    until(lambda: active(database_url, "'holder'"))
    return held


def waiting(server):
    return server.get("/health").json()["database"]["pool"]["waiting"]


def test_a_full_queue_and_a_wait_in_vain(strict):
    """One waits too long, the next is turned away at once; both may come again."""
    with Both(strict, TOKEN) as both:
        with barrier(strict.database_url):
            held = holding(both, strict.database_url)
            late = []
            full = []
            for path in ("/sql", "/v1/query"):
                waiter = both.others.submit(both.post, path, {"query": "select 1"})
                until(lambda: waiting(strict) == 1)
                full.append(both.post(path, {"query": "select 1"}))
                late.append(waiter.result())
        assert held.result().status_code == 200
    again = {"sql": 503, "native": 503, "outcome": "not_executed", "retry_after": True}
    check(late, code="53300", kind="pool-timeout", **again)
    check(full, code="53300", kind="queue-full", **again)
    assert late[0].headers["proxy-status"] == "poolkeeper; error=connection_limit_reached"


def test_a_pause(strict):
    """Requests wait as in the queue, and are told why they waited in vain."""
    strict.client.post(f"{strict.url}/admin/pause", headers=TOKEN)
    try:
        answers = Both(strict, TOKEN).query("select 1")
    finally:
        strict.client.post(f"{strict.url}/admin/resume", headers=TOKEN)
    row = {"code": "57P03", "kind": "paused", "outcome": "not_executed", "retry_after": True}
    check(answers, sql=503, native=503, **row)


def test_a_client_that_is_gone(strict):
    """499 in the access log: nobody was there to be answered."""
    for path in ("/sql", "/v1/query"):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{strict.url}{path}",
                json={"query": "select pg_sleep(60)"},
                headers={**TOKEN, "X-Request-Id": f"gone-{path[-3:]}"},
                timeout=0.3,
            )
        until(lambda: active(strict.database_url, "pg_sleep(60)") == 0)
        while (line := strict.wait_for("request"))["request_id"] != f"gone-{path[-3:]}":
            pass
        assert line["status"] == 499


def test_a_drain(postgres):
    """Those who come are sent away; what runs may finish."""
    with strict_server(postgres.url) as server, Both(server.start(), TOKEN) as both:
        with barrier(postgres.url), contextlib.ExitStack() as connections:
            held = holding(both, postgres.url)
            host, port = server.url.removeprefix("http://").split(":")
            socks = []
            for path in ("/sql", "/v1/query"):
                sock = socket.create_connection((host, int(port)), timeout=60)
                socks.append((connections.enter_context(sock), path))
            server.signal()
            until(lambda: server.get("/readyz").status_code == 503)
            answers = [raw_query(sock, path) for sock, path in socks]
        assert held.result().status_code == 200
    for status, headers, body in answers:
        assert (status, body["code"], body["outcome"]) == (503, "57P01", "not_executed")
        assert (headers["retry-after"], headers["connection"]) == ("1", "close")


def raw_query(sock, path):
    """A request on a connection that was open before: status, headers, body."""
    body = b'{"query": "select 1"}'
    sock.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer let-me-in\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    with sock.makefile("rb") as stream:
        head, _, rest = stream.read().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, json.loads(rest)


# A database that breaks -----------------------------------------------------------------------


@pytest.fixture
def fragile(crashable_postgres):
    """A server whose database is for this test alone."""
    crashable_postgres.psql("create table t (a int)")
    env = {
        "POOL_OUTAGE_PATIENCE": "0.3",
        "POOL_TIMEOUT": "3",
    }
    url = crashable_postgres.dsn()
    options = ("--port=0", "--max-size=3", "--statement-timeout=0")
    with ServerProcess(*options, database_url=url, env=env) as server:
        server.postgres = crashable_postgres
        server.database_url = url
        yield server.start()


def test_a_database_that_crashes(fragile):
    """In the middle of everything: 502 where nobody can know, 503 where nothing stands."""
    postgres = fragile.postgres
    with Both(fragile) as both:
        with barrier(fragile.database_url) as conn:
            single = both.at_once("insert into t select 1 from pg_advisory_lock(77)")
            until(lambda: active(fragile.database_url, "pg_advisory_lock(77)") == 2)
            postgres.crash()
            del conn
        row = {"code": "08007", "kind": "outcome-unknown", "outcome": "unknown"}
        answers = [one.result() for one in single]
        check(answers, sql=502, native=502, **row)
        assert answers[0].headers["proxy-status"] == "poolkeeper; error=connection_terminated"
        until(lambda: both.query("select 1")[0].json()["code"] == "08001")
        answers = [*both.query("insert into t values (2)")]
        row = {"code": "08001", "kind": "database-unavailable", "outcome": "not_executed"}
        check(answers, sql=503, native=503, retry_after=True, **row)
        for answer in answers:
            body = answer.json()
            assert "The database is unreachable: " in body.get("message", body["detail"])
            assert "refused" in body["detail"]
        refused = Both(fragile).transaction("insert into t values (3)")
        check(refused, sql=503, native=503, retry_after=True, **row)
        postgres.start()
        until(lambda: both.query("select 1")[0].status_code == 200)
        assert both.query("select a from t")[1].json()["rows"] == []


def test_connections_lost_while_nobody_used_them(fragile):
    """Nothing was sent on them: another one is taken, and no client hears of it."""
    both = Both(fragile)
    for send in (both.query, both.transaction):
        for _ in range(3):
            fragile.postgres.psql(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
                " where application_name = 'poolkeeper'"
            )
            assert [answer.status_code for answer in send("select 1")] == [200, 200]


def test_a_connection_lost_in_the_middle_of_a_transaction(fragile):
    """Before COMMIT: nothing stands at /sql; elsewhere it was run again."""
    with Both(fragile) as both:
        with barrier(fragile.database_url):
            texts = ("insert into t values (1)", "select 'middle' from pg_advisory_lock(77)")
            running = both.at_once(*texts, one=False)
            until(lambda: active(fragile.database_url, "'middle'") == 2)
            fragile.postgres.terminate_backends(application_name="poolkeeper")
        batch, transaction = [one.result() for one in running]
        body = batch.json()
        assert (batch.status_code, body["code"], body["outcome"]) == (503, "08006", "rolled_back")
        assert body["type"] == "urn:poolkeeper:problem:transaction-lost"
        assert int(batch.headers["retry-after"]) >= 1
        assert transaction.status_code == 200
        [row] = both.query("select count(*)::int as n from t")[1].json()["rows"]
        assert row == {"n": 1}


def test_a_connection_lost_while_the_commit_runs(fragile):
    """502 at /sql; elsewhere the ledger tells what became of it."""
    psql = fragile.postgres.psql
    psql(
        "create function wait_at_commit() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_lock_shared(77); return null; end $$"
    )
    psql(
        "create constraint trigger wait after insert on t deferrable initially deferred"
        " for each row execute function wait_at_commit()"
    )
    with Both(fragile) as both:
        both.transaction("select 1")
        with barrier(fragile.database_url):
            running = both.at_once("insert into t values (1)", one=False)
            until(lambda: active(fragile.database_url, "commit") == 1)
            until(lambda: active(fragile.database_url, "COMMIT") == 1)
            fragile.postgres.terminate_backends(application_name="poolkeeper")
        batch, transaction = [one.result() for one in running]
        body = batch.json()
        assert (batch.status_code, body["code"], body["outcome"]) == (502, "08007", "unknown")
        assert (transaction.status_code, transaction.json()["outcome"]) == (200, "committed")
        name = transaction.json()["transaction_id"]
        assert fragile.get(f"/v1/transactions/{name}").json()["outcome"] == "committed"
        [row] = both.query("select count(*)::int as n from t")[1].json()["rows"]
        assert row == {"n": 1}


def test_a_primary_that_takes_no_more_writes(fragile):
    """25006 without having asked for it: another server is the primary now."""
    both = Both(fragile)
    psql = fragile.postgres.psql
    psql("alter system set default_transaction_read_only = on")
    psql("select pg_reload_conf()")
    refused = "show default_transaction_read_only"
    until(lambda: both.query(refused)[1].json()["rows"][0]["default_transaction_read_only"] == "on")
    row = {"code": "25006", "kind": "read-only-database", "outcome": "rolled_back"}
    answers = both.query("insert into t values (1)")
    check(answers, sql=400, native=503, retry_after=True, **row)


def test_a_database_that_falls_silent(fragile):
    """A statement it was given is in doubt, one it was not is not."""
    with Both(fragile) as both:
        with barrier(fragile.database_url):
            running = both.at_once("insert into t select 1 from pg_advisory_lock(77)")
            until(lambda: active(fragile.database_url, "pg_advisory_lock(77)") == 2)
            fragile.postgres.freeze()
            row = {"code": "08007", "kind": "outcome-unknown", "outcome": "unknown"}
            check([one.result() for one in running], sql=502, native=502, **row)
            until(lambda: both.query("select 1")[0].json()["code"] == "08001")
            row = {"code": "08001", "kind": "database-unavailable", "outcome": "not_executed"}
            answers = both.query("select 1")
            check(answers, sql=503, native=503, retry_after=True, **row)
            fragile.postgres.thaw()
        until(lambda: both.query("select 1")[0].status_code == 200)
