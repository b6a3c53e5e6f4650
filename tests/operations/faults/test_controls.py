"""People and other workers may come in at any moment; each operation is done once all the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from poolkeeper.operations import (
    OperationConflictError,
    OperationState,
    OperationStoppedError,
)
from poolkeeper.testing.proxy import FaultProxy
from tests.faults.points import at_once
from tests.operations.faults.jobs import JOBS, Custom
from tests.operations.faults.test_every_segment import AT_ONCE, claimed
from tests.operations.faults.world import RUN_SECONDS

pytestmark = pytest.mark.asyncio

WORKERS = 3
OPERATIONS = 12


@pytest.mark.parametrize("control", ["pause", "cancel"])
async def test_a_person_may_stop_an_operation_at_any_segment(world, control, record_property):
    """What was committed by then is in the books, and nothing else; a resumed one is done once."""
    steps = await world.dry_run(Custom)

    async def stop_at(place):
        job, operation = await world.new(Custom)
        asked = []

        async def ask():
            # it may come too late
            with suppress(OperationConflictError):
                return (await getattr(operation, control)()).state

        async def policy(segment):
            if segment.index == place:
                asked.append(asyncio.create_task(ask()))
                # at this segment, unless what it needs is locked until the segment has come
                await asyncio.wait(asked, timeout=0.1)

        async with FaultProxy.to(world.url) as proxy, world.worker(job, proxy.url) as ours:
            proxy.policy = policy
            async with asyncio.timeout(RUN_SECONDS):
                handle = await ours.get(str(operation.status.id))
                with suppress(OperationStoppedError):
                    await handle.run()
                assert asked
                told = await asked[0]
                status = await handle.refresh()
                assert status.state is (told or OperationState.DONE)
                if control == "pause" and status.state is OperationState.PAUSED:
                    await operation.resume()
                    status = await handle.run()
                    assert status.state is OperationState.DONE
                proxy.policy = None
                await world.sound(ours)
        await world.judge(job, f"{control} at segment {place}", status.state.value)
        return status.state

    places = range(claimed(steps), len(steps))
    ended = []

    async def point(place):
        ended.append(await stop_at(place))

    await at_once((point(place) for place in places), AT_ONCE)
    assert not world.verdict()
    if control == "cancel":
        assert ended.count(OperationState.CANCELLED) > len(ended) / 2
    record_property("fault_points", len(ended))


@pytest.mark.parametrize("kind", JOBS)
async def test_workers_that_race_for_one_operation_do_it_once(world, monkeypatch, kind):
    """Their leases are so short that they end in the middle of the work."""
    job = JOBS[kind]
    job.small_chunks(monkeypatch)
    for _ in range(3):
        made, operation = await world.new(job)
        key = str(operation.status.id)

        async def work(made=made, key=key):
            async with world.worker(made, lease=0.02) as ours, asyncio.timeout(RUN_SECONDS):
                status = await (await ours.get(key)).run()
                assert status.state is OperationState.DONE

        await asyncio.gather(*(work() for _ in range(WORKERS)))
        await world.judge(made, "race")
    assert not world.verdict()


async def test_workers_share_many_operations_and_each_is_done_once(world):
    """While somebody ends their sessions again and again."""
    jobs = [(await world.new(Custom))[0] for _ in range(OPERATIONS)]
    state = "SELECT bool_and(state = 'done'), sum(seq) FROM poolkeeper.operations"
    terminate = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name LIKE 'poolkeeper worker%' AND datname = current_database()
           AND application_name <> $1"""

    async def work():
        async with world.worker(jobs[0]) as ours:
            await ours.work(concurrency=2, stop=stop)

    stop = asyncio.Event()
    maker = f"poolkeeper worker {world.maker._owner.id}"
    async with asyncio.timeout(RUN_SECONDS):
        workers = [asyncio.create_task(work()) for _ in range(WORKERS)]
        seen = 0
        while not (done := (await world.query(state))[0])[0]:
            if done[1] >= seen + 4:
                seen = done[1]
                await world.query(terminate, maker)
            await asyncio.sleep(0.005)
        assert seen
        stop.set()
        await asyncio.gather(*workers)
    for job in jobs:
        await world.judge(job, "shared")
    assert not world.verdict()
