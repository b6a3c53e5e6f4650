"""The native API on a running server."""

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from tests.server.processes import ServerProcess, active, barrier, until

NDJSON = {"Accept": "application/x-ndjson"}


def query(server, text, *params, headers=None, **members):
    body = {"query": text, "params": list(params), **members}
    return server.client.post(f"{server.url}/v1/query", json=body, headers=headers)


def transaction(server, *statements, key=None, **members):
    body = {
        "statements": [
            {"query": statement} if isinstance(statement, str) else statement
            for statement in statements
        ],
        **members,
    }
    headers = {"Idempotency-Key": key} if key else {}
    return server.client.post(f"{server.url}/v1/transaction", json=body, headers=headers)


def outcome(server, key):
    answer = server.get(f"/v1/transactions/{key}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["outcome"]


def rows(server, text):
    return query(server, text, rows="arrays").json()["rows"]


@pytest.fixture
def table(server):
    """An empty table of its own."""
    name = f"t_{uuid4().hex[:8]}"
    assert query(server, f"create table {name} (id int primary key)").status_code == 200
    return name


# /v1/query ------------------------------------------------------------------------------------


def test_a_query_returns_columns_and_rows(server):
    """Values as JSON has them; text where JSON would lose digits."""
    answer = query(server, "select $1::int as n, 'x'::text as t, 12345678901::int8 as big", 7)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "columns": [
            {"name": "n", "type_oid": 23, "type": "int4"},
            {"name": "t", "type_oid": 25, "type": "text"},
            {"name": "big", "type_oid": 20, "type": "int8"},
        ],
        "rows": [{"n": 7, "t": "x", "big": "12345678901"}],
        "row_count": 1,
        "command": "SELECT",
    }


def test_rows_can_be_arrays(server):
    """Which also keeps columns of one name apart."""
    answer = query(server, "select 1 as a, array[true, null] as a", rows="arrays")
    assert answer.json()["rows"] == [[1, [True, None]]]
    assert answer.json()["columns"][1]["type"] == "bool[]"
    assert query(server, "select 1 as a, 2 as a").json()["rows"] == [{"a": 2}]


def test_commands_without_rows_say_what_they_did(server, table):
    """The count is null where PostgreSQL gives none."""
    created = query(server, "create temp table x (a int)").json()
    assert created == {"columns": [], "rows": [], "row_count": None, "command": "CREATE TABLE"}
    inserted = query(server, f"insert into {table} select generate_series(1, 3)").json()
    assert (inserted["row_count"], inserted["command"]) == (3, "INSERT")


def test_a_readonly_query_cannot_write(server, table):
    """Not even after it tried to become a writing one."""
    refused = query(server, f"insert into {table} values (1)", readonly=True)
    assert (refused.status_code, refused.json()["code"]) == (400, "25006")
    assert query(server, "select 1 as one", readonly=True).json()["rows"] == [{"one": 1}]
    ended = query(server, "commit", readonly=True)
    assert (ended.status_code, ended.json()["code"]) == (400, "2D000")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"query": 1}',
        b'{"query": "select 1", "params": {}}',
        b'{"query": "select 1", "rows": "lists"}',
        b'{"query": "select 1", "readonly": "yes"}',
        b'{"query": "select 1", "read_only": true}',
        b'{"query": "select 1\\u0000"}',
        b'{"query": "\\ud800"}',
        b'{"statements": []}',
    ],
)
def test_what_is_not_understood_is_refused_before_anything_runs(server, body):
    """A misspelt member, too: it may have been meant to keep something from being done."""
    answer = server.client.post(f"{server.url}/v1/query", content=body)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["outcome"]) == (400, "not_executed")
    assert problem["type"] == "urn:poolkeeper:problem:bad-request"
    assert problem["instance"] == f"urn:poolkeeper:request:{answer.headers['x-request-id']}"
    assert "Suggestion: " in problem["detail"]


def test_errors_of_a_statement_are_problems_with_postgresqls_facts(server, table):
    """What a program needs has names; the status says what kind of failure it is."""
    query(server, f"insert into {table} values (1)")
    answer = query(server, f"insert into {table} values (1)")
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (409, 409, "23505")
    assert problem["type"] == "urn:poolkeeper:problem:constraint-violation"
    assert problem["postgres"]["constraint"] == f"{table}_pkey"
    assert problem["postgres"]["detail"] == "Key (id)=(1) already exists."
    assert (problem["outcome"], problem["retryable"]) == ("rolled_back", False)
    assert query(server, "selec 1").json()["postgres"]["position"] == "1"


# /v1/transaction ------------------------------------------------------------------------------


def test_a_transaction_takes_effect_as_a_whole(server, table):
    """Results in order, and an id to ask for."""
    answer = transaction(
        server,
        {"query": f"insert into {table} values ($1)", "params": [1]},
        f"select count(*)::int as n from {table}",
    )
    body = answer.json()
    assert (answer.status_code, body["outcome"]) == (200, "committed")
    assert [one["row_count"] for one in body["results"]] == [1, 1]
    assert body["results"][1]["rows"] == [{"n": 1}]
    assert UUID(body["transaction_id"]).version == 7
    assert outcome(server, body["transaction_id"]) == "committed"
    failed = transaction(server, f"insert into {table} values (2)", "select 1/0")
    assert (failed.status_code, failed.json()["code"]) == (400, "22012")
    assert rows(server, f"select id from {table}") == [[1]]


def test_a_transaction_has_its_isolation_and_modes(server):
    """As PostgreSQL names them, in either spelling."""
    shown = transaction(
        server,
        "show transaction_isolation",
        "show transaction_read_only",
        "show transaction_deferrable",
        isolation="repeatable_read",
        readonly=True,
        deferrable=True,
        rows="arrays",
    )
    body = shown.json()
    assert [one["rows"] for one in body["results"]] == [[["repeatable read"]], [["on"]], [["on"]]]
    assert body["transaction_id"] is None
    assert transaction(server, isolation="chaos").status_code == 400
    assert transaction(server).json()["results"] == []


def test_a_transaction_may_not_end_itself(server, table):
    """What stands then could not be said to be rolled back."""
    refused = transaction(server, f"insert into {table} values (1)", "commit")
    assert (refused.status_code, refused.json()["code"]) == (400, "2D000")
    assert rows(server, f"select id from {table}") == []


def test_a_key_makes_a_transaction_happen_once(server, table):
    """The second time it is said that it has happened; results are not kept."""
    statement = f"insert into {table} values (1)"
    first = transaction(server, statement, key="order 4711")
    again = transaction(server, statement, key="order 4711")
    assert (first.status_code, again.status_code) == (200, 200)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == {
        "transaction_id": first.json()["transaction_id"],
        "outcome": "committed",
        "results": None,
    }
    assert rows(server, f"select id from {table}") == [[1]]
    assert outcome(server, "order 4711") == "committed"


def test_a_single_query_can_have_a_key(server, table):
    """A UUID is the id of the transaction itself, also as the quoted string of the draft."""
    key = str(uuid4())
    statement = f"insert into {table} values (1) returning id"
    first = query(server, statement, headers={"Idempotency-Key": key}).json()
    assert (first["transaction_id"], first["outcome"]) == (key, "committed")
    assert first["rows"] == [{"id": 1}]
    again = query(server, statement, headers={"Idempotency-Key": f'"{key}"'})
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.json()["transaction_id"], again.json()["rows"]) == (key, None)
    assert rows(server, f"select count(*)::int from {table}") == [[1]]


def test_a_failed_transaction_leaves_its_key_free(server, table):
    """It had no effect, so the same request may be sent again once it can succeed."""
    key = str(uuid4())
    query(server, f"insert into {table} values (1)")
    assert transaction(server, f"insert into {table} values (1)", key=key).status_code == 409
    query(server, f"delete from {table}")
    again = transaction(server, f"insert into {table} values (1)", key=key)
    assert again.status_code == 200
    assert "idempotent-replayed" not in again.headers


def test_asking_makes_the_outcome_final(server, table):
    """What was not committed by then never will be."""
    key = str(uuid4())
    assert outcome(server, key) == "aborted"
    late = transaction(server, f"insert into {table} values (1)", key=key)
    problem = late.json()
    assert (late.status_code, problem["code"]) == (409, "40000")
    assert problem["type"] == "urn:poolkeeper:problem:transaction-aborted"
    assert problem["detail"].endswith("Suggestion: use a new Idempotency-Key.")
    assert rows(server, f"select id from {table}") == []
    assert outcome(server, key) == "aborted"


def test_one_key_is_not_at_work_twice(server, table):
    """The second is told to come again while the first is being worked on."""
    key = str(uuid4())
    statements = [f"insert into {table} values (1)", "select 'first' from pg_advisory_lock(77)"]
    with ThreadPoolExecutor() as others:
        with barrier(server.database_url):
            first = others.submit(transaction, server, *statements, key=key)
            until(lambda: active(server.database_url, "'first' from"))
            second = transaction(server, *statements, key=key)
        assert first.result().status_code == 200
    problem = second.json()
    assert (second.status_code, problem["outcome"]) == (409, "not_executed")
    assert problem["type"] == "urn:poolkeeper:problem:request-in-flight"
    assert int(second.headers["retry-after"]) >= 1
    assert transaction(server, *statements, key=key).headers["idempotent-replayed"] == "true"
    assert rows(server, f"select id from {table}") == [[1]]


def test_one_key_at_two_servers_takes_effect_once(server, table):
    """They know nothing of each other; the ledger does."""
    key = str(uuid4())
    statements = [f"insert into {table} values (1)", "select 'first' from pg_advisory_lock(77)"]
    with (
        ServerProcess("--port=0", "--max-size=2", database_url=server.database_url) as other,
        ThreadPoolExecutor() as others,
    ):
        other.start()
        with barrier(server.database_url):
            first = others.submit(transaction, server, *statements, key=key)
            until(lambda: active(server.database_url, "'first' from"))
            second = transaction(other, f"insert into {table} values (2)", key=key)
        answers = [first.result(), second]
    assert [answer.status_code for answer in answers] == [200, 200]
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert replayed == ["true", None]
    assert rows(server, f"select id from {table}") == [[2]]


@pytest.mark.parametrize("key", ["x" * 256, "caf\u00e9".encode(), b"tab\there"])
def test_a_key_is_short_and_printable(server, key):
    """Others are refused before anything runs."""
    answer = server.client.post(
        f"{server.url}/v1/transaction", json={"statements": []}, headers={b"Idempotency-Key": key}
    )
    assert (answer.status_code, answer.json()["outcome"]) == (400, "not_executed")


def test_a_key_too_old_to_be_remembered_is_refused(server):
    """Whether it was used before cannot be known."""
    old = "01000000-0000-7000-8000-000000000000"
    answer = transaction(server, "select 1", key=old)
    assert (answer.status_code, answer.json()["type"]) == (
        400,
        "urn:poolkeeper:problem:bad-request",
    )
    assert server.get(f"/v1/transactions/{old}").status_code == 400


def test_reading_needs_no_key_and_cannot_have_one(server):
    """Nothing would be found by it."""
    answer = transaction(server, "select 1", key="k", readonly=True)
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]


def test_a_conflict_is_run_again_by_the_server(server, table):
    """Serialization failures are its business, as long as the deadline allows."""
    query(server, f"insert into {table} values (1)")
    statements = [
        f"select sum(id) from {table}",
        "select 'both' from pg_advisory_xact_lock_shared(77)",
        f"update {table} set id = id + 1",
    ]
    with ThreadPoolExecutor() as others:
        with barrier(server.database_url):
            running = [
                others.submit(transaction, server, *statements, isolation="serializable")
                for _ in range(2)
            ]
            until(lambda: active(server.database_url, "'both' from") == 2)
        answers = [one.result() for one in running]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert rows(server, f"select id from {table}") == [[3]]


def test_a_transaction_whose_connection_is_lost_is_run_again(server, table):
    """Nothing of the first attempt stands; the client never hears of it."""
    statements = [
        f"insert into {table} values (1)",
        "select 'doomed' from pg_advisory_lock_shared(77)",
    ]
    with ThreadPoolExecutor() as others:
        with barrier(server.database_url):
            running = others.submit(transaction, server, *statements)
            until(lambda: active(server.database_url, "'doomed' from"))
            with psycopg.connect(server.database_url, autocommit=True) as conn:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where query like '%''doomed'' from%' and pid <> pg_backend_pid()"
                )
        answer = running.result()
    assert answer.status_code == 200, answer.text
    assert rows(server, f"select id from {table}") == [[1]]


def test_a_client_that_leaves_takes_its_transaction_along(server, table):
    """Rolled back, and its key is free."""
    key = str(uuid4())
    statements = [
        {"query": f"insert into {table} values (1)"},
        {"query": "select 'leaving', pg_sleep(60)"},
    ]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/transaction",
            json={"statements": statements},
            headers={"Idempotency-Key": key},
            timeout=0.5,
        )
    until(lambda: active(server.database_url, "'leaving'") == 0)
    until(lambda: transaction(server, "select 1", key=key).status_code == 200)
    assert rows(server, f"select id from {table}") == []


def test_a_transaction_ends_at_its_deadline(server, table):
    """504: rolled back, and the message says after which time."""
    body = {
        "statements": [
            {"query": f"insert into {table} values (1)"},
            {"query": "select pg_sleep(60)"},
        ]
    }
    answer = server.client.post(
        f"{server.url}/v1/transaction", json=body, headers={"X-Timeout-Ms": "400"}
    )
    problem = answer.json()
    assert (answer.status_code, problem["outcome"]) == (504, "rolled_back")
    assert problem["type"] == "urn:poolkeeper:problem:request-deadline"
    assert "0.4 s" in problem["detail"]
    assert rows(server, f"select id from {table}") == []


def test_a_result_too_large_is_rolled_back_with_its_transaction(postgres):
    """Nobody would know what had been done."""
    options = ("--port=0", "--max-response-bytes=10000")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        query(server, "create table big (a text)")
        answer = transaction(
            server, "insert into big select repeat('x', 20000) returning a", key="big"
        )
        assert (answer.status_code, answer.json()["outcome"]) == (507, "rolled_back")
        assert rows(server, "select a from big") == []


def test_a_ledger_that_cannot_be_made_is_named(postgres_server):
    """With the command that makes it; nothing was executed."""
    name = f"strict_{uuid4().hex[:12]}"
    url = postgres_server.create_database(name)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create table t (a int)")
        conn.execute(f"create role {name} login password 'pw'")
        conn.execute(f"grant insert, select on t to {name}")
    strict = psycopg.conninfo.conninfo_to_dict(url)
    restricted = f"postgresql://{name}:pw@{strict['host']}:{strict['port']}/{strict['dbname']}"
    with ServerProcess("--port=0", database_url=restricted) as server:
        server.start()
        answer = transaction(server, "insert into t values (1)")
        problem = answer.json()
        assert (answer.status_code, problem["outcome"]) == (501, "not_executed")
        assert problem["type"] == "urn:poolkeeper:problem:ledger-unavailable"
        assert "poolkeeper init-db" in problem["detail"]
        assert ":pw@" not in answer.text
        assert transaction(server, "select count(*) from t", readonly=True).status_code == 200


# What both have in common ---------------------------------------------------------------------


@pytest.mark.parametrize("given", ["0", "-1", "soon", "1.5", "", "٣"])
def test_a_deadline_is_a_number_of_milliseconds(server, given):
    """Anything else is refused rather than ignored."""
    headers = {"X-Timeout-Ms": given.encode()}
    for path in ("/v1/query", "/sql"):
        answer = server.client.post(
            f"{server.url}{path}", json={"query": "select 1"}, headers=headers
        )
        assert answer.status_code == 400
        body = answer.json()
        assert "X-Timeout-Ms" in body.get("message", body["detail"])


def test_a_client_can_only_shorten_the_deadline(postgres):
    """The server's limit stays."""
    options = ("--port=0", "--statement-timeout=0", "--request-timeout=0.3")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        for given in ({"X-Timeout-Ms": "60000"}, {"X-Timeout-Ms": "200"}):
            answer = query(server, "select pg_sleep(60)", headers=given)
            assert answer.status_code == 504
            limit = min(0.3, int(given["X-Timeout-Ms"]) / 1000)
            assert f"longer than {limit:g} s" in answer.json()["detail"]


def test_failures_say_where_their_time_went(server):
    """As successes do."""
    timing = query(server, "select 1/0").headers["server-timing"]
    assert "queue;dur=" in timing
    assert "db;dur=" in timing
    assert "serialize;dur=" in query(server, "select 1").headers["server-timing"]


# Streams --------------------------------------------------------------------------------------


def lines(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_stream_has_columns_rows_and_an_end(server):
    """One JSON object a line; without the end it is not complete."""
    answer = query(server, "select generate_series(1, 3) as n", headers=NDJSON)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines(answer) == [
        {"columns": [{"name": "n", "type_oid": 23, "type": "int4"}]},
        {"row": {"n": 1}},
        {"row": {"n": 2}},
        {"row": {"n": 3}},
        {"end": {"row_count": 3, "command": "SELECT"}},
    ]
    empty = query(server, "select 1 as n where false", headers=NDJSON, rows="arrays")
    assert [next(iter(line)) for line in lines(empty)] == ["columns", "end"]


def test_a_stream_may_write_and_ends_after_the_commit(server, table):
    """All or nothing; the end is the receipt."""
    text = f"insert into {table} select generate_series(1, 200) returning id"
    assert lines(query(server, text, headers=NDJSON))[-1]["end"]["row_count"] == 200
    text = f"insert into {table} select 300 / (2 - n) from generate_series(1, 3) n returning id"
    failed = lines(query(server, text, headers=NDJSON))[-1]
    assert failed.get("error", failed)["code"] == "22012"
    assert rows(server, f"select count(*)::int from {table}") == [[200]]


def test_a_failure_before_the_first_row_has_its_status(server):
    """Nothing was sent yet, so it is told as everywhere else."""
    answer = query(server, "select * from nowhere", headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "42P01")
    assert answer.headers["content-type"] == "application/problem+json"
    copy = query(server, "copy (select 1) to stdout", headers=NDJSON)
    assert (copy.status_code, copy.json()["code"]) == (400, "0A000")
    assert query(server, "select 1", headers=NDJSON).status_code == 200


def test_a_failure_in_the_middle_is_the_last_line(server):
    """The status is out already."""
    answer = query(
        server, "select 1 / (100000 - n) as x from generate_series(1, 100001) n", headers=NDJSON
    )
    assert answer.status_code == 200
    *_, last = lines(answer)
    assert last["error"]["code"] == "22012"
    assert (last["error"]["status"], last["error"]["outcome"]) == (400, "rolled_back")


def test_a_stream_is_not_bound_by_the_statement_timeout(postgres):
    """Its own deadline is what counts: 504 in a line, if rows were sent."""
    options = ("--port=0", "--statement-timeout=0.2")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        slow = "select pg_sleep(0.5)::text as a"
        assert query(server, slow).status_code == 504
        assert lines(query(server, slow, headers=NDJSON))[-1]["end"]["row_count"] == 1
        answer = query(
            server,
            "select n, case when n > 1000 then pg_sleep(60)::text end"
            " from generate_series(1, 1100) n",
            headers={**NDJSON, "X-Timeout-Ms": "500"},
        )
        assert lines(answer)[-1]["error"]["status"] == 504


def test_a_reader_that_leaves_ends_the_stream(server):
    """The statement is cancelled, and the connection used again."""
    endless = "select 'endless', generate_series(1, 2000000000)"
    with server.client.stream(
        "POST", f"{server.url}/v1/query", json={"query": endless}, headers=NDJSON
    ) as answer:
        next(answer.iter_raw())
        assert active(server.database_url, "'endless'") == 1
    until(lambda: active(server.database_url, "'endless'") == 0)
    assert query(server, "select 1").status_code == 200


def test_a_stream_whose_connection_is_lost_says_so(server):
    """In its last line, and nothing of it stands."""
    endless = "select 'cut off', generate_series(1, 2000000000)"
    received = b""
    with server.client.stream(
        "POST", f"{server.url}/v1/query", json={"query": endless}, headers=NDJSON
    ) as answer:
        for chunk in answer.iter_raw():
            if not received:
                with psycopg.connect(server.database_url, autocommit=True) as conn:
                    conn.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where query like '%''cut off''%' and pid <> pg_backend_pid()"
                    )
            received = (received + chunk)[-10_000:]
    problem = json.loads(received.splitlines()[-1])["error"]
    assert (problem["status"], problem["outcome"]) == (503, "rolled_back")
    assert problem["type"] == "urn:poolkeeper:problem:transaction-lost"
    assert query(server, "select 1").status_code == 200
