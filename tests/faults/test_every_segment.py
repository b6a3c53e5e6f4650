"""One fault at every segment of every call: nothing lost, nothing doubled, nobody left waiting."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.calls import CALLS
from tests.faults.points import FAULTS, World, at_once, points_of, prepare_database, said
from tests.faults.rig import EVERY_CALL_SECONDS

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
    print(f"{len(points)} fault points: {dict(world.outcomes)}")
