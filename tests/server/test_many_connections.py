"""A thousand clients at once, a tenth of them slow."""

import asyncio
import contextlib
import json
import resource
import socket

import psutil
import pytest

from tests.server.processes import ServerProcess, sessions

MEBIBYTE = 1 << 20
CLIENTS = 900
SLOW_READERS = 20
SLOW_WRITERS = 80
POOL = 8
REQUESTS = 2
# More than the system keeps of a connection, so that the rest has to wait in the server.
LARGE = 6 * MEBIBYTE
# What each slow writer has sent when it becomes slow.
BEGUN = MEBIBYTE // 8


@pytest.fixture(scope="module", autouse=True)
def _enough_files():
    """Both ends of each connection are on this machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def crowded(postgres_server):
    """A server with a small pool."""
    url = postgres_server.create_database("many_connections")
    options = ("--port=0", f"--max-size={POOL}", "--no-access-log", "--slow-query=3600")
    env = {"POOL_MAX_WAITING": str(CLIENTS)}
    with ServerProcess(*options, database_url=url, env=env) as process:
        process.database_url = url
        yield process.start()


def request(query, *, length=None):
    body = json.dumps({"query": query}).encode()
    head = b"POST /sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    return head % (length or len(body)), body


class Crowd:
    """Connections to a server and what came of them."""

    def __init__(self, server):
        self._port = int(server.url.rsplit(":", 1)[1])
        self.all_connected = asyncio.Barrier(CLIENTS + 1)
        self.done = asyncio.Event()
        self.answered = 0
        self.slow_statuses = []

    @contextlib.asynccontextmanager
    async def _connection(self, *, buffer=None):
        sock = socket.socket()
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def client(self, number):
        async with self._connection() as (reader, writer):
            await self.all_connected.wait()
            for turn in range(REQUESTS):
                head, body = request(f"select {number} * 10 + {turn} as n")
                writer.write(head + body)
                answer = await _answer(reader)
                assert answer[0] == 200, answer
                self.answered += 1
                assert json.loads(answer[1])["rows"] == [{"n": number * 10 + turn}]

    async def slow_reader(self):
        async with self._connection(buffer=65536) as (reader, writer):
            writer.write(b"".join(request(f"select repeat('x', {LARGE}) as x")))
            received = b""
            while not self.done.is_set():
                # Enough not to be taken for somebody who has stopped reading.
                received += await reader.read(8192)
                await self._pause()
            head, _, body = received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            await reader.readexactly(length - len(body))
            self.slow_statuses.append(int(head.split()[1]))

    async def _pause(self):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.done.wait(), 0.1)

    async def slow_writer(self):
        async with self._connection() as (reader, writer):
            _, body = request("select 1 as n")
            writer.write(request("", length=BEGUN + len(body))[0] + b" " * BEGUN)
            for byte in body[:-1]:
                writer.write(bytes([byte]))
                await self._pause()
            await self.done.wait()
            writer.write(body[-1:])
            self.slow_statuses.append((await _answer(reader))[0])


async def _answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lines = head.split("\r\n")
    length = int(dict(line.split(": ", 1) for line in lines[1:-2])["content-length"])
    return int(lines[0].split()[1]), await reader.readexactly(length)


async def status(server):
    answer = await asyncio.to_thread(server.get, "/status")
    return answer.json()


async def busy(server):
    """How many connections to the database are in use or waited for."""
    pool = (await status(server))["pool"]
    return pool["cl_active"] + pool["cl_waiting"]


@pytest.mark.slow
@pytest.mark.asyncio
async def test_slow_clients_cost_the_others_nothing(crowded):
    """Everybody is served, no connection to the database waits for a client, memory comes back."""
    process = psutil.Process(crowded.process.pid)
    for _ in range(5):
        crowded.sql(f"select repeat('x', {LARGE}) as x")
    before = process.memory_info().rss
    crowd = Crowd(crowded)
    async with asyncio.TaskGroup() as everybody:
        for _ in range(SLOW_READERS):
            everybody.create_task(crowd.slow_reader())
        for _ in range(SLOW_WRITERS):
            everybody.create_task(crowd.slow_writer())
        # 20 answers unread, 80 requests incomplete, and no connection to the database in use.
        while (await status(crowded))["statistics"]["total_releases"] < SLOW_READERS + 5:
            pass
        assert await busy(crowded) == 0
        clients = [everybody.create_task(crowd.client(n)) for n in range(CLIENTS)]
        await asyncio.wait_for(crowd.all_connected.wait(), 60)
        assert (await status(crowded))["server"]["client_connections"] >= 1000
        await asyncio.wait(clients)
        assert await busy(crowded) == 0
        peak = process.memory_info().rss
        crowd.done.set()
    assert crowd.answered == CLIENTS * REQUESTS
    assert crowd.slow_statuses == [200] * (SLOW_READERS + SLOW_WRITERS)
    unfinished = SLOW_READERS * LARGE + SLOW_WRITERS * BEGUN
    assert peak - before < unfinished + 100 * MEBIBYTE
    after = process.memory_info().rss
    assert after - before < 100 * MEBIBYTE
    assert sessions(crowded.database_url) <= POOL
    assert await busy(crowded) == 0
    metrics = crowded.get("/metrics").text
    assert 'code="500"' not in metrics
    assert crowded.sql("select 1 as n").json()["rows"] == [{"n": 1}]
