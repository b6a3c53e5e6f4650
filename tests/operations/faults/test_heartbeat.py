"""A worker that lives keeps its operation; one that does not is found out."""

from __future__ import annotations

import asyncio

import pytest

from poolkeeper.operations import OperationState, OperationStoppedError, Step
from poolkeeper.testing.contracts import eventually
from poolkeeper.testing.proxy import FaultProxy
from tests.operations.faults.jobs import WRITER, Custom
from tests.operations.faults.world import NEVER, RUN_SECONDS

pytestmark = pytest.mark.asyncio

LEASE = 0.4
GATE = 4711
"""The advisory lock that steps wait for."""


class Gated(Custom):
    """A chunk waits in the server, for as long as the test wants."""

    @staticmethod
    async def step(connection, cursor, table, rows):
        n = cursor or 0
        await connection.execute(f"INSERT INTO {table} (n) VALUES ({n})")
        await connection.execute(f"SELECT pg_advisory_xact_lock_shared({GATE})")
        return Step(n + 1, rows=1, done=n + 1 >= rows)


class Gate:
    """Closed while the block lasts, or until it is opened."""

    def __init__(self, world):
        self._world = world

    async def __aenter__(self):
        await self._world.query("SELECT pg_advisory_lock($1)", GATE)
        return self

    async def __aexit__(self, *_):
        await self._world.query("SELECT pg_advisory_unlock_all()")

    async def open(self):
        await self._world.query("SELECT pg_advisory_unlock_all()")

    async def reached(self):
        """Wait until a chunk stands here."""
        sql = f"""
            SELECT count(*) FROM pg_locks
             WHERE locktype = 'advisory' AND NOT granted AND objid = {GATE} AND database =
                   (SELECT oid FROM pg_database WHERE datname = current_database())"""
        await eventually(lambda: self._value(sql))

    async def _value(self, sql):
        return (await self._world.query(sql))[0][0]


async def row(world, operation):
    sql = "SELECT *, lease_until < clock_timestamp() AS over FROM poolkeeper.operations WHERE id=$1"
    return (await world.query(sql, operation.status.id))[0]


async def test_a_chunk_longer_than_the_lease_keeps_its_claim(world):
    """The lease is prolonged while the chunk runs; a worker that waits for its end gets nothing."""
    job, operation = await world.new(Gated)
    key = str(operation.status.id)
    async with (
        world.worker(job, lease=LEASE) as ours,
        world.worker(job) as theirs,
        asyncio.timeout(RUN_SECONDS),
    ):
        async with Gate(world) as gate:
            running = asyncio.create_task((await ours.get(key)).run())
            await gate.reached()
            until = (await row(world, operation))["lease_until"]
            waiting = asyncio.create_task((await theirs.get(key)).run())
            # several times over, the first lease would have ended
            for _ in range(6):
                last = (await row(world, operation))["lease_until"]

                async def prolonged(last=last):
                    return (await row(world, operation))["lease_until"] > last

                await eventually(prolonged)
            assert ((await row(world, operation))["lease_until"] - until).total_seconds() > LEASE
            assert not running.done()
        for status in await asyncio.gather(running, waiting):
            assert (status.state, status.epoch) == (OperationState.DONE, 1)
    await world.judge(job, "long chunk")
    assert not world.verdict()


@pytest.mark.parametrize("control", ["pause", "cancel"])
async def test_a_person_need_not_wait_for_the_end_of_a_chunk(world, control):
    """The heartbeat hears of it, and the chunk is undone though it would never end."""
    job, operation = await world.new(Gated)
    async with world.worker(job, lease=LEASE) as ours, asyncio.timeout(RUN_SECONDS):
        async with Gate(world) as gate:
            running = asyncio.create_task((await ours.get(str(operation.status.id))).run())
            await gate.reached()
            await getattr(operation, control)()
            with pytest.raises(OperationStoppedError):
                await running
            await world.sound(ours)
            assert await world.query(f"TABLE {job.table}") == []
        if control == "pause":
            await operation.resume()
            assert (await operation.run()).state is OperationState.DONE
            await world.judge(job, control)
        else:
            await world.judge(job, control, "cancelled")
    assert not world.verdict()


async def test_a_worker_whose_sessions_were_all_ended_goes_on_with_its_claim(world):
    """An idle worker that sees it without any does not take that for its death at once."""
    job, operation = await world.new(Gated)
    key = str(operation.status.id)
    async with (
        world.worker(job, lease=NEVER) as ours,
        world.worker(job, lease=NEVER) as theirs,
        asyncio.timeout(RUN_SECONDS),
    ):
        async with Gate(world) as gate:
            running = asyncio.create_task((await ours.get(key)).run())
            await gate.reached()
            waiting = asyncio.create_task((await theirs.get(key)).run())
            for _ in range(3):
                await world.query(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    f" WHERE application_name = 'poolkeeper worker {ours._owner.id}'"
                )
                await gate.reached()
        for status in await asyncio.gather(running, waiting):
            assert (status.state, status.epoch) == (OperationState.DONE, 1)
            assert status.outages == 3
    await world.judge(job, "sessions ended")
    assert not world.verdict()


async def test_a_worker_without_sessions_is_taken_for_dead_long_before_its_lease(world):
    """As when its machine is cut off; when it comes back, it follows the one that took over."""
    job, operation = await world.new(Custom)
    key = str(operation.status.id)
    async with (
        FaultProxy.to(world.url) as proxy,
        world.worker(job, proxy.url, lease=NEVER) as ours,
        world.worker(job, lease=NEVER) as theirs,
        asyncio.timeout(RUN_SECONDS),
    ):
        cut = asyncio.Event()

        async def policy(segment):
            if (segment.text or "").startswith("INSERT") and not cut.is_set():
                cut.set()
                proxy.policy = None
                await proxy.refuse()
                proxy.reset()

        proxy.policy = policy
        running = asyncio.create_task((await ours.get(key)).run())
        await cut.wait()
        status = await (await theirs.get(key)).run()
        assert (status.state, status.epoch) == (OperationState.DONE, 2)
        await proxy.accept()
        assert (await running).epoch == 2
    books = await world.judge(job, "cut off")
    assert books.rows_by_owner() == {theirs._owner.id: Custom.rows}
    assert not world.verdict()


async def test_the_rows_of_a_lost_claim_are_told_by_who_wrote_them(world):
    """The column the other tests go by holds the id of the worker."""
    job, operation = await world.new(Custom)
    async with world.worker(job) as ours:
        await (await ours.get(str(operation.status.id))).run()
    writers = await world.query(f"SELECT DISTINCT writer FROM {job.table}")
    assert [row[0] for row in writers] == [ours._owner.id]
    assert "application_name" in WRITER
