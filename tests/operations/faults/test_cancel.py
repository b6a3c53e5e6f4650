"""A run that is cut short at any await is laid down, and the next one goes on."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from poolkeeper import PoolClosedError
from poolkeeper.operations import OperationState
from poolkeeper.operations.runner import Runner
from poolkeeper.operations.worker import Worker
from poolkeeper.testing.proxy import FaultProxy
from tests.faults.points import at_once
from tests.operations.faults.jobs import JOBS, Custom
from tests.operations.faults.test_every_segment import AT_ONCE, claimed, second_chunk
from tests.operations.faults.world import NEVER, RUN_SECONDS

pytestmark = pytest.mark.asyncio


class CancelAt:
    """Has a task cancelled at the ``number``-th await of a run; counts them all."""

    def __init__(self, number):
        self.number = number
        self.awaits = 0
        self.task = None

    def awaited(self):
        if self.awaits == self.number:
            self.task.cancel()
        self.awaits += 1


_cancel_at: ContextVar[CancelAt | None] = ContextVar("cancel_at", default=None)


class Watched:
    """A coroutine whose awaits are told of."""

    def __init__(self, work, awaited):
        self._work = work
        self._awaited = awaited

    def __await__(self):
        steps = self._work.__await__()
        send, value = steps.send, None
        while True:
            try:
                future = send(value)
            except StopIteration as end:
                return end.value
            self._awaited()
            try:
                value = yield future
            except BaseException as error:
                send, value = steps.throw, error
            else:
                send = steps.send


def watch(monkeypatch, owner, name):
    """Tell of every await of a method, in whatever task."""
    method = getattr(owner, name)

    async def watched(*arguments, **options):
        work = method(*arguments, **options)
        cancel_at = _cancel_at.get()
        return await (work if cancel_at is None else Watched(work, cancel_at.awaited))

    monkeypatch.setattr(owner, name, watched)


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


@pytest.mark.parametrize(
    ("kind", "how"), [("custom", "stopped"), *((kind, "cancelled") for kind in JOBS)]
)
async def test_a_run_cut_short_at_any_segment_goes_on_at_once(
    world, monkeypatch, kind, how, record_property
):
    """No lease is waited for, nothing is lost or doubled, no connection stays borrowed."""
    job = JOBS[kind]
    job.small_chunks(monkeypatch)
    steps = await world.dry_run(job)
    before = next(at for at, step in enumerate(steps) if "pg_stat_get_activity" in str(step.text))
    last = len(steps) - before - 2
    everywhere = job is Custom and how == "cancelled"
    places = range(last) if everywhere else [at - before for at in second_chunk(steps)]
    await at_once((cut_short(world, job, place, how) for place in places), AT_ONCE)
    assert not world.verdict()
    record_property("fault_points", len(places))


async def test_a_run_cancelled_at_any_await_goes_on_at_once(world, monkeypatch, record_property):
    """Also between two things it says, and while it lays the operation down."""
    watch(monkeypatch, Worker, "see_through")
    watch(monkeypatch, Runner, "_next_chunk")

    async def cancel_at(number):
        job, operation = await world.new(Custom)
        async with world.worker(job, lease=NEVER) as ours, asyncio.timeout(RUN_SECONDS):
            handle = await ours.get(str(operation.status.id))
            cancel = CancelAt(number)
            token = _cancel_at.set(cancel)
            cancel.task = asyncio.create_task(handle.run())
            _cancel_at.reset(token)
            await asyncio.wait({cancel.task})
            assert cancel.task.cancelled() is (cancel.awaits > number >= 0)
            status = await handle.run()
            assert status.state is OperationState.DONE
            await world.sound(ours)
        await world.judge(job, f"cancelled at await {number}")
        return cancel.awaits

    awaits = await cancel_at(-1)
    assert awaits > 30
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
                assert isinstance(running.exception(), PoolClosedError)
                status = await (await theirs.get(key)).run()
                assert status.state is OperationState.DONE
        await world.judge(job, f"closed at segment {place}")

    places = [place - claimed(steps) for place in second_chunk(steps)]
    await at_once((close_at(place) for place in places), AT_ONCE)
    assert not world.verdict()
    record_property("fault_points", len(places))
