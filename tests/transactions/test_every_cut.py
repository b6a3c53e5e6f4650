"""A transaction takes effect once, wherever its connection is cut."""

import asyncio

import pytest

from poolkeeper.testing.proxy import Direction, FaultProxy, Verdict
from tests.transactions.conftest import resolutions, work, write

CUTS = {
    "lost": Verdict.LOSE,
    "delivered, then reset": Verdict.DELIVER_THEN_RESET,
    "swallowed, then silence": Verdict.DROP,
}


async def segments_of_one_transaction(pool, proxy: FaultProxy) -> int:
    """How many there are when nothing goes wrong."""
    seen = []
    proxy.policy = lambda segment: seen.append(segment) or Verdict.PASS
    await pool.run_transaction(write, work())
    proxy.policy = None
    return len(seen)


@pytest.mark.asyncio
@pytest.mark.parametrize("cut", CUTS)
async def test_a_transaction_is_done_once_wherever_it_is_cut(rig, cut):
    """At each segment of BEGIN, the statement and COMMIT, on the way there and back."""
    async with rig.behind_a_proxy(stall_after=0.2, max_retries=3) as (pool, proxy):
        segments = await segments_of_one_transaction(pool, proxy)
        assert segments == 6
        for place in range(segments):
            proxy.restart_count()
            proxy.policy = lambda segment, place=place: (
                CUTS[cut] if segment.index == place else Verdict.PASS
            )
            job = work()
            async with asyncio.timeout(30):
                assert await pool.run_transaction(write, job) == job
            proxy.policy = None
            assert await rig.times_done(job) == 1, place
            await proxy.heal(links=True)
        assert sorted(set(resolutions(pool))) == ["aborted", "committed"]


@pytest.mark.asyncio
async def test_a_transaction_is_done_once_if_the_server_crashes(rig, crashable_postgres):
    """Right after each segment has been delivered; the transaction ends after the restart."""
    rig.url = crashable_postgres.create_database("crashing")
    crashable_postgres.psql("CREATE TABLE done (work bigint NOT NULL)", database="crashing")
    async with rig.behind_a_proxy(max_retries=5, outage_patience=30.0) as (pool, proxy):
        for place in range(6):
            job = work()
            proxy.restart_count()
            proxy.policy = crash = CrashAt(place, crashable_postgres)
            running = asyncio.ensure_future(pool.run_transaction(write, job))
            async with asyncio.timeout(20):
                await (await crash.begun)
            proxy.policy = None
            await asyncio.to_thread(crashable_postgres.start)
            async with asyncio.timeout(30):
                assert await running == job
            count = crashable_postgres.psql(
                f"SELECT count(*) FROM done WHERE work = {job}", database="crashing"
            )
            assert count == "1", place


class CrashAt:
    """A policy that crashes the server at one segment.

    An answer at that place is lost: what it answers was done. A request is delivered while the
    server begins to die.
    """

    def __init__(self, place, server) -> None:
        self._place = place
        self._server = server
        self.begun = asyncio.get_running_loop().create_future()

    async def __call__(self, segment):
        if segment.index != self._place:
            return Verdict.PASS
        crash = asyncio.ensure_future(asyncio.to_thread(self._server.crash))
        self.begun.set_result(crash)
        if segment.direction is Direction.TO_SERVER:
            return Verdict.PASS
        await asyncio.wait({crash})
        return Verdict.LOSE
