"""A worker that stood still for longer than its lease writes nothing when it comes back."""

from __future__ import annotations

import pytest

from poolkeeper.operations.store import Store
from tests.faults.points import at_once
from tests.operations.faults.frozen import freeze
from tests.operations.faults.jobs import JOBS, Custom
from tests.operations.faults.test_every_segment import AT_ONCE, claimed, second_chunk

pytestmark = pytest.mark.asyncio


@pytest.fixture
def sessions_survive(monkeypatch):
    """The new worker may not end sessions of the old one: only the claim is left to stop it."""

    async def forbidden(_connection, _owner, _backends=None):
        pass

    monkeypatch.setattr(Store, "terminate", staticmethod(forbidden))


@pytest.mark.parametrize(("kind", "survive"), [("custom", False), *((kind, True) for kind in JOBS)])
async def test_a_worker_frozen_at_any_segment_writes_nothing_when_thawed(
    request, world, monkeypatch, kind, survive, record_property
):
    """Another one has taken over and done a part; the first one sees that, and waits for it."""
    job = JOBS[kind]
    job.small_chunks(monkeypatch)
    if survive:
        request.getfixturevalue("sessions_survive")
    steps = await world.dry_run(job)
    taken = {}

    async def point(place):
        _books, taken[place] = await freeze(world, job, place)

    everywhere = job is Custom and survive
    places = range(claimed(steps), len(steps)) if everywhere else second_chunk(steps)
    await at_once((point(place) for place in places), AT_ONCE)
    assert not world.verdict()
    # the others had the operation's row locked when they froze: their chunk was as good as done
    assert sum(taken.values()) > len(taken) / 2
    record_property("fault_points", len(taken))


async def test_a_worker_frozen_before_its_commit_gives_way(world):
    """It has the operation locked, and its session ends with its lease."""
    steps = await world.dry_run(Custom)
    place = next(at for at in second_chunk(steps) if steps[at].text == "commit")
    _books, taken = await freeze(world, Custom, place, patient=True)
    assert taken
    assert not world.verdict()
