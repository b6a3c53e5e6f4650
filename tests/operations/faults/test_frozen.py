"""A worker that stood still for longer than its lease writes nothing when it comes back."""

from __future__ import annotations

import pytest

from poolkeeper.operations import runner, store
from tests.faults.points import at_once
from tests.operations.faults.frozen import freeze
from tests.operations.faults.jobs import JOBS, Custom
from tests.operations.faults.test_every_segment import AT_ONCE, claimed, second_chunk

pytestmark = pytest.mark.asyncio


@pytest.fixture
def sessions_survive(monkeypatch):
    """The server ends no session of a worker, so that only the claim is left to stop it.

    As where the new worker's role may not end sessions of the old one's.
    """

    async def forbidden(_connection, _owner, _backends=None):
        pass

    monkeypatch.setattr(store.Store, "terminate", staticmethod(forbidden))
    monkeypatch.setattr(runner, "BOUNDS", store.BOUNDS.rpartition("set local ")[0] + "-- ")


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("survive", [False, True], ids=["ended", "surviving"])
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

    places = range(claimed(steps), len(steps)) if job is Custom else second_chunk(steps)
    await at_once((point(place) for place in places), AT_ONCE)
    assert not world.verdict()
    # the others had the operation's row locked when they froze: their chunk was as good as done
    assert sum(taken.values()) > len(taken) / 2
    record_property("fault_points", len(taken))
