"""Requests no honest client sends: a clear word or a closed connection, and the server lives."""

import contextlib
import json
import os
import socket

import psutil
import pytest

from tests.server.processes import ServerProcess

HOST = b"Host: localhost\r\n"
BODY = b'{"query":"select 1 as one"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
POST = b"POST /sql HTTP/1.1\r\n" + HOST
GET = b"GET /livez HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
GOOD = POST + LENGTH + b"\r\n" + BODY
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def impatient(postgres_server):
    """A server whose clients have a second for a request."""
    url = postgres_server.create_database("hostile_impatient")
    with ServerProcess("--port=0", "--request-timeout=1", database_url=url) as process:
        yield process.start()


def connect(server):
    port = int(server.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def status_of(response):
    return int(response.split(b" ", 2)[1]) if response.startswith(b"HTTP/1.1 ") else None


def read_responses(connection, count):
    """That many responses and no more, by their Content-Length."""
    stream = connection.makefile("rb")
    responses = []
    for _ in range(count):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            assert line, head
            head += line
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        responses.append((status_of(head), stream.read(int(headers[b"content-length"]))))
    return responses


def read_to_the_end(connection):
    """Everything until the server closes; a reset after the answer is a close too."""
    received = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not data:
            return received
        received += data


def is_alive(server):
    return server.get("/livez").status_code == 200 and server.sql("select 1").status_code == 200


SENSELESS = {
    "a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a greeting of TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(190)),
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/3.0": b"GET /livez HTTP/3.0\r\n" + HOST + b"\r\n",
    "noise": bytes(range(128, 256)) * 20,
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": GET + HOST + b"\r\n",
    "an unknown method": b"FOO /sql HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get /livez HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT example.com:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a zero byte in the path": b"GET /liv\0ez HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path that is not ASCII": "GET /ä HTTP/1.1\r\n".encode() + HOST + b"\r\n",
    "a zero byte in a header": GET + b"X-A: a\0b\r\n\r\n",
    "a space before the colon": GET + b"X-A : b\r\n\r\n",
    "a folded header": GET + b"X-A: b\r\n c\r\n\r\n",
    "a bare carriage return": GET + b"X-A: b\rX-B: c\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: localhost\n\n",
    "length and chunks": POST + LENGTH + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks and length": POST + CHUNKED + LENGTH + b"\r\n0\r\n\r\n",
    "two lengths": POST + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "a length twice": POST + LENGTH + LENGTH + b"\r\n" + BODY,
    "a list of lengths": POST + b"Content-Length: 27, 27\r\n\r\n" + BODY,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length with a sign": POST + b"Content-Length: +27\r\n\r\n" + BODY,
    "a length in hex": POST + b"Content-Length: 0x1b\r\n\r\n" + BODY,
    "a length beyond numbers": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a chunk without a size": POST + CHUNKED + b"\r\nzz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk beyond numbers": POST + CHUNKED + b"\r\nfffffffffffffffff\r\n" + BODY,
    "a chunk that ends late": POST + CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_text", SENSELESS.values(), ids=SENSELESS)
def test_what_makes_no_sense_is_400_and_the_end_of_the_connection(server, request_text):
    """Whoever sees the bytes otherwise than we do must not send another request after them."""
    with connect(server) as connection:
        connection.sendall(request_text + GOOD)
        response = read_to_the_end(connection)
    assert status_of(response) == 400
    _head, _, body = response.partition(b"\r\n\r\n")
    assert "Suggestion: " in json.loads(body)["detail"]
    assert b"connection: close" in response


TOO_MUCH = {
    "150 headers": (431, GET + b"".join(b"X-%d: y\r\n" % n for n in range(150)) + b"\r\n"),
    "a header of 200 kB": (431, GET + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n"),
    "a header without an end": (431, GET + b"X-A: " + b"a" * (3 * MEBIBYTE)),
    "a target of 9 kB": (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a target without an end": (431, b"GET /" + b"a" * (3 * MEBIBYTE)),
}


@pytest.mark.parametrize(("status", "request_text"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_head_has_bounds(server, status, request_text):
    """It is kept in memory until it is complete."""
    with connect(server) as connection:
        # It may be turned away before everything was sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request_text)
        response = read_to_the_end(connection)
    # The system may drop an answer when the client goes on sending.
    assert status_of(response) in {status, None}
    assert len(request_text) > MEBIBYTE or status_of(response) == status


UNUSUAL = {
    "HTTP/1.0": (200, b"GET /livez HTTP/1.0\r\n\r\n"),
    "an absolute target": (200, b"GET http://localhost/livez HTTP/1.1\r\n" + HOST + b"\r\n"),
    "bytes in a header": (200, GET + b"X-Request-Id: \xff\xfe\r\n\r\n"),
    "an upgrade to HTTP/2": (200, GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
    "a body with an upgrade to HTTP/2": (
        200,
        POST + LENGTH + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n" + BODY,
    ),
    "chunks": (200, POST + CHUNKED + b"\r\n1b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk's extension": (200, POST + CHUNKED + b"\r\n1b;x=y\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a star": (404, b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"),
    "dots": (404, b"GET /../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a zero in percent": (404, b"GET /liv%00ez HTTP/1.1\r\n" + HOST + b"\r\n"),
    "no UTF-8 in percent": (404, b"GET /%zz%ff HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a length beyond the limit": (413, POST + b"Content-Length: 999999999999\r\n\r\n{"),
    "a compressed body": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "a strange page": (400, POST + LENGTH + b"Origin: https://example.com\r\n\r\n" + BODY),
    "a rebound name": (
        403,
        b"GET /metrics HTTP/1.1\r\nHost: rebound.example.com\r\n\r\n",
    ),
}


@pytest.mark.parametrize(("status", "request_text"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_answered_like_anything_else(server, status, request_text):
    """Some of it old clients send."""
    with connect(server) as connection:
        connection.sendall(request_text)
        [(answered, body)] = read_responses(connection, 1)
    assert answered == status, body


def test_requests_sent_together_are_answered_in_order(server):
    """Pipelining: one connection, one after the other."""
    texts = [b'{"query":"select %d as n"}' % n for n in range(20)]
    sent = b"".join(POST + b"Content-Length: %d\r\n\r\n" % len(t) + t for t in texts)
    with connect(server) as connection:
        connection.sendall(sent)
        responses = read_responses(connection, 20)
    assert [json.loads(body)["rows"][0]["n"] for _, body in responses] == list(range(20))


def test_nonsense_after_a_request_does_not_take_the_place_of_its_answer(server):
    """The client would believe that its statement was refused, and send it again."""
    with connect(server) as connection:
        connection.sendall(GOOD + b"\0\1\2 nonsense\r\n\r\n")
        response = read_to_the_end(connection)
    assert status_of(response) == 200
    assert response.count(b"HTTP/1.1 ") == 1


DEEP = {
    "brackets": b"[" * (10 * MEBIBYTE - 1),
    "braces": b'{"a":' * (2 * MEBIBYTE),
    "nested parameters": b'{"query":"select $1","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a little nested": b'{"query":"select $1","params":' + b"[" * 700 + b"]" * 700 + b"}",
    "nested objects": (
        b'{"query":"select $1","params":[' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"]}"
    ),
    "a number of a million digits": b'{"query":1' + b"0" * MEBIBYTE + b"}",
    "not UTF-8": b'{"query":"select \xff"}',
    "half a surrogate": rb'{"query":"select \ud800"}',
    "half a surrogate in a parameter": rb'{"query":"select $1","params":["\udfff"]}',
    "half a surrogate in a key": rb'{"query":"select $1","params":[{"\udfff":1}]}',
    "half a surrogate in a list": rb'{"query":"select $1","params":[["\udfff"]]}',
    "a zero": rb'{"query":"select \u0000"}',
    "NaN": b'{"query":"select $1","params":[NaN]}',
    "nothing": b"",
    "two documents": BODY + BODY,
    "a byte order mark": b"\xef\xbb\xbf" + BODY,
    "no object": b'"select 1"',
    "many parameters": b'{"query":"select 1","params":[' + b"1," * 65536 + b"1]}",
    "a query that is a list": b'{"query":["select 1"]}',
    "queries that are no list": b'{"queries":{"query":"select 1"}}',
}


@pytest.mark.parametrize("path", ["/sql", "/v1/query"])
@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
def test_a_body_that_cannot_be_understood_is_400(server, body, path):
    """However it is built, it costs no more than its own size."""
    answer = server.client.post(f"{server.url}{path}", content=body)
    assert answer.status_code == 400, answer.text[:500]
    assert "message" in answer.json() or "detail" in answer.json()


def test_a_number_with_many_digits_is_just_a_number(server):
    """PostgreSQL gets the digits as they are; Python never makes a number of them."""
    digits = "9" * 20_000
    body = b'{"query":"select length($1::numeric::text) as n","params":[' + digits.encode() + b"]}"
    answer = server.client.post(f"{server.url}/sql", content=body)
    assert answer.json()["rows"] == [{"n": 20_000}]


def test_hostile_bodies_leave_nothing_behind(server):
    """Ten of the largest at once, and the memory of the server is what it was."""
    process = psutil.Process(server.process.pid)
    server.client.post(f"{server.url}/sql", content=DEEP["brackets"])
    before = process.memory_info().rss
    for _ in range(10):
        server.client.post(f"{server.url}/sql", content=DEEP["brackets"])
    assert process.memory_info().rss - before < 50 * MEBIBYTE


def test_a_client_that_says_nothing_is_closed(impatient):
    """Nobody can hold a connection without using it."""
    with connect(impatient) as connection:
        assert read_to_the_end(connection) == b""


def test_a_head_that_dribbles_is_cut_off(impatient):
    """A byte now and then does not count as progress."""
    with connect(impatient) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: ")
        connection.settimeout(0.1)
        response = b""
        while not response:
            connection.sendall(b"a")
            try:
                response = connection.recv(65536)
            except TimeoutError:
                continue
    assert status_of(response) == 408


def test_a_second_head_that_dribbles_is_cut_off(impatient):
    """A client that was answered once has no more rights than a new one."""
    with connect(impatient) as connection:
        connection.sendall(GOOD)
        assert read_responses(connection, 1)[0][0] == 200
        connection.sendall(b"GET")
        assert status_of(read_to_the_end(connection)) == 408


def test_a_body_that_dribbles_is_cut_off(impatient):
    """At the time limit of the request, with the word for it."""
    with connect(impatient) as connection:
        connection.sendall(POST + LENGTH + b"\r\n" + BODY[:5])
        response = read_to_the_end(connection)
    assert status_of(response) == 408
    assert b"request-timeout" in response


def test_the_rest_of_a_refused_body_is_not_read_for_ever(impatient):
    """The answer is there; whoever goes on sending is cut off."""
    with connect(impatient) as connection:
        connection.sendall(POST + b"Content-Length: 999999999999\r\n\r\n")
        assert read_responses(connection, 1)[0][0] == 413
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                connection.sendall(os.urandom(1024))


def test_empty_lines_are_no_requests(impatient):
    """They may come before a request, and that is all."""
    with connect(impatient) as connection:
        connection.sendall(b"\r\n" * 100 + GOOD)
        assert read_responses(connection, 1)[0][0] == 200
    with connect(impatient) as connection:
        connection.sendall(b"\r\n" * 100)
        assert read_to_the_end(connection) == b""


def test_afterwards_both_servers_are_alive(server, impatient):
    """With every connection to the database back in its place, and not one bug on the way."""
    for process in (server, impatient):
        assert is_alive(process)
        status = process.get("/status").json()
        assert "internal-error" not in json.dumps(status)
        health = process.get("/health").json()["database"]["pool"]
        assert health["waiting"] == 0
        metrics = process.get("/metrics").text
        assert 'code="500"' not in metrics
