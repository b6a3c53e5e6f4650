"""One fault at every segment of every call: nothing lost, nothing doubled, nobody left waiting."""

from __future__ import annotations

import pytest

from tests.faults.calls import CALLS
from tests.faults.crashes import crash_once
from tests.faults.points import (
    CRASH,
    FAULTS,
    Point,
    World,
    at_once,
    crashes,
    points_of,
    prepare_database,
    said,
)
from tests.faults.rig import EVERY_CALL_SECONDS

CRASH_PARTS = 2
POINTS_PER_CRASH = 24
EVERY_CALL = [(driver, name) for driver, calls in CALLS.items() for name in calls]


@pytest.fixture(scope="module")
def database(postgres_server):
    """One for all tests of this file: works have ids of their own."""
    name = "every_segment"
    try:
        yield prepare_database(postgres_server, name)
    finally:
        postgres_server.drop_database(name)


@pytest.mark.asyncio
async def test_there_are_five_hundred_points_at_least(postgres_server, database):
    """A call that said nothing on the wire would pass every test of it."""
    world = World(postgres_server, database)
    points = []

    async def count(driver, call):
        points.extend(points_of(driver, call, await world.dry_run(driver, call)))

    try:
        await at_once(count(driver, CALLS[driver][name]) for driver, name in EVERY_CALL)
    finally:
        await world.close()
    assert len(points) >= 500


@pytest.mark.asyncio
@pytest.mark.parametrize(("driver", "name"), EVERY_CALL, ids=map("-".join, EVERY_CALL))
async def test_one_fault_at_any_segment_is_told_truly(
    postgres_server, database, driver, name, record_property
):
    """Back in time; what it said is so; the pool has all its connections and no more."""
    call = CALLS[driver][name]
    world = World(postgres_server, database)
    try:
        steps = await world.dry_run(driver, call)
        points = points_of(driver, call, steps)
        await at_once(
            world.run(
                point,
                lambda segment, fault=FAULTS[point.fault]: fault.strike(segment, world),
                EVERY_CALL_SECONDS,
            )
            for point in points
        )
        report = await world.report()
        assert report.ok, said(report)
    finally:
        await world.close()
    record_property("fault_points", len(points))


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", CALLS)
@pytest.mark.parametrize("part", range(CRASH_PARTS))
async def test_a_crash_at_any_segment_is_told_truly(
    crashable_postgres, driver, part, record_property
):
    """All processes of the server die once a request is delivered, or before its answer is."""
    url = prepare_database(crashable_postgres, "every_segment")
    world = World(crashable_postgres, url)
    try:
        points = []
        calls = [call for call in CALLS[driver].values() if crashes(call)]
        for call in calls[part::CRASH_PARTS]:
            steps = await world.dry_run(driver, call)
            points += [
                Point(driver, call, place, step, CRASH)
                for place, step in enumerate(steps)
                if step.types != "X"
            ]
        for start in range(0, len(points), POINTS_PER_CRASH):
            await crash_once(world, points[start : start + POINTS_PER_CRASH])
        report = await world.report()
        assert report.ok, said(report)
    finally:
        await world.close()
    record_property("fault_points", len(points))
