"""What every request leaves behind: names, timings, a line in the log, a place in the metrics."""

import socket

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.server.access_log import AccessLog
from poolkeeper.server.frame import Frame
from poolkeeper.server.metrics import ServerMetrics
from tests.server.processes import ServerProcess, active, until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def line_of(server, request_id):
    """The access log's record of one request."""
    while (record := server.wait_for("request"))["request_id"] != request_id:
        pass
    return record


def test_a_request_is_one_line_in_the_log(server):
    """Who asked for what, what came of it, and where the time went."""
    traceparent = f"00-{TRACE}-00f067aa0ba902b7-01"
    names = {"X-Request-Id": "line-1", "traceparent": traceparent}
    answer = server.client.post(
        f"{server.url}/sql?secret=hush", json={"query": "select 17 as n"}, headers=names
    )
    assert answer.headers["x-request-id"] == answer.headers["neon-request-id"] == "line-1"
    record = line_of(server, "line-1")
    assert record["duration_seconds"] >= record["queue_seconds"] + record["db_seconds"] > 0
    for name in ("timestamp", "duration_seconds", "queue_seconds", "db_seconds"):
        del record[name]
    assert record == {
        "level": "info",
        "event": "request",
        "logger": "poolkeeper.access",
        "method": "POST",
        "path": "/sql",
        "status": 200,
        "bytes": len(answer.content),
        "request_id": "line-1",
        "trace_id": TRACE,
        "client": "127.0.0.1",
    }


def test_a_failure_is_in_the_log_with_its_kind_and_outcome(server):
    """As in the answer."""
    answer = server.sql("select no_such_column", headers={"X-Request-Id": "line-2"})
    record = line_of(server, "line-2")
    kind = answer.json()["type"].rpartition(":")[2]
    assert (record["status"], record["kind"]) == (400, kind)
    assert record["outcome"] == answer.json()["outcome"]


def test_a_client_that_left_is_499_in_the_log(postgres):
    """Nobody received it, and nothing is 200 that was not."""
    with ServerProcess("--port=0", "--statement-timeout=0", database_url=postgres.url) as server:
        server.start()
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.url}/sql",
                json={"query": "select pg_sleep(60)"},
                headers={"X-Request-Id": "left"},
                timeout=0.5,
            )
        assert line_of(server, "left")["status"] == 499
        assert active(postgres.url, "pg_sleep(60)") == 0
        metrics = server.get("/metrics").text
    assert 'poolkeeper_http_requests_total{code="499",route="/sql"} 1.0' in metrics


def test_responses_say_where_the_time_went(server):
    """Queue, database, serialization and all of it, in milliseconds; also of failures."""
    answer = server.sql("select pg_sleep(0.05)")
    phases = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(phases) == ["queue", "db", "serialize", "total"]
    assert 50 <= float(phases["db"]) <= float(phases["total"])
    failed = server.sql("select no_such_column").headers["server-timing"]
    assert "db;dur=" in failed
    assert "total;dur=" in failed
    # Where nothing was waited for, there is nothing to tell.
    assert "server-timing" not in server.get("/livez").headers


def test_log_and_timing_can_be_left_out(postgres):
    """One option each."""
    options = ("--port=0", "--no-access-log", "--no-server-timing")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        assert "server-timing" not in server.sql("select 1").headers
        server.signal()
        _, log = server.end()
    assert '"request"' not in log


def test_the_log_for_people_is_one_line_without_surprises(postgres):
    """A path cannot move the cursor or look like another line."""
    options = ("--port=0", "--log-format=console")
    with ServerProcess(*options, database_url=postgres.url) as server:
        lines = iter(server._incoming.get, None)
        port = next(line for line in lines if "serving" in line).rsplit(":", 1)[1]
        server.url = f"http://127.0.0.1:{int(port)}"
        server.sql("select 1", headers={"X-Request-Id": "plain"})
        [line] = [next(line for line in lines if "plain" in line)]
        assert "  200 POST /sql  " in line
        assert " ms  queue " in line
        server.get("/%1b[2J%0aX", headers={"X-Request-Id": "odd"})
        line = next(line for line in lines if "odd" in line)
        assert "  404 GET  '/\\x1b[2J\\nX'  " in line


def test_probes_do_not_fill_the_log(server):
    """They are asked for all day; their failures are logged."""
    server.get("/livez", headers={"X-Request-Id": "probe"})
    server.get("/livez/nothing", headers={"X-Request-Id": "no-probe"})
    assert line_of(server, "no-probe")["status"] == 404
    assert not [record for record in server.records if record.get("request_id") == "probe"]


def test_what_is_asked_for_often_is_counted_by_route(server):
    """Paths that lead nowhere share one; whoever scans must not make series."""
    for path in ("/a", "/b/c", "/sql/x"):
        server.get(path)
    server.sql("select 1")
    text = server.get("/metrics").text
    routes = {
        line.split('route="')[1].split('"')[0] for line in text.split("\n") if "route=" in line
    }
    assert {"/sql", "other"} <= routes
    assert not {"/a", "/b/c", "/sql/x"} & routes
    assert 'poolkeeper_http_request_seconds_bucket{le="+Inf",route="/sql"}' in text
    assert "poolkeeper_query_seconds_count" in text
    assert "poolkeeper_http_connections " in text


def test_a_request_that_was_turned_away_is_counted_by_reason(postgres):
    """By the same words as in the answer."""
    env = {"POOLKEEPER_TOKEN": "a-secret-of-some-length"}
    with ServerProcess("--port=0", database_url=postgres.url, env=env) as server:
        server.start()
        assert server.get("/metrics").status_code == 401
        right = {"Authorization": f"Bearer {env['POOLKEEPER_TOKEN']}"}
        text = server.get("/metrics", headers=right).text
        assert 'poolkeeper_http_requests_rejected_total{reason="unauthorized"} 1.0' in text
        server.sql("select 1", headers={**right, "X-Request-Id": "named"})
        assert line_of(server, "named")["token"] == "default"


def test_openmetrics_is_what_its_parser_takes(server):
    """Negotiated by Accept, with units and an end."""
    server.sql("select 1")
    answer = server.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["poolkeeper_query_seconds"].unit == "seconds"
    assert families["poolkeeper_paused"].samples[0].value == 0


@pytest.mark.asyncio
async def test_a_bug_of_ours_is_a_500_with_the_name_of_the_request(caplog):
    """And its traceback is in the log, under that name."""

    async def broken(_request):
        raise ZeroDivisionError

    pool = ConnectionPoolManager(PoolConfig(database_url="postgresql://app@localhost/app"))
    metrics = ServerMetrics(pool)
    app = Frame(
        Starlette(routes=[Route("/broken", broken)]).router, metrics, AccessLog(frozenset())
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/broken", headers={"X-Request-Id": "bug-1"})
    assert answer.status_code == 500
    assert "look for request bug-1 in its log" in answer.json()["detail"]
    [record] = [record for record in caplog.records if record.message == "request_failed"]
    assert (record.request_id, record.exc_info[0]) == ("bug-1", ZeroDivisionError)
    assert b'code="500",route="/broken"' in metrics.scrape(None)[1]


def test_open_connections_are_counted(server):
    """Also those that ask for nothing."""
    host, port = server.url.removeprefix("http://").split(":")

    def connections():
        text = server.get("/metrics").text
        return next(
            float(line.split()[1])
            for line in text.split("\n")
            if line.startswith("poolkeeper_http_connections ")
        )

    before = connections()
    with socket.create_connection((host, int(port))):
        until(lambda: connections() == before + 1)
    until(lambda: connections() == before)
