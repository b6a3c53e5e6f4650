"""How many clients are taken in, and what becomes of those who do not read."""

import asyncio
import contextlib
import json
import socket

import pytest
import uvicorn

from poolkeeper.server.door import Door
from poolkeeper.server.http_protocol import protocol_for

MEBIBYTE = 1 << 20
PLENTY = 8 * MEBIBYTE
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        yield


class App:
    """Answers with its path, or with plenty; `/wait` waits for the test."""

    def __init__(self):
        self.go_on = asyncio.Event()
        self.waiting = asyncio.Event()
        self.answered = 0

    async def __call__(self, scope, receive, send):
        path = scope["path"]
        if path == "/wait":
            self.waiting.set()
            await self.go_on.wait()
        body = b"x" * PLENTY if path == "/plenty" else path.encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.answered += 1


@contextlib.asynccontextmanager
async def serving(door, app=None):
    """The port of a server with this door, and the server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app or App(),
            http=protocol_for(door),
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        server = Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1], server
        finally:
            server.should_exit = True
            await task


@contextlib.asynccontextmanager
async def connected(port, *, buffer=None):
    """A client; with ``buffer`` the system reads little on its behalf."""
    sock = socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2 * PLENTY)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer_of(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    body = await reader.readexactly(int(fields.get(b"content-length", 0)))
    return status, fields, body


async def is_over(reader):
    """Whether the server closes the connection, whatever it sends before."""
    with contextlib.suppress(ConnectionResetError):
        while await reader.read(65536):
            pass
    return True


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_full_server_says_so_at_once():
    """A client that had to wait would not know why."""
    door = Door(max_connections=2)
    async with serving(door) as (port, server), contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            reader, writer = await stack.enter_async_context(connected(port))
            writer.write(GET % b"/")
            assert (await answer_of(reader))[0] == 200
        reader, writer = await stack.enter_async_context(connected(port))
        writer.write(GET % b"/sql")
        status, fields, body = await answer_of(reader)
        assert status == 503
        assert int(fields[b"retry-after"]) >= 1
        assert fields[b"connection"] == b"close"
        problem = json.loads(body)
        assert problem["code"] == "53300"
        assert problem["outcome"] == "not_executed"
        assert "Suggestion: " in problem["detail"]
        assert await is_over(reader)
        assert door.refused["too-many-connections"] == 1
        await until(lambda: len(server.server_state.connections) == 2)


@pytest.mark.asyncio
async def test_a_connection_that_ends_makes_room():
    """The limit is on those that are open."""
    async with serving(Door(max_connections=1)) as (port, server):
        for _ in range(5):
            async with connected(port) as (reader, writer):
                writer.write(GET % b"/")
                assert (await answer_of(reader))[0] == 200
            await until(lambda: not server.server_state.connections)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", [b"/livez", b"/readyz?verbose", b"/metrics", b"/admin/pause"])
async def test_a_full_server_still_answers_those_who_watch_and_steer_it(path):
    """Otherwise an orchestrator would kill it because it is busy."""
    async with (
        serving(Door(max_connections=1)) as (port, _),
        connected(port) as client,
        connected(port) as watcher,
    ):
        for (reader, writer), wanted in ((client, b"/"), (watcher, path)):
            writer.write(GET % wanted)
            status, _, body = await answer_of(reader)
            assert (status, body) == (200, wanted.partition(b"?")[0])
        assert await is_over(watcher[0])


@pytest.mark.asyncio
async def test_even_the_watchers_are_not_without_number():
    """Whoever asks for nothing cannot keep them out for longer than a head may take."""
    door = Door(max_connections=1, head_seconds=0.2)
    async with serving(door) as (port, server), contextlib.AsyncExitStack() as stack:
        readers = [(await stack.enter_async_context(connected(port)))[0] for _ in range(70)]
        overrun = readers[-1]
        assert (await answer_of(overrun))[0] == 503
        for reader in readers:
            assert await is_over(reader)
        await until(lambda: len(server.server_state.connections) < 10)
        async with connected(port) as (reader, writer):
            writer.write(GET % b"/livez")
            assert (await answer_of(reader))[0] == 200


@pytest.mark.asyncio
async def test_work_that_takes_long_is_not_taken_for_a_slow_client():
    """The time for a head does not run while an answer is due."""
    app = App()
    door = Door(max_connections=9, head_seconds=0.05)
    async with serving(door, app) as (port, server), connected(port) as (reader, writer):
        writer.write(GET % b"/wait" + b"GET /next")
        await app.waiting.wait()
        [connection] = server.server_state.connections
        seen = set()
        while len(seen) < 4:
            seen.add(connection._waiting)  # a new timer each time the old one ran out
            await asyncio.sleep(0.01)
        app.go_on.set()
        assert (await answer_of(reader))[2] == b"/wait"
        writer.write(b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await answer_of(reader))[2] == b"/next"


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_its_answer_is_cut_off():
    """What waits for it is memory."""
    app = App()
    door = Door(max_connections=9, stall_seconds=0.2)
    async with serving(door, app) as (port, server), connected(port, buffer=4096) as (_, writer):
        writer.transport.pause_reading()
        writer.write(GET % b"/plenty")
        await until(lambda: app.answered)
        await until(lambda: not server.server_state.connections)
    assert door.refused["slow-reader"] == 1


@pytest.mark.asyncio
async def test_a_client_that_reads_slowly_gets_everything():
    """Slow is not stopped."""
    door = Door(max_connections=9, stall_seconds=0.2)
    async with serving(door) as (port, _), connected(port, buffer=65536) as (reader, writer):
        writer.write(GET % b"/plenty")
        await reader.readuntil(b"\r\n\r\n")
        received = 0
        loop = asyncio.get_running_loop()
        ends = loop.time() + 1
        while received < PLENTY:
            # About as long as five times the patience, in all.
            if loop.time() < ends:
                await asyncio.sleep(0.02)
            received += len(await reader.read(160 * 1024))
    assert received == PLENTY
    assert not door.refused


@pytest.mark.asyncio
async def test_what_waits_for_slow_clients_is_bounded():
    """Those who have let the server wait longest are cut off first, and the others are served."""
    app = App()
    door = Door(max_connections=99, stall_seconds=60, most_unread=5 * PLENTY)
    async with serving(door, app) as (port, server), contextlib.AsyncExitStack() as stack:
        for number in range(20):
            _, writer = await stack.enter_async_context(connected(port, buffer=4096))
            writer.transport.pause_reading()
            writer.write(GET % b"/plenty")
            await until(lambda number=number: app.answered > number)
        unread = lambda: sum(c.unread() for c in server.server_state.connections)  # noqa: E731
        await until(lambda: unread() <= 5 * PLENTY)
        assert len(server.server_state.connections) >= 5
        async with connected(port) as (reader, writer):
            writer.write(GET % b"/")
            assert (await answer_of(reader))[0] == 200
    assert door.refused["slow-reader"] >= 10
    assert not door._slow
