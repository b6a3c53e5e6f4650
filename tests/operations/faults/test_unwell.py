"""A database that answers, and refuses: workers wait until it does not any more."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from poolkeeper.operations import OperationState
from tests.operations.faults.jobs import Custom
from tests.operations.faults.process import Paced
from tests.operations.faults.world import RUN_SECONDS

pytestmark = pytest.mark.asyncio


class Read:
    """A database as a failover leaves it: sessions end, new ones find that it is read-only."""

    def __init__(self, world):
        self._world = world
        self._since = None

    async def only(self, on):
        name = (await self._world.query("SELECT current_database()"))[0][0]
        # as an administrator who may write all the same
        await self._world.query("SELECT set_config('default_transaction_read_only', 'off', false)")
        await self._world.query(
            f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if on else 'off'}"
        )
        [[self._since]] = await self._world.query("SELECT clock_timestamp()")
        await self.end_sessions()

    async def end_sessions(self):
        """Those from before: one that came after is let find out, however long that takes it."""
        await self._world.query(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'poolkeeper worker%' AND datname = current_database()"
            " AND backend_start < $1",
            self._since,
        )


class Hears:
    """What a run reports."""

    def __init__(self):
        self.waits = asyncio.Event()

    def __call__(self, report):
        if "read-only" in (report.waiting_for or ""):
            self.waits.set()


def outages_and_recycled(pool):
    return pool.counters.total_outages, set(pool.counters.recycled)


async def test_workers_wait_while_the_database_is_read_only(world):
    """One in the middle of its work, one that only looks for some, one that follows another."""
    job, operation = await world.new(Paced)
    read = Read(world)
    hears = [Hears(), Hears()]
    stop = asyncio.Event()

    async with (
        world.worker(job) as ours,
        world.worker(job) as followers,
        world.worker(job) as idle,
        asyncio.timeout(RUN_SECONDS),
    ):
        handle = await ours.get(str(operation.status.id))
        running = asyncio.create_task(handle.run(report=hears[0]))
        while not handle.status.seq:
            await asyncio.sleep(0.01)
        follower = await followers.get(str(operation.status.id))
        following = asyncio.create_task(follower.run(report=hears[1]))
        looking = asyncio.create_task(idle.work(stop=stop))
        await read.only(True)
        while not all(hear.waits.is_set() for hear in hears):
            # one that was just logging in has missed it
            await read.end_sessions()
            await asyncio.sleep(0.2)
        assert not running.done()
        assert not following.done()
        assert not looking.done()
        await read.only(False)
        seen = handle.status.seq
        while handle.status.seq <= seen:
            await asyncio.sleep(0.01)
        other, second = await world.new(Custom)
        while (await second.refresh()).state is not OperationState.DONE:
            await asyncio.sleep(0.01)
        stop.set()
        await looking
        await operation.cancel()
        await asyncio.gather(running, following, return_exceptions=True)
    await world.judge(job, "read-only", "cancelled")
    await world.judge(other, "read-only")
    assert not world.verdict()


async def test_it_is_told_that_the_database_is_read_only_from_the_start(world):
    """Before anything of the operation could be claimed or seen."""
    job, operation = await world.new(Custom)
    read = Read(world)
    hears = Hears()
    await read.only(True)
    async with world.worker(job) as operations, asyncio.timeout(RUN_SECONDS):
        handle = await operations.get(str(operation.status.id))
        running = asyncio.create_task(handle.run(report=hears))
        await hears.waits.wait()
        assert not running.done()
        # That each worker gives up its session twice a second is nobody's outage.
        assert outages_and_recycled(await operations._pool()) == (0, {"read_only"})
        await read.only(False)
        assert (await running).state is OperationState.DONE
    await world.judge(job, "read-only from the start")
    assert not world.verdict()


class OnceReadOnly(Custom):
    """Its first chunk finds itself in a session that is read-only, and stays so."""

    sessions: ClassVar = []

    @classmethod
    async def step(cls, connection, cursor, table, rows):
        if not cls.sessions:
            await connection.execute("SET default_transaction_read_only = on")
            await connection.execute("SET transaction_read_only = on")
        cls.sessions.append(await connection.fetchval("SELECT pg_backend_pid()"))
        return await Custom.step(connection, cursor, table, rows)


async def test_a_chunk_that_is_refused_as_read_only_is_done_in_another_session(world):
    """And the session given up for it is nobody's outage."""
    job, operation = await world.new(OnceReadOnly)
    async with world.worker(job) as operations, asyncio.timeout(RUN_SECONDS):
        handle = await operations.get(str(operation.status.id))
        assert (await handle.run()).state is OperationState.DONE
        assert outages_and_recycled(await operations._pool()) == (0, {"read_only"})
    first, *others = OnceReadOnly.sessions
    assert first not in others
    await world.judge(job, "a read-only chunk")
    assert not world.verdict()
