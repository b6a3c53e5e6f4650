"""Large bodies have a bound for all of them together."""

import contextlib
import json
import socket

import pytest

from poolkeeper.server.body import MOST_BYTES, Bodies, Holding
from poolkeeper.server.status import TooManyBytesError
from tests.server.processes import ServerProcess, until

MEBIBYTE = 1 << 20
LARGE = 50 * MEBIBYTE


def test_what_was_refused_is_not_counted_and_what_ended_is_free():
    """Whatever the order."""
    bodies = Bodies(300_000)
    first, second = Holding(bodies), Holding(bodies)
    first.reach(100_000)
    first.reach(200_000)
    second.reach(100_000)
    with pytest.raises(TooManyBytesError, match="300,000 bytes"):
        second.reach(100_001)
    assert bodies.held == 300_000
    second.end()
    first.reach(300_000)
    first.end()
    first.end()
    assert bodies.held == 0


def test_small_bodies_are_never_refused():
    """There are as many as there may be connections."""
    bodies = Bodies(0)
    Holding(bodies).reach(65_536)
    assert bodies.held == 0


@pytest.fixture(scope="module")
def server(postgres_server):
    url = postgres_server.create_database("bodies")
    options = ("--port=0", "--max-request-bytes=67108864", "--request-timeout=60")
    with ServerProcess(*options, database_url=url) as process:
        yield process.start()


def unfinished(server):
    """A connection that has sent all of its large body but the end."""
    sock = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    sock.sendall(b"POST /sql HTTP/1.1\r\nHost: localhost\r\n")
    sock.sendall(b"Content-Length: %d\r\n\r\n" % (LARGE + 1) + b" " * LARGE)
    return sock


def large(server):
    """The answer to a request that is understood, with a large body."""
    body = json.dumps({"query": "select 1 as n"}).encode() + b" " * LARGE
    return server.client.post(f"{server.url}/sql", content=body)


def test_large_bodies_together_are_bounded_and_small_requests_go_on(server):
    """One more is 503 and not executed; when the others are gone there is room again."""
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_BYTES // LARGE):
            stack.enter_context(unfinished(server))

        def refused():
            answer = large(server)
            return answer if answer.status_code == 503 else None

        until(refused)
        answer = refused()
        assert answer.json()["type"] == "urn:poolkeeper:problem:too-many-bytes"
        assert answer.json()["outcome"] == "not_executed"
        assert answer.headers["retry-after"] == "1"
        assert server.sql("select 1 as n").json()["rows"] == [{"n": 1}]
    until(lambda: large(server).status_code == 200)
