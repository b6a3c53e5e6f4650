"""A worker that stands still at a segment, loses its operation, and comes back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from poolkeeper.operations import OperationState
from poolkeeper.operations.runner import Report
from poolkeeper.testing.checker.operations import Books
from poolkeeper.testing.proxy import Direction, FaultProxy, Segment
from tests.operations.faults.jobs import Job
from tests.operations.faults.world import RUN_SECONDS, World

LEASE = 0.3
"""Of the worker that freezes."""
HELD_LOOKS = 10
"""So often in a row an operation whose lease is over has to be locked: then its claim is held."""

_TAKEN = """
SELECT owner <> $2 OR state = 'done' FROM poolkeeper.operations WHERE id = $1"""
_HELD = """
SELECT lease_until < clock_timestamp()
       AND NOT EXISTS (SELECT FROM poolkeeper.operations WHERE id = $1 FOR UPDATE SKIP LOCKED)
  FROM poolkeeper.operations WHERE id = $1"""


class Follower:
    """What a run reports: where it stands."""

    def __init__(self) -> None:
        self.follows = asyncio.Event()

    def __call__(self, report: Report) -> None:
        if "works on it" in (report.waiting_for or ""):
            self.follows.set()


class Second:
    """A policy that stops a link at its second BEGIN: one chunk is done, the next one is not."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.stands = asyncio.Event()
        self._proxy = proxy
        self._begun = 0

    def __call__(self, segment: Segment) -> None:
        begins = segment.direction is Direction.TO_SERVER and (segment.text or "").startswith("BEG")
        self._begun += begins
        if begins and self._begun == 2:
            self._proxy.hold()
            self.stands.set()


async def freeze(
    world: World, kind: type[Job], place: int, *, patient: bool = False
) -> tuple[Books, bool]:
    """Freeze a worker at a segment until another one is at work, thaw it, and let both finish.

    Returns what is in the books, and whether the other one had taken over. That it cannot, because
    the operation is locked, is waited out only by the patient.
    """
    job, operation = await world.new(kind)
    key = str(operation.status.id)
    async with (
        FaultProxy.to(world.url) as slow,
        FaultProxy.to(world.url) as gated,
        # the network alone is frozen, and the worker must not find out
        world.worker(job, slow.url, lease=LEASE, stall_after=0.0) as a,
        world.worker(job, gated.url) as b,
    ):
        frozen = asyncio.Event()

        def stop(segment: Segment) -> None:
            if segment.index == place and not frozen.is_set():
                slow.hold()
                frozen.set()

        slow.policy = stop
        follower = Follower()
        second = Second(gated)
        gated.policy = second
        running: list[asyncio.Task[Any]] = []

        async def run(operations: Any, **options: Any) -> Any:
            return await (await operations.get(key)).run(**options)

        try:
            async with asyncio.timeout(RUN_SECONDS):
                running.append(first := asyncio.create_task(run(a, report=follower)))
                await frozen.wait()
                running.append(other := asyncio.create_task(run(b)))
                taken = await _taken_or_held(
                    world, operation.status.id, a._owner.id, patient=patient
                )
                if taken:
                    await _first_of(second.stands.wait(), asyncio.wait({other}))
                slow.policy = None
                slow.release()
                # it has found out, or (if it is wrong) has done the rest itself
                await _first_of(follower.follows.wait(), asyncio.wait({first}))
                gated.policy = None
                gated.release()
                for status in await asyncio.gather(*running):
                    assert status.state is OperationState.DONE
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        await slow.heal(links=True)
        await gated.heal(links=True)
    return await world.judge(job, f"{kind.kind} frozen at segment {place}"), taken


async def _taken_or_held(world: World, id_: Any, owner: str, *, patient: bool) -> bool:
    """Wait until another worker has it; False if the frozen one's session keeps it from that."""
    held = 0
    while True:
        if (await world.query(_TAKEN, id_, owner))[0][0]:
            return True
        # whoever looks for work locks it for a moment, too
        held = held + 1 if (await world.query(_HELD, id_))[0][0] else 0
        if held == HELD_LOOKS and not patient:
            return False
        await asyncio.sleep(0.01)


async def _first_of(*works: Any) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
