"""A run that is cut short at any await is laid down, and the next one goes on."""

from __future__ import annotations

import asyncio

import pytest

from poolkeeper.operations import OperationState
from poolkeeper.testing.proxy import FaultProxy
from tests.faults.points import at_once
from tests.operations.faults.jobs import JOBS, Custom
from tests.operations.faults.test_every_segment import AT_ONCE, claimed, second_chunk
from tests.operations.faults.world import NEVER, RUN_SECONDS

pytestmark = pytest.mark.asyncio


class CancelAt:
    """Await a coroutine, and have the task cancelled at the ``number``-th of its own awaits."""

    def __init__(self, work, number):
        self._work = work
        self._number = number
        self.awaits = 0

    def __await__(self):
        steps = self._work.__await__()
        send, value = steps.send, None
        while True:
            try:
                awaited = send(value)
            except StopIteration as end:
                return end.value
            if self.awaits == self._number:
                asyncio.current_task().cancel()
            self.awaits += 1
            try:
                value = yield awaited
            except BaseException as error:
                send, value = steps.throw, error
            else:
                send = steps.send


async def cut_short(world, kind, place, how):
    """Cut a run short at a segment; another run of the same process does the rest."""
    job, operation = await world.new(kind)
    async with FaultProxy.to(world.url) as proxy, world.worker(job, proxy.url, lease=NEVER) as ours:
        handle = await ours.get(str(operation.status.id))
        stop = asyncio.Event()
        running = asyncio.create_task(handle.run(stop=stop))

        def policy(segment):
            if segment.index == place:
                running.cancel() if how == "cancelled" else stop.set()

        proxy.restart_count()
        proxy.policy = policy
        async with asyncio.timeout(RUN_SECONDS):
            await asyncio.wait({running})
            assert running.cancelled() if how == "cancelled" else running.result()
            proxy.policy = None
            status = await handle.run()
            assert status.state is OperationState.DONE
            await world.sound(ours)
    await world.judge(job, f"{kind.kind} {how} at segment {place}")


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("how", ["cancelled", "stopped"])
async def test_a_run_cut_short_at_any_segment_goes_on_at_once(
    world, monkeypatch, kind, how, record_property
):
    """No lease is waited for, nothing is lost or doubled, no connection stays borrowed."""
    job = JOBS[kind]
    job.small_chunks(monkeypatch)
    steps = await world.dry_run(job)
    before = next(at for at, step in enumerate(steps) if "pg_stat_get_activity" in str(step.text))
    last = len(steps) - before - 2
    places = range(last) if job is Custom else [at - before for at in second_chunk(steps)]
    await at_once((cut_short(world, job, place, how) for place in places), AT_ONCE)
    assert not world.verdict()
    record_property("fault_points", len(places))


async def test_a_run_cancelled_at_any_await_of_its_own_goes_on_at_once(world, record_property):
    """Also before anything is on the wire, and while it lays the operation down."""
    awaits = 0

    async def cancel_at(number, *, ends=False):
        nonlocal awaits
        job, operation = await world.new(Custom)
        async with world.worker(job, lease=NEVER) as ours, asyncio.timeout(RUN_SECONDS):
            handle = await ours.get(str(operation.status.id))
            work = CancelAt(handle.run(), number)

            async def run():
                return await work

            running = asyncio.create_task(run())
            await asyncio.wait({running})
            awaits = max(awaits, work.awaits)
            assert running.cancelled() is not ends
            status = await handle.run()
            assert status.state is OperationState.DONE
            await world.sound(ours)
        await world.judge(job, f"cancelled at await {number}")

    await cancel_at(-1, ends=True)
    assert awaits > 8
    await at_once((cancel_at(number) for number in range(awaits)), AT_ONCE)
    assert not world.verdict()
    record_property("fault_points", awaits)


async def test_a_pool_closed_at_any_segment_leaves_the_rest_to_others(
    world, monkeypatch, record_property
):
    """Another process goes on without waiting for the lease."""
    steps = await world.dry_run(Custom)

    async def close_at(place):
        job, operation = await world.new(Custom)
        key = str(operation.status.id)
        async with (
            FaultProxy.to(world.url) as proxy,
            world.worker(job, proxy.url, lease=NEVER) as ours,
            world.worker(job) as theirs,
        ):
            handle = await ours.get(key)
            running = asyncio.create_task(handle.run())
            reached = asyncio.Event()
            proxy.restart_count()
            proxy.policy = lambda segment: reached.set() if segment.index == place else None
            async with asyncio.timeout(RUN_SECONDS):
                await reached.wait()
                await ours.close()
                await asyncio.wait({running})
                assert running.cancelled()
                status = await (await theirs.get(key)).run()
                assert status.state is OperationState.DONE
        await world.judge(job, f"closed at segment {place}")

    places = [place - claimed(steps) for place in second_chunk(steps)]
    await at_once((close_at(place) for place in places), AT_ONCE)
    assert not world.verdict()
    record_property("fault_points", len(places))
