"""However many watch an operation, the database is asked once."""

import asyncio

import asyncpg
import pytest

from poolkeeper import create_pool
from poolkeeper.operations import Step
from poolkeeper.server.app import build_app
from poolkeeper.server.lifecycle import Lifecycle
from poolkeeper.server.operations import watch
from poolkeeper.server.settings import ServerSettings

pytestmark = pytest.mark.asyncio


class Counted:
    """The operations of a pool, and how many look at them at this moment."""

    def __init__(self, operations):
        self._operations = operations
        self.looking = 0
        self.open = asyncio.Event()
        self.open.set()

    async def get(self, key):
        self.looking += 1
        try:
            await self.open.wait()
            return await self._operations.get(key)
        finally:
            self.looking -= 1


class Watcher:
    """Reads a stream of events in the background."""

    def __init__(self, watches, status):
        self.frames = []
        self.task = asyncio.ensure_future(self._read(watches.follow(status)))

    async def _read(self, frames):
        async for frame in frames:
            self.frames.append(frame)

    async def until(self, condition):
        while not condition(self.frames):
            assert not self.task.done(), self.frames
            await asyncio.sleep(0)


@pytest.fixture
def parts(postgres):
    """What a server has, without its process."""

    async def make(pool):
        app = build_app(pool, ServerSettings(), Lifecycle())
        parts = app.state.parts
        parts.operations._operations = Counted(parts.operations.operations)
        return parts

    return make


async def begun(pool):
    @pool.operations.custom("wait")
    async def wait(connection, cursor):
        return Step(cursor, done=True)

    return (await pool.operations.start("wait")).status


async def test_two_watchers_cause_one_look(postgres, parts, monkeypatch):
    """And one that comes later hears at once how it is."""
    monkeypatch.setattr(watch, "_INTERVAL", 0)
    async with create_pool(postgres.url) as pool:
        made = await parts(pool)
        counted = made.operations.operations
        counted.open.clear()
        status = await begun(pool)
        watchers = [Watcher(made.watches, status) for _ in range(5)]
        while not counted.looking:
            await asyncio.sleep(0)
        late = Watcher(made.watches, status)
        await late.until(lambda frames: any(b"event: progress" in frame for frame in frames))
        for _ in range(100):
            # Whoever looked for himself would do so within these turns.
            await asyncio.sleep(0)
        assert counted.looking == 1
        counted.open.set()
        await (await pool.operations.get("wait")).run()
        await asyncio.gather(*(one.task for one in [*watchers, late]))
        assert all(one.frames[-1].startswith(b"event: end\n") for one in [*watchers, late])
        assert made.watches._watches == {}


async def test_when_nobody_watches_any_more_nobody_looks(postgres, parts):
    """A watcher that leaves takes the looking with it."""
    async with create_pool(postgres.url) as pool:
        made = await parts(pool)
        watcher = Watcher(made.watches, await begun(pool))
        await watcher.until(len)
        [looking] = made.watches._watches.values()
        watcher.task.cancel()
        await asyncio.wait({watcher.task})
        await asyncio.wait({looking._looking})
        assert made.watches._watches == {}


async def test_a_stream_is_never_silent_for_long(postgres, parts, monkeypatch):
    """A comment says that it is still there: proxies give up on silence."""
    assert watch.HEARTBEAT <= 15
    monkeypatch.setattr(watch, "HEARTBEAT", 0.01)
    async with create_pool(postgres.url) as pool:
        made = await parts(pool)
        watcher = Watcher(made.watches, await begun(pool))
        await watcher.until(lambda frames: frames.count(watch._BEAT) >= 2)
        watcher.task.cancel()
        await asyncio.wait({watcher.task})


async def test_a_server_that_drains_ends_its_streams_without_an_end(postgres, parts):
    """So that whoever watches comes back, to another one."""
    async with create_pool(postgres.url) as pool:
        made = await parts(pool)
        watcher = Watcher(made.watches, await begun(pool))
        await watcher.until(len)
        made.lifecycle.draining = True
        await watcher.task
        assert b"event: waiting\n" in watcher.frames[-1]
        assert b"shutting down" in watcher.frames[-1]


async def test_a_deleted_operation_has_ended(postgres, parts):
    """Nobody waits for what is not there any more."""
    async with create_pool(postgres.url) as pool:
        made = await parts(pool)
        status = await begun(pool)
        watcher = Watcher(made.watches, status)
        await watcher.until(len)
        connection = await asyncpg.connect(postgres.url)
        await connection.execute("delete from poolkeeper.operations")
        await connection.close()
        await watcher.task
        assert watcher.frames[-1].startswith(b"event: end\n")
