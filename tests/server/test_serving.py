"""A running server, seen from its clients."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from tests.server.processes import ServerProcess, active, barrier, until


def test_a_statement_returns_its_rows(server):
    """As `curl -d '{"query": …}'` sends it, without any header of Neon's."""
    answer = server.sql("select $1::int + 1 as n, 'x' as t", 41)
    assert answer.status_code == 200
    body = answer.json()
    assert body["rows"] == [{"n": 42, "t": "x"}]
    assert (body["command"], body["rowCount"]) == ("SELECT", 1)
    assert answer.headers["content-type"] == "application/json"
    assert "access-control-allow-origin" not in answer.headers
    assert "queue;dur=" in answer.headers["server-timing"]


def test_neons_client_gets_text_in_arrays(server):
    """With the headers and the content type it always sends."""
    answer = httpx.post(
        f"{server.url}/sql",
        content='{"query":"select $1::timestamptz,$2::int[],null","params":["2020-01-01","{1,2}"]}',
        headers={
            "Content-Type": "text/plain;charset=UTF-8",
            "Neon-Connection-String": f"{server.database_url}?sslmode=require",
            "Neon-Raw-Text-Output": "true",
            "Neon-Array-Mode": "true",
        },
    )
    body = answer.json()
    assert body["rows"][0][1:] == ["{1,2}", None]
    assert body["rows"][0][0].startswith("2020-01-01 00:00:00")
    assert [field["dataTypeID"] for field in body["fields"]] == [1184, 1007, 25]
    assert body["rowAsArray"] is True


def test_every_response_names_its_request(server):
    """Also failures; an id the client made is kept if it is harmless."""
    for path in ("/sql", "/livez", "/nowhere"):
        headers = server.get(path).headers
        assert headers["neon-request-id"] == headers["x-request-id"]
    assert server.sql("x", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert server.get("/", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("select 1/0", "22012"),
        ("selec 1", "42601"),
        ("select 1; select 2", "42601"),
        ("select * from nowhere", "42P01"),
        ("copy (select 1) to stdout", "0A000"),
    ],
)
def test_errors_of_a_statement_are_400_with_postgresqls_code(server, query, code):
    """Neon's clients read the body of no other status."""
    answer = server.sql(query)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert answer.json()["message"]


def test_an_error_carries_postgresqls_diagnostics(server):
    """All of Neon's fields, strings or null."""
    server.sql("create table things (a int constraint positive check (a > 0))")
    body = server.sql("insert into things values (-1)").json()
    assert (body["table"], body["constraint"], body["severity"]) == ("things", "positive", "ERROR")
    assert "-1" in body["detail"]
    assert (body["hint"], body["position"]) == (None, None)
    assert server.sql("select oops").json()["position"] == "8"


def test_a_batch_is_one_transaction(server):
    """All of it or nothing of it."""

    def batch(*queries, **headers):
        body = {"queries": [{"query": query} for query in queries]}
        return httpx.post(f"{server.url}/sql", json=body, headers=headers)

    assert batch("create table b (a int)", "insert into b values (1)").status_code == 200
    failed = batch("insert into b values (2)", "select 1/0", "insert into b values (3)")
    assert (failed.status_code, failed.json()["code"]) == (400, "22012")
    assert server.sql("select a from b").json()["rows"] == [{"a": 1}]
    level = batch("show transaction_isolation", **{"Neon-Batch-Isolation-Level": "Serializable"})
    assert level.json()["results"][0]["rows"] == [{"transaction_isolation": "serializable"}]
    refused = batch("insert into b values (4)", **{"Neon-Batch-Read-Only": "true"})
    assert refused.json()["code"] == "25006"
    assert batch().json() == {"results": []}


def test_a_batch_may_not_end_its_own_transaction(server):
    """Its row would stand although the answer says that everything was rolled back."""
    server.sql("create table own_commit (a int)")

    def batch(*queries):
        body = {"queries": [{"query": query} for query in queries]}
        return httpx.post(f"{server.url}/sql", json=body)

    refused = batch(
        "insert into own_commit values (1)",
        "/* /* nested */ */ ; -- x\nCommit",
        "select pg_terminate_backend(pg_backend_pid())",
    )
    body = refused.json()
    assert (refused.status_code, body["code"], body["outcome"]) == (400, "2D000", "not_executed")
    assert "Entry 2 of `queries` is COMMIT" in body["message"]
    assert server.sql("select a from own_commit").json()["rows"] == []
    kept = batch(
        "insert into own_commit values (1)",
        "savepoint s",
        "insert into own_commit values (2)",
        "rollback to s",
        "release s",
    )
    assert kept.status_code == 200
    assert server.sql("select a from own_commit").json()["rows"] == [{"a": 1}]


def test_nothing_of_a_request_reaches_the_next_one(server):
    """Whatever they leave behind in the connection they share."""
    for leftover in (
        "set application_name = 'left over'",
        "set role pg_monitor",
        "create temp table left_over (a int)",
        "select pg_advisory_lock(1)",
        "listen left_over",
        "select set_config('statement_timeout', '0', false)",
    ):
        assert server.sql(leftover).status_code == 200
    [row] = server.sql(
        "select current_setting('application_name') as name,"
        " current_setting('statement_timeout') as timeout,"
        " current_user = session_user as own_role,"
        " to_regclass('left_over') as temporary,"
        " (select count(*)::int from pg_locks where locktype = 'advisory') as locks,"
        " (select count(*)::int from pg_listening_channels()) as channels"
    ).json()["rows"]
    assert row == {
        "name": "poolkeeper",
        "timeout": "5s",
        "own_role": True,
        "temporary": None,
        "locks": 0,
        "channels": 0,
    }


def test_a_slow_statement_is_ended_by_its_time_limit(postgres):
    """The server's default is 5 s, a request's is 30 s; both are options."""
    options = ("--port=0", "--statement-timeout=0.05")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        answer = server.sql("select pg_sleep(60)")
        assert (answer.status_code, answer.json()["code"]) == (400, "57014")
    options = ("--port=0", "--statement-timeout=0", "--request-timeout=0.2")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        answer = server.sql("select pg_sleep(60)")
        assert (answer.status_code, answer.json()["code"]) == (400, "57014")
        assert "0.2 s" in answer.json()["message"]
        assert active(postgres.url, "pg_sleep(60)") == 0


def test_a_client_that_leaves_takes_its_statement_along(postgres):
    """The statement is cancelled in the database, not left to run for nobody."""
    with ServerProcess(
        "--port=0", "--statement-timeout=0", "--max-size=1", database_url=postgres.url
    ) as server:
        server.start()
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/sql", json={"query": "select pg_sleep(60)"}, timeout=0.5)
        assert server.sql("select 1 as one").json()["rows"] == [{"one": 1}]
        until(lambda: active(postgres.url, "pg_sleep(60)") == 0)
        metrics = server.get("/metrics").text
        assert 'poolkeeper_queries_cancelled_total{reason="client_gone"} 1.0' in metrics


def test_a_client_that_leaves_while_waiting_gives_up_its_place(postgres):
    """Its statement is never run."""
    options = ("--port=0", "--max-size=1", "--statement-timeout=0")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        server.sql("create table t (a int)")
        with ThreadPoolExecutor() as others:
            with barrier(postgres.url):
                holder = others.submit(server.sql, "select from pg_advisory_lock(77)")
                until(lambda: active(postgres.url, "pg_advisory_lock(77)"))
                insert = {"query": "insert into t values (1)"}
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(f"{server.url}/sql", json=insert, timeout=0.2)
                until(lambda: server.get("/health").json()["database"]["pool"]["waiting"] == 0)
            assert holder.result().status_code == 200
        assert server.sql("select count(*) from t").json()["rows"] == [{"count": "0"}]


def test_a_full_pool_answers_503_after_its_timeout(postgres):
    """Not executed, with a code, and when to come back."""
    options = ("--port=0", "--max-size=1", "--statement-timeout=0")
    env = {"POOL_TIMEOUT": "0.3"}
    with ServerProcess(*options, database_url=postgres.url, env=env) as server:
        server.start()
        with ThreadPoolExecutor() as others:
            with barrier(postgres.url):
                holder = others.submit(server.sql, "select from pg_advisory_lock(77)")
                until(lambda: active(postgres.url, "pg_advisory_lock(77)"))
                answer = server.sql("select 1")
                ready = server.get("/readyz")
            assert holder.result().status_code == 200
    body = answer.json()
    assert (answer.status_code, body["code"], body["outcome"]) == (503, "53300", "not_executed")
    assert int(answer.headers["retry-after"]) >= 1
    assert "was not executed" in body["message"]
    assert "Pool state" not in answer.text
    assert ready.status_code == 200


def test_requests_and_results_have_limits(postgres):
    """413 before anything runs; 507 with the truth about what ran."""
    options = ("--port=0", "--max-request-bytes=1000", "--max-response-bytes=10000")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        assert server.sql("select $1", "x" * 2000).status_code == 413
        answer = server.sql("select repeat('x', 1000) from generate_series(1, 1000)")
        assert (answer.status_code, answer.json()["code"]) == (507, "54000")
        server.sql("create table t (a text)")
        answer = server.sql("insert into t select repeat('x', 20000) returning a")
        assert (answer.status_code, answer.json()["outcome"]) == (507, "executed")
        assert "was executed" in answer.json()["message"]
        assert server.sql("select count(*) from t").json()["rows"] == [{"count": "1"}]


def test_fifty_clients_share_a_small_pool(server):
    """Everybody is served, nobody is turned away."""
    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(lambda n: server.sql("select $1::int as n", n), range(200)))
    assert [answer.json()["rows"][0]["n"] for answer in answers] == list(range(200))


def test_probes_and_metrics_answer(server):
    """Each in its own form."""
    assert server.get("/livez").text == "ok\n"
    assert server.get("/readyz").text == "ok\n"
    assert server.get("/startupz").text == "ok\n"
    health = server.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    assert health.json()["database"]["status"] == "connected"
    server.get("/somewhere")
    metrics = server.get("/metrics")
    # Other tests ask for what is not there, too.
    assert re.search(r'http_requests_total\{code="404",route="other"\} [1-9]', metrics.text)
    assert "poolkeeper_pool_connections" in metrics.text
    openmetrics = server.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert openmetrics.text.endswith("# EOF\n")


def test_what_is_not_there_is_said_with_a_suggestion(server):
    """As problem+json; WebSockets get the way out."""
    for path, status in (("/nowhere", 404), ("/v2", 501)):
        answer = server.get(path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Suggestion: " in answer.json()["detail"]
    assert server.get("/sql").status_code == 405
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert server.get("/v2", headers=upgrade).status_code == 501


def test_browsers_may_ask_before_they_send(server):
    """With every header of Neon's clients."""
    answer = httpx.options(f"{server.url}/sql")
    assert answer.status_code == 200
    assert answer.headers["allow"] == "OPTIONS, POST"
    assert "Neon-Batch-Deferrable" in answer.headers["access-control-allow-headers"]


def test_pages_from_elsewhere_cannot_use_a_server_without_a_token(server):
    """A browser would let them: the request is a simple one, and the address is always the same."""
    server.sql("create table h (a int)")
    hostile = server.sql("insert into h values (1)", headers={"Origin": "https://evil.example"})
    assert hostile.status_code == 400
    assert "access-control-allow-origin" not in hostile.headers
    own = server.sql("select count(*) from h", headers={"Origin": "http://localhost:5173"})
    assert own.json()["rows"] == [{"count": "0"}]
    # It may use the server, and its browser keeps the answer from it: CORS is off.
    assert "access-control-allow-origin" not in own.headers


def test_a_token_is_asked_for_everywhere_but_at_the_probes(postgres):
    """400 where Neon's clients look for the message, 401 elsewhere."""
    token = {"POOLKEEPER_TOKEN": "s3cret"}
    with ServerProcess("--port=0", database_url=postgres.url, env=token) as server:
        server.start()
        right = {"Authorization": "Bearer s3cret"}
        assert server.sql("select 1", headers=right).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            answer = server.sql("select 1", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "28P01")
            assert server.get("/metrics", headers=headers).status_code == 401
        assert server.get("/metrics", headers=right).status_code == 200
        for probe in ("/livez", "/readyz", "/startupz", "/health"):
            assert server.get(probe).status_code == 200
        server.signal()
        _code, log = server.end()
    assert "s3cret" not in log


def test_a_request_that_ends_early_does_no_harm(server):
    """Half a body, then nothing."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"POST /sql HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert server.sql("select 1").status_code == 200


def test_a_body_that_does_not_arrive_is_given_up_at_the_request_timeout(postgres):
    """One byte of a hundred: answered, and the connection closed."""
    options = ("--port=0", "--request-timeout=0.3")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as sock:
            sock.sendall(b"POST /sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            with sock.makefile("rb") as stream:
                answer = stream.read().decode()
        assert answer.startswith("HTTP/1.1 408 ")
        assert "urn:poolkeeper:problem:request-timeout" in answer
        assert "within 0.3 s" in answer
        assert server.sql("select 1").status_code == 200


def test_connections_lost_while_idle_cost_no_request(server):
    """They are noticed before anything is sent, and replaced."""
    with psycopg.connect(server.database_url, autocommit=True) as conn:
        for _ in range(5):
            conn.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where application_name = 'poolkeeper' and datname = current_database()"
            )
            assert server.sql("select 1").status_code == 200


def test_a_connection_lost_while_a_statement_runs_is_502(server):
    """The outcome is unknown, and the answer says so."""
    with ThreadPoolExecutor() as others, barrier(server.database_url):
        running = others.submit(server.sql, "select 'lost' from pg_advisory_lock(77)")
        until(lambda: active(server.database_url, "'lost' from"))
        with psycopg.connect(server.database_url, autocommit=True) as conn:
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where query like '%''lost'' from%' and pid <> pg_backend_pid()"
            )
        answer = running.result()
    body = answer.json()
    assert (answer.status_code, body["code"], body["outcome"]) == (502, "08007", "unknown")
    assert "retry-after" not in answer.headers
    assert server.sql("select 1").status_code == 200


def kill(url, text):
    """End the backends that run a statement with this text."""
    query = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where query like %s and state = 'active' and pid <> pg_backend_pid()"
    )
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(query, [f"%{text}%"])


def test_a_batch_that_loses_its_connection_before_commit_is_rolled_back(server):
    """That much is certain: 503, and the client may send it again."""
    server.sql("create table lost (a int)")
    queries = [
        {"query": "insert into lost values (1)"},
        {"query": "select 'in between' from pg_advisory_lock(77)"},
    ]
    with ThreadPoolExecutor() as others, barrier(server.database_url):
        running = others.submit(server.client.post, f"{server.url}/sql", json={"queries": queries})
        until(lambda: active(server.database_url, "'in between'"))
        kill(server.database_url, "'in between'")
        answer = running.result()
    body = answer.json()
    assert (answer.status_code, body["code"], body["outcome"]) == (503, "08006", "rolled_back")
    assert int(answer.headers["retry-after"]) >= 1
    assert server.sql("select a from lost").json()["rows"] == []


def test_a_batch_that_loses_its_connection_during_commit_is_502(server):
    """The commit may have been made: nobody can tell from here."""
    server.sql("create table slow (a int)")
    server.sql(
        "create function wait_at_commit() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_lock(77); return null; end $$"
    )
    server.sql(
        "create constraint trigger wait after insert on slow deferrable initially deferred"
        " for each row execute function wait_at_commit()"
    )
    queries = {"queries": [{"query": "insert into slow values (1)"}]}
    with ThreadPoolExecutor() as others, barrier(server.database_url):
        running = others.submit(server.client.post, f"{server.url}/sql", json=queries)
        until(lambda: active(server.database_url, "COMMIT"))
        kill(server.database_url, "COMMIT")
        answer = running.result()
    body = answer.json()
    assert (answer.status_code, body["code"], body["outcome"]) == (502, "08007", "unknown")
