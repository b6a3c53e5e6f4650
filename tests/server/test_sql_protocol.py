"""Neon's SQL-over-HTTP protocol, line by line, as its clients and other programs send it."""

import json
import socket

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.server.processes import ServerProcess

FIELDS = [
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
]


def driver_headers(url):
    """What Neon's client sends with every request."""
    there = conninfo_to_dict(url)
    return {
        "Content-Type": "text/plain;charset=UTF-8",
        "Neon-Connection-String": f"postgresql://{there['user']}:p%40ss@db.example.com:5433/"
        f"{there['dbname']}?sslmode=require"
        "&application_name=pkg%3Anpm%2F%2540neondatabase%2Fserverless%401.2.0",
        "Neon-Raw-Text-Output": "true",
        "Neon-Array-Mode": "true",
    }


def post(server, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.client.post(f"{server.url}/sql", content=content, headers=headers)


def rows(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


@pytest.mark.parametrize(
    "content_type", [None, "text/plain;charset=UTF-8", "application/sql", "application/json", "x"]
)
def test_the_content_type_does_not_matter(server, content_type):
    """Neon's client sends text/plain."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert rows(post(server, {"query": "select 1 as n"}, **headers)) == [{"n": 1}]


def test_parameters_may_be_absent_null_or_empty(server):
    """All mean none."""
    for body in ({}, {"params": None}, {"params": []}):
        assert rows(post(server, {"query": "select 1 as n", **body})) == [{"n": 1}]


@pytest.mark.parametrize(
    ("text", "param", "result"),
    [
        ("$1 as v", 42, "42"),
        ("$1 as v", True, "true"),
        ("$1 as v", None, None),
        ("$1 as v", "plain", "plain"),
        ("$1 as v", {"a": [1, None]}, '{"a":[1,null]}'),
        ("$1::int as v", "7", 7),
        ("$1::numeric as v", 10**400, str(10**400)),
        ("$1::float8 as v", 1.5, 1.5),
        ("$1::float8 as v", "NaN", "NaN"),
        ("$1::int8 as v", 2**62, str(2**62)),
        ("$1::int[] as v", [1, 2, 3], [1, 2, 3]),
        ("$1::int[] as v", [[1], [None]], [[1], [None]]),
        ("$1::text[] as v", ['a"b', "c\\d", "e,f", "", "null"], ['a"b', "c\\d", "e,f", "", "null"]),
        ("$1::jsonb[] as v", [{"foo": 1}], [{"foo": 1}]),
        ("$1::bytea as v", "\\xdeadbeef", "\\xdeadbeef"),
        ("$1::bool as v", False, False),
        ("$1::json as v", {"a": 1}, {"a": 1}),
        ("$1::text as v", "🐘 ünï\n\t\u2028", "🐘 ünï\n\t\u2028"),
    ],
)
def test_values_go_there_and_back(server, text, param, result):
    """PostgreSQL infers the types; JSON comes back where it loses nothing."""
    answer = post(server, {"query": f"select {text}", "params": [param]})
    assert rows(answer) == [{"v": result}]


def test_raw_text_is_what_postgresql_prints(server):
    """The client makes its values of it, by the types in `fields`."""
    query = "select 1 as a, true as b, '{1,2}'::int[] as c, '1 day'::interval as d, null as e"
    answer = post(server, {"query": query}, **driver_headers(server.database_url))
    body = answer.json()
    assert body["rows"] == [["1", "t", "{1,2}", "1 day", None]]
    assert [field["dataTypeID"] for field in body["fields"]] == [23, 16, 1007, 1186, 25]
    assert set(body["fields"][0]) == {
        "name",
        "dataTypeID",
        "tableID",
        "columnID",
        "dataTypeSize",
        "dataTypeModifier",
        "format",
    }
    assert body["rowAsArray"] is True


def test_fields_name_the_table_they_come_from(server):
    """Object id and column number, as ORMs use them."""
    post(server, {"query": "create table if not exists origin (a int, b varchar(7))"})
    body = post(server, {"query": "select b, 'origin'::regclass::oid::int as o from origin"}).json()
    oid = rows(post(server, {"query": "select 'origin'::regclass::oid::text as o"}))[0]["o"]
    assert (body["fields"][0]["tableID"], body["fields"][0]["columnID"]) == (int(oid), 2)
    assert body["fields"][0]["dataTypeModifier"] == 11


def test_the_command_and_its_count(server):
    """Null where PostgreSQL gives none, never for those that change rows."""
    for query, command, count in [
        ("select 1", "SELECT", 1),
        ("create table made (a int)", "CREATE", None),
        ("insert into made values (1), (2)", "INSERT", 2),
        ("update made set a = 3", "UPDATE", 2),
        ("delete from made", "DELETE", 2),
        ("delete from made", "DELETE", 0),
        ("set datestyle = 'German'", "SET", None),
        ("", "", None),
    ]:
        body = post(server, {"query": query}).json()
        assert (body["command"], body["rowCount"]) == (command, count)
        if command != "SELECT":
            assert (body["fields"], body["rows"]) == ([], [])


def test_array_mode_of_a_query_overrides_the_header(server):
    """In both directions; what is not true is false."""
    body = {"query": "select 1 as n", "arrayMode": False}
    assert rows(post(server, body, **{"Neon-Array-Mode": "true"})) == [{"n": 1}]
    assert rows(post(server, {**body, "arrayMode": True})) == [[1]]
    assert rows(post(server, {"query": "select 1 as n"}, **{"Neon-Array-Mode": "1"})) == [{"n": 1}]
    mixed = {"queries": [{"query": "select 1 as n", "arrayMode": True}, {"query": "select 2 as n"}]}
    results = post(server, mixed).json()["results"]
    assert [result["rows"] for result in results] == [[[1]], [{"n": 2}]]


def test_the_headers_of_a_batch_are_confirmed(server):
    """Those in force, on success only."""
    asked = {
        "Neon-Batch-Isolation-Level": "Serializable",
        "Neon-Batch-Read-Only": "true",
        "Neon-Batch-Deferrable": "true",
    }
    done = post(server, {"queries": [{"query": "select 1"}]}, **asked)
    assert {name: done.headers[name] for name in asked} == asked
    failed = post(server, {"queries": [{"query": "select 1/0"}]}, **asked)
    single = post(server, {"query": "select 1"}, **asked)
    off = post(server, {"queries": []}, **{"Neon-Batch-Read-Only": "false"})
    for answer in (failed, single, off):
        assert not any(name in answer.headers for name in asked)


def test_an_isolation_level_has_one_of_four_names(server):
    """Spelt as Neon's client spells them."""
    levels = {
        "ReadUncommitted": "read uncommitted",
        "ReadCommitted": "read committed",
        "RepeatableRead": "repeatable read",
        "Serializable": "serializable",
    }
    body = {"queries": [{"query": "show transaction_isolation", "arrayMode": True}]}
    for name, level in levels.items():
        answer = post(server, body, **{"Neon-Batch-Isolation-Level": name})
        assert answer.json()["results"][0]["rows"] == [[level]]
    refused = post(server, body, **{"Neon-Batch-Isolation-Level": "serializable"})
    assert refused.status_code == 400
    assert "invalid isolation level" in refused.json()["message"]


def test_an_empty_batch_is_no_error(server):
    """Neon's client sends one for `sql.transaction([])`."""
    assert post(server, {"queries": []}).json() == {"results": []}


def test_a_single_query_wins_over_queries(server):
    """As Neon's server reads a body with both."""
    assert rows(post(server, {"query": "select 1 as n", "queries": []})) == [{"n": 1}]


@pytest.mark.parametrize(
    "body",
    [{"query": "select 1/0"}, {"query": "selec"}, {"queries": [{"query": "select 1/0"}]}, b"{"],
)
def test_an_error_has_all_seventeen_fields(server, body):
    """Strings or null, whoever made it."""
    answer = post(server, body)
    error = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert all(error[name] is None or isinstance(error[name], str) for name in FIELDS)
    assert error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"select 1"',
        b"{",
        b'{"query": 1}',
        b'{"query": null}',
        b'{"params": []}',
        b'{"query": "select $1", "params": "x"}',
        b'{"query": "select $1", "params": {"1": 2}}',
        b'{"query": "select 1", "params": [NaN]}',
        b'{"queries": {}}',
        b'{"queries": ["select 1"]}',
        b'{"queries": [{"query": "select 1"}, {}]}',
        b'{"query": "a\\u0000b"}',
        b'{"query": "select $1", "params": ["\\ud83d"]}',
        b"\xff\xfe{",
        b"[" * 200_000,
        b'{"params":' * 50_000,
        b'{"query": "select 1", "params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_request_is_400(server, body):
    """Nothing is sent to PostgreSQL, however deep or broken it is."""
    answer = post(server, body)
    assert (answer.status_code, answer.json()["outcome"]) == (400, "not_executed")
    assert "Suggestion: " in answer.json()["message"]


def test_too_many_parameters_are_refused_with_a_code(server):
    """The wire protocol counts them in 16 bits."""
    values = ",".join(f"(${number}::int)" for number in range(1, 65536))
    most = {"query": f"select count(*)::int as n from (values {values}) v", "params": [1] * 65535}
    assert rows(post(server, most)) == [{"n": 65535}]
    answer = post(server, {"query": "select 1", "params": [1] * 65536})
    assert (answer.status_code, answer.json()["code"]) == (400, "54023")


def test_of_two_members_with_one_name_the_last_counts(server):
    """As JSON parsers do."""
    assert rows(post(server, b'{"query": "select 1/0", "query": "select 2 as n"}')) == [{"n": 2}]


@pytest.mark.parametrize(
    "query", ["select 1; select 2", "select 1;;select 2", "set a.b = 1; commit"]
)
def test_two_statements_in_one_text_are_refused(server, query):
    """Neither is run."""
    answer = post(server, {"query": query})
    assert (answer.status_code, answer.json()["code"]) == (400, "42601")
    assert rows(post(server, {"query": "select 1 as n;"})) == [{"n": 1}]


@pytest.mark.parametrize(
    "query",
    [
        "begin",
        "START TRANSACTION",
        "commit",
        "/* x */ rollback",
        "\n end;",
        "abort",
        "begin; commit",
    ],
)
def test_a_lone_begin_is_refused_and_not_lost(server, query):
    """BEGIN, INSERT, ROLLBACK as three requests would keep the row."""
    for path, part in (("/sql", "message"), ("/v1/query", "detail")):
        answer = httpx.post(f"{server.url}{path}", json={"query": query})
        body = answer.json()
        assert (answer.status_code, body["code"], body["outcome"]) == (400, "2D000", "not_executed")
        assert "would end with this request" in body[part]
        assert "/v1/transaction" in body[part]


def test_statements_that_only_look_like_transaction_control_run(server):
    """PREPARE of a statement, and the second phase of a transaction that was prepared before."""
    assert post(server, {"query": "prepare mine as select 1"}).status_code == 200
    for query in ("commit prepared 'nobody'", "rollback prepared 'nobody'"):
        assert post(server, {"query": query}).json()["code"] == "42704"


@pytest.mark.parametrize(
    ("query", "params", "hint"),
    [
        ("select 1; select 2", [], "send one statement per request"),
        ("select $1::int", [], "`params` has 0 values, the statement has 1."),
        ("select 1", [1], "`params` has 1 value, the statement has 0."),
    ],
)
def test_mistakes_of_beginners_have_a_hint(server, query, params, hint):
    """Where PostgreSQL gives none."""
    body = {"query": query, "params": params}
    assert hint in post(server, body).json()["hint"]
    problem = httpx.post(f"{server.url}/v1/query", json=body).json()
    assert f"Suggestion: {hint}" in problem["detail"]


def test_what_a_session_keeps_does_not_reach_the_next_request(server):
    """Prepared statements and open transactions, failed ones included."""
    for leftover in (
        "prepare mine as select 1",
        "select 1/0",
        "declare c cursor for select 1",
    ):
        post(server, {"query": leftover})
        for probe, code in (("execute mine", "26000"), ("fetch c", "34000")):
            assert post(server, {"query": probe}).json()["code"] == code
        assert post(server, {"query": "savepoint s"}).json()["code"] == "25P01"


def test_other_paths_and_methods_say_what_there_is(server):
    """404 and 405 as problems."""
    for path in ("/sql/", "/SQL", "/v1/sql"):
        answer = httpx.post(f"{server.url}{path}", content=b"{}")
        assert answer.status_code == 404
        problem = answer.json()
        assert problem["type"] == "urn:poolkeeper:problem:not-found"
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert problem["instance"] == f"urn:poolkeeper:request:{problem['request_id']}"
        assert problem["outcome"] == "not_executed"
        assert "/openapi.json" in problem["detail"]
    for method in ("GET", "PUT", "DELETE"):
        answer = httpx.request(method, f"{server.url}/sql")
        assert answer.status_code == 405
        assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/", "/v2", "/v1", "/sql", "/anything", "/v1/query"])
def test_a_websocket_is_told_what_to_use_instead(server, path):
    """At any path, in one answer, and the connection is closed."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: keep-alive, Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        with sock.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 501 ")
    problem = json.loads(body)
    assert problem["type"] == "urn:poolkeeper:problem:no-websocket"
    assert "poolQueryViaFetch" in problem["detail"]
    assert "transaction([" in problem["detail"]


@pytest.fixture(scope="module")
def reader(postgres_server):
    """A server that only lets read, with a status Neon's clients can read."""
    url = postgres_server.create_database("reader_protocol")
    options = ("--port=0", "--max-size=1", "--read-only", "--neon-infra-status=400")
    env = {"POOL_TIMEOUT": "0.3"}
    with ServerProcess(*options, database_url=url, env=env) as server:
        yield server.start()


@pytest.mark.parametrize(
    "queries",
    [
        ["create table t (a int)"],
        ["set transaction read write", "create table t (a int)"],
        ["set session characteristics as transaction read write", "create table t (a int)"],
        ["savepoint s", "set local transaction_read_only = off", "create table t (a int)"],
        ["select set_config('transaction_read_only', 'off', true)", "create table t (a int)"],
        ["do $$ begin set transaction read write; create table t (a int); end $$"],
    ],
)
def test_a_read_only_server_lets_nothing_be_written(reader, queries):
    """Whatever a batch says about its transaction."""
    batch = {"queries": [{"query": query} for query in queries]}
    statements = {"statements": batch["queries"]}
    sql = post(reader, batch)
    native = reader.client.post(f"{reader.url}/v1/transaction", json=statements)
    assert (sql.status_code, native.status_code in {400, 403}) == (400, True)
    if len(queries) == 1:
        assert post(reader, {"query": queries[0]}).status_code == 400
        alone = reader.client.post(f"{reader.url}/v1/query", json={"query": queries[0]})
        assert alone.status_code in {400, 403}
    names = "select count(*) as n from pg_class where relname = 't'"
    assert rows(post(reader, {"query": names})) == [{"n": "0"}]


def test_a_refused_write_says_that_only_reading_is_allowed(reader):
    """403 where it can be said; the code is PostgreSQL's."""
    answer = reader.client.post(f"{reader.url}/v1/query", json={"query": "create table t ()"})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["outcome"]) == (
        403,
        "25006",
        "rolled_back",
    )
    assert problem["type"] == "urn:poolkeeper:problem:read-only"
    assert "Only reading is allowed here" in problem["detail"]
    streamed = reader.client.post(
        f"{reader.url}/v1/query",
        json={"query": "create table t ()"},
        headers={"Accept": "application/x-ndjson"},
    )
    assert (streamed.status_code, streamed.json()["code"]) == (403, "25006")
    assert post(reader, {"query": "begin read write"}).json()["code"] == "2D000"


def test_infrastructure_failures_can_be_shown_to_neons_clients(reader):
    """They read the body of a 400 only; it says the same."""
    reader.client.post(f"{reader.url}/admin/pause")
    try:
        sql = post(reader, {"query": "select 1"})
        native = reader.client.post(f"{reader.url}/v1/query", json={"query": "select 1"})
    finally:
        reader.client.post(f"{reader.url}/admin/resume")
    assert (sql.status_code, sql.json()["code"], sql.json()["status"]) == (400, "57P03", 503)
    assert sql.headers["retry-after"]
    assert native.status_code == 503
