"""What each keeper is there for."""

import asyncio

import pytest

from poolkeeper.keepers import LeakKeeper, ReconnectKeeper
from poolkeeper.observability.events import (
    ConnectionLeakResolved,
    ConnectionLeakSuspected,
    DatabaseConnectionLost,
    DatabaseReconnected,
    PoolUtilizationHigh,
)
from poolkeeper.testing.contracts import eventually
from poolkeeper.testing.memory import MemoryDatabase, MemoryServerError, memory_pool

pytestmark = pytest.mark.asyncio


def listen(pool, *kinds):
    """Collect the events of some kinds from now on."""
    events = []
    pool.add_event_listener(lambda event: events.append(event) if isinstance(event, kinds) else 0)
    return events


async def test_liveness_finds_a_silent_database_without_anybodys_query():
    """An idle pool asks by itself; what does not answer is replaced, and the outage is told."""
    database = MemoryDatabase()
    async with memory_pool(database, min_size=2, probe_interval=0.05, probe_timeout=0.05) as pool:
        events = listen(pool, DatabaseConnectionLost, DatabaseReconnected)
        database.gates["probe"].close()
        database.keep_failing("connect", TimeoutError("silence"))
        await eventually(lambda: events)
        assert (await pool.health_check()).status == "unhealthy"
        database.keep_failing("connect", None)
        database.gates["probe"].open()
        await eventually(lambda: len(events) == 2)
        assert isinstance(events[0], DatabaseConnectionLost)
        assert isinstance(events[1], DatabaseReconnected)
        assert await pool.fetchval("SELECT 1") == 1


async def test_liveness_and_a_borrower_never_share_a_connection():
    """A connection being probed is not lent meanwhile, and not lost afterwards."""
    database = MemoryDatabase()
    async with memory_pool(
        database, min_size=1, max_size=1, probe_interval=0.05, probe_timeout=60
    ) as pool:
        with database.gates.closed("probe") as gate:
            await gate.reached()
            borrower = asyncio.create_task(pool.fetchval("SELECT 1"))
            await asyncio.sleep(0)
            assert pool.get_statistics().validating_connections == 1
            assert not borrower.done()
        assert await borrower == 1


async def test_a_leak_is_reported_once_with_all_that_helps_to_find_it():
    """Task, place of the acquire, what it runs now and its last statement; and its return."""
    database = MemoryDatabase()
    gate = database.gates["leaking"]
    gate.close()
    async with memory_pool(database, min_size=1, leak_detection_timeout=0.05) as pool:
        events = listen(pool, ConnectionLeakSuspected, ConnectionLeakResolved)

        async def stuck_in_here():
            await gate.enter()

        async def leaky():
            async with pool.acquire() as connection:
                await connection.execute("SELECT 'leak'")
                await stuck_in_here()

        task = asyncio.create_task(leaky(), name="leaky task")
        await eventually(lambda: events)
        (keeper,) = (keeper for keeper in pool._keepers if isinstance(keeper, LeakKeeper))
        await keeper.perform()
        (warning,) = events
        assert warning.held_seconds >= 0.05
        assert warning.task == "leaky task"
        assert __file__ in warning.acquired_at
        assert warning.acquired_at.endswith("leaky")
        assert "stuck_in_here" in warning.running_now
        assert warning.last_query == "SELECT 'leak'"
        gate.open()
        await task
        await eventually(lambda: len(events) == 2)
        note = events[1]
        assert isinstance(note, ConnectionLeakResolved)
        assert (note.task, note.connection_id) == ("leaky task", warning.connection_id)


async def entering(pool):
    async with pool.acquire() as connection:
        await connection.execute("SELECT pg_sleep(60)")


async def awaiting(pool):
    connection = await pool.acquire()
    await connection.execute("SELECT pg_sleep(60)")
    await pool.release(connection)


async def asking_the_pool(pool):
    await pool.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize("in_the_queue", [False, True])
@pytest.mark.parametrize("borrow", [entering, awaiting, asking_the_pool])
async def test_a_leak_report_names_the_borrowers_line(borrow, in_the_queue):
    """However the connection was acquired, and whether or not it had to be waited for."""
    database = MemoryDatabase()
    with database.gates.closed("sleep"):
        async with memory_pool(
            database, min_size=1, max_size=1, leak_detection_timeout=0.05, close_timeout=0.01
        ) as pool:
            events = listen(pool, ConnectionLeakSuspected)
            first = await pool.acquire() if in_the_queue else None
            task = asyncio.create_task(borrow(pool), name="borrower")
            await asyncio.sleep(0)
            if first is not None:
                await pool.release(first)
            await eventually(lambda: [event for event in events if event.task == "borrower"])
            assert events[-1].acquired_at.endswith(f" in {borrow.__name__}")
            task.cancel()
            await asyncio.wait({task})


async def test_a_leak_of_a_task_that_has_ended_says_so():
    """The commonest leak: an acquire without a release."""
    database = MemoryDatabase()
    async with memory_pool(
        database, min_size=1, leak_detection_timeout=0.05, close_timeout=0.01
    ) as pool:
        events = listen(pool, ConnectionLeakSuspected)

        async def forgetful():
            return await pool.acquire()

        connection = await asyncio.create_task(forgetful())
        await eventually(lambda: events)
        assert "ended without releasing" in events[0].running_now
        await pool.release(connection)


async def test_without_a_threshold_nobody_looks_for_leaks():
    """leak_detection_timeout=0 turns the reports off."""
    async with memory_pool(MemoryDatabase(), min_size=1, leak_detection_timeout=0) as pool:
        assert not [keeper for keeper in pool._keepers if isinstance(keeper, LeakKeeper)]


async def test_retirement_reports_high_utilization_once():
    """And again after it had fallen."""
    async with memory_pool(MemoryDatabase(), min_size=1, max_size=1) as pool:
        events = listen(pool, PoolUtilizationHigh)
        for expected in (1, 2):
            async with pool.acquire():
                pool._pool.housekeep()
                pool._pool.housekeep()
                assert len(events) == expected
                assert events[-1].utilization == 1.0
            pool._pool.housekeep()


class Door:
    """A TCP port that can be opened and closed, and the knocks at it."""

    def __init__(self):
        self.knocks = 0
        self.server = None
        self.port = 0

    async def open(self):
        self.server = await asyncio.start_server(self._knocked, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def close(self):
        self.server.close()
        await self.server.wait_closed()

    def _knocked(self, reader, writer):
        self.knocks += 1
        writer.close()


async def test_reconnect_breaks_the_backoff_when_the_door_opens():
    """The pool dials at once instead of sitting the rest of its backoff out."""
    database = MemoryDatabase()
    door = Door()
    await door.open()
    await door.close()
    async with memory_pool(
        database, min_size=1, reconnect_initial_delay=3600, reconnect_max_delay=3600
    ) as pool:
        keeper = ReconnectKeeper(pool._pool, lambda: [("127.0.0.1", door.port)])
        database.keep_failing("connect", ConnectionRefusedError("nobody there"))
        database.drop()
        await eventually(lambda: pool.get_statistics().total_connect_failures)
        await keeper.perform()
        database.keep_failing("connect", None)
        await door.open()
        assert pool.get_size() == 0
        await keeper.perform()
        await eventually(lambda: pool.get_size() == 1)
        await door.close()


async def test_reconnect_does_not_hurry_a_server_that_refuses_the_login():
    """An open door alone is no news: only one that was closed, or a server that was starting."""
    database = MemoryDatabase()
    door = Door()
    await door.open()
    async with memory_pool(
        database, min_size=1, reconnect_initial_delay=3600, reconnect_max_delay=3600
    ) as pool:
        keeper = ReconnectKeeper(pool._pool, lambda: [("127.0.0.1", door.port)])
        database.keep_failing(
            "connect", MemoryServerError("password authentication failed", sqlstate="28P01")
        )
        database.drop()
        await eventually(lambda: pool.get_statistics().total_connect_failures)
        for _ in range(3):
            await keeper.perform()
        assert pool.get_statistics().total_connect_failures == 1
    await door.close()


async def test_reconnect_hurries_once_a_starting_server_has_started():
    """57P03 means that it will be there in a moment."""
    database = MemoryDatabase()
    door = Door()
    await door.open()
    async with memory_pool(
        database, min_size=1, reconnect_initial_delay=3600, reconnect_max_delay=3600
    ) as pool:
        keeper = ReconnectKeeper(pool._pool, lambda: [("127.0.0.1", door.port)])
        database.keep_failing("connect", MemoryServerError("starting up", sqlstate="57P03"))
        database.drop()
        await eventually(lambda: pool.get_statistics().total_connect_failures)
        database.keep_failing("connect", None)
        await keeper.perform()
        await eventually(lambda: pool.get_size() == 1)
    await door.close()
