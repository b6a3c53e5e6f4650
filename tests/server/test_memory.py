"""Results far over the limit, and rows of some megabytes: what they cost the server in memory."""

import json
import threading
import time

import psutil
import pytest

from tests.server.processes import ServerProcess, until

MEBIBYTE = 1 << 20
# What one answer may add for a while. The limit of answers is 10 MiB; without a bound it is 600.
PEAK = 100 * MEBIBYTE
# What may stay of it: not the 100 MB of the longest row here.
STAYS = 30 * MEBIBYTE
LONG_ROWS = "select repeat('x', 5000000) as t from generate_series(1, 64)"
NDJSON = {"Accept": "application/x-ndjson"}


@pytest.fixture(scope="module")
def server(postgres_server):
    """A server of its own, whose memory nobody else has grown."""
    url = postgres_server.create_database("remembering")
    with ServerProcess("--port=0", "--max-size=2", database_url=url) as process:
        process.start()
        assert process.sql("select 1").status_code == 200
        yield process


class Watch:
    """The memory of a server beyond what it is at the beginning, looked at all the time."""

    def __init__(self, server):
        self._process = psutil.Process(server.process.pid)
        self._before = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.peak = 0

    def now(self):
        return self._process.memory_info().rss - self._before

    def _look(self):
        while not self._over.is_set():
            self.peak = max(self.peak, self.now())
            time.sleep(0.001)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("path", ["/sql", "/v1/query"])
def test_long_rows_over_the_limit_are_noticed_before_they_fill_the_memory(server, path):
    """Not only when all rows of a portion are there."""
    with Watch(server) as watch:
        answer = server.client.post(server.url + path, json={"query": LONG_ROWS})
    assert answer.status_code == 507, answer.text[:200]
    assert watch.peak < PEAK, watch.peak
    until(lambda: watch.now() < STAYS)
    assert server.sql("select 1").status_code == 200


@pytest.mark.parametrize("size", [100_000_000, 40_000_000], ids=["cut-short", "read-to-its-end"])
@pytest.mark.parametrize(
    ("path", "around"),
    [
        ("/sql", lambda query: query),
        ("/sql", lambda query: {"queries": [query]}),
        ("/v1/query", lambda query: query),
        ("/v1/query", lambda query: {**query, "readonly": True}),
        ("/v1/transaction", lambda query: {"statements": [query]}),
    ],
    ids=["sql", "sql-batch", "query", "query-readonly", "transaction"],
)
def test_one_cell_over_the_limit_is_refused_and_its_memory_given_back(server, path, around, size):
    """Also by libpq, whose buffer lives as long as the connection."""
    body = around({"query": f"select repeat('x', {size})"})
    with Watch(server) as watch:
        answer = server.client.post(server.url + path, json=body)
    assert answer.status_code == 507, answer.text[:200]
    until(lambda: watch.now() < STAYS)
    assert server.sql("select 1").status_code == 200


def test_a_stream_of_long_rows_arrives_whole_in_bounded_memory(server):
    """One row at a time, and of a row a piece at a time."""
    size, tail = 0, b""
    with (
        Watch(server) as watch,
        server.client.stream(
            "POST", f"{server.url}/v1/query", json={"query": LONG_ROWS}, headers=NDJSON
        ) as answer,
    ):
        for chunk in answer.iter_raw():
            size += len(chunk)
            tail = (tail + chunk)[-100:]
    assert size > 64 * 5_000_000
    assert json.loads(tail.splitlines()[-1]) == {"end": {"row_count": 64, "command": "SELECT"}}
    assert watch.peak < PEAK, watch.peak
