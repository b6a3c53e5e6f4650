"""One fault at every segment of a run: it ends by itself, nothing lost, nothing doubled."""

from __future__ import annotations

import pytest

from poolkeeper.testing.proxy import Direction
from tests.faults.crashes import crash_once
from tests.faults.points import CRASH, FAULTS, at_once
from tests.operations.faults.jobs import JOBS, Custom
from tests.operations.faults.world import RUN_SECONDS, Point

AT_ONCE = 16
"""Most points wait for something: a silence, the end of a lease, a server."""
POINTS_PER_CRASH = 24

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _small_chunks(request, monkeypatch):
    """A job of a few rows takes several chunks."""
    kind = JOBS[request.node.callspec.params["kind"]]
    kind.small_chunks(monkeypatch)


def claimed(steps):
    """Where the claim has been sent: what a worker says before is the same for every kind."""
    return 1 + max(place for place, step in enumerate(steps) if "with free" in (step.text or ""))


def beginning(steps):
    """The places of what is said between the claim and the first chunk."""
    return range(claimed(steps), second_chunk(steps).start // 2 + claimed(steps) // 2)


def second_chunk(steps):
    """The places of everything that is said for the second chunk."""
    begun = [place for place, step in enumerate(steps) if (step.text or "").startswith("BEGIN")]
    first, second = [place for place in begun if steps[place].direction is Direction.TO_SERVER][1:3]
    return range(first, second)


def places_of(kind, steps, fault):
    """Where to strike: all that is said by a worker of one kind, and all that differs in others."""
    if kind is Custom:
        return range(0 if fault == "lost" else claimed(steps), len(steps))
    second = second_chunk(steps)
    if fault != "lost":
        return second
    said = set()
    return [
        place
        for place in range(claimed(steps), len(steps))
        if place in second or (steps[place] not in said and not said.add(steps[place]))
    ]


def points_of(kind, steps, faults):
    return [
        Point(kind, place, steps[place], fault)
        for fault in faults
        for place in places_of(kind, steps, fault)
        if (FAULTS[fault].fits(steps[place]) if fault in FAULTS else steps[place].types != "X")
    ]


@pytest.mark.parametrize("kind", JOBS)
async def test_one_fault_at_any_segment_changes_nothing(world, kind, record_property):
    """Request lost, answer lost, silence, session ended after delivery: done once, no leak."""
    job = JOBS[kind]
    points = points_of(job, await world.dry_run(job), FAULTS)
    assert len(points) > 50
    await at_once(
        (world.run(point, world.fault(point.fault), RUN_SECONDS) for point in points), AT_ONCE
    )
    assert not world.verdict()
    record_property("fault_points", len(points))


@pytest.mark.parametrize("kind", JOBS)
async def test_a_crash_at_any_segment_changes_nothing(fragile_world, kind, record_property):
    """All processes of the server die once a request is delivered, or before its answer is."""
    job, world = JOBS[kind], fragile_world
    points = points_of(job, await world.dry_run(job), [CRASH])
    assert len(points) > 10
    for start in range(0, len(points), POINTS_PER_CRASH):
        await crash_once(world, points[start : start + POINTS_PER_CRASH])
    assert not world.verdict()
    record_property("fault_points", len(points))
