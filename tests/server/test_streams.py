"""Results larger than memory, and readers slower than the database."""

import json
import socket
import time

import psutil

from tests.server.processes import active, until

MEBIBYTE = 1 << 20
NDJSON = {"Accept": "application/x-ndjson"}
# What a result of a hundred megabytes may add to the server's memory.
BOUND = 50 * MEBIBYTE


def memory(server):
    return psutil.Process(server.process.pid).memory_info().rss


def test_a_million_rows_pass_in_bounded_memory(server):
    """Every one arrives, and the server is no larger for it."""
    # Takes some seconds: fewer rows would fit into the bound.
    body = {
        "query": "select generate_series(1, 1000000) as n, repeat('x', 100) as t",
        "rows": "arrays",
    }
    server.sql("select 1")
    before = largest = memory(server)
    lines, size, tail = 0, 0, b""
    with server.client.stream(
        "POST", f"{server.url}/v1/query", json=body, headers=NDJSON
    ) as answer:
        for chunk in answer.iter_raw(1 << 20):
            lines += chunk.count(b"\n")
            size += len(chunk)
            tail = (tail + chunk)[-1000:]
            largest = max(largest, memory(server))
    *_, row, end = [json.loads(line) for line in tail.splitlines()[1:]]
    assert lines == 1_000_002
    assert size > 2 * BOUND
    assert row["row"][0] == 1_000_000
    assert end == {"end": {"row_count": 1_000_000, "command": "SELECT"}}
    assert largest - before < BOUND


def test_a_reader_that_stops_reading_fills_no_memory_and_keeps_no_connection(server):
    """The database waits for it, until its deadline."""
    text = "select 'unread', repeat('x', 10000), generate_series(1, 2000000000)"
    body = json.dumps({"query": text}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    before = memory(server)
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(
            b"POST /v1/query HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n"
            b"X-Timeout-Ms: 2000\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        until(lambda: active(server.database_url, "'unread'"))
        begun = time.monotonic()
        while active(server.database_url, "'unread'"):
            assert memory(server) - before < BOUND
        # Two seconds were asked for; a busy machine gets some more.
        assert time.monotonic() - begun < 10
        until(lambda: server.get("/health").json()["database"]["pool"]["active"] == 0)
    assert server.sql("select 1").status_code == 200
