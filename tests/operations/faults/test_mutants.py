"""The same points and the same judge catch every wrong way to resume.

Two transactions and memory are caught by a cut, and by chaos as well. A missing epoch is caught by
a freeze alone: one fault at a time never has two workers, and random ones rarely meet at the place.
"""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from poolkeeper.testing.checker import Kind
from tests.faults.points import at_once
from tests.operations.faults import mutants
from tests.operations.faults.frozen import freeze
from tests.operations.faults.jobs import Backfill, Custom
from tests.operations.faults.test_every_segment import AT_ONCE, beginning, second_chunk
from tests.operations.faults.test_frozen import sessions_survive  # noqa: F401 - a fixture
from tests.operations.faults.world import RUN_SECONDS, Point

pytestmark = pytest.mark.asyncio


def verdict(world) -> set[Kind]:
    return {finding.kind for _where, finding in world.findings}


@pytest.mark.parametrize(
    ("plant", "kind", "where"),
    [
        (mutants.checkpoint_after_the_rows, Kind.DOUBLED, "answer"),
        (mutants.checkpoint_before_the_rows, Kind.LOST, "request"),
        (mutants.sent_again_from_memory, Kind.DOUBLED, "answer"),
    ],
)
async def test_a_cut_at_every_segment_catches(world, monkeypatch, plant, kind, where):
    """What is committed in two parts, or assumed, is torn by one fault between them."""
    plant(monkeypatch)
    steps = await world.dry_run(Custom)
    assert not world.findings, "without a fault nobody could tell"
    points = [Point(Custom, place, steps[place], "lost") for place in second_chunk(steps)]
    await at_once((world.run(point, world.fault("lost"), RUN_SECONDS) for point in points), AT_ONCE)
    caught = {at for at, finding in world.findings if finding.kind is kind}
    assert caught, world.verdict()
    assert any(where in at for at in caught)


@pytest.mark.parametrize(
    ("plant", "kind", "places"),
    [
        (mutants.lease_without_epoch, Kind.DOUBLED, second_chunk),
        (mutants.owner_in_place_of_epoch, Kind.DOUBLED, second_chunk),
        # it reads the cursor, and does what another one has claimed
        (mutants.epoch_forgotten_where_chunks_are_numbered, Kind.UNEXPECTED, beginning),
    ],
)
@pytest.mark.usefixtures("sessions_survive")
async def test_a_freeze_at_every_segment_catches(world, monkeypatch, plant, kind, places):
    """A worker that comes back and is not stopped does again what another one has done."""
    plant(monkeypatch)
    steps = await world.dry_run(Custom)
    assert not world.findings, "without a fault nobody could tell"
    await at_once((freeze(world, Custom, place) for place in places(steps)), AT_ONCE)
    assert kind in verdict(world), world.verdict()


@pytest.mark.parametrize(
    ("plant", "found"),
    [(lambda monkeypatch: None, set()), (mutants.locked_rows_skipped, {Kind.LOST})],
    ids=["ours", "skipped"],
)
async def test_a_row_locked_by_somebody_else_catches(world, monkeypatch, plant, found):
    """A cursor that has passed a row never comes back to it; ours waits for the lock."""
    plant(monkeypatch)
    Backfill.small_chunks(monkeypatch)
    job, operation = await world.new(Backfill)
    waits = """
        SELECT count(*) FROM pg_stat_activity
         WHERE wait_event_type = 'Lock' AND datname = current_database()"""
    other = await asyncpg.connect(world.url)
    try:
        async with world.worker(job) as ours, asyncio.timeout(RUN_SECONDS):
            transaction = other.transaction()
            await transaction.start()
            await other.execute(f"SELECT FROM {job.table} WHERE id = 3 FOR UPDATE")
            running = asyncio.create_task((await ours.get(str(operation.status.id))).run())
            while not running.done() and not (await world.query(waits))[0][0]:
                await asyncio.sleep(0.01)
            await transaction.rollback()
            await running
    finally:
        await other.close()
    await world.judge(job, "locked row")
    assert verdict(world) == found
