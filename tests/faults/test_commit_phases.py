"""Every phase of COMMIT, every fault: the caller is told the truth, and the work is done once."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from poolkeeper import ConnectionPoolManager
from poolkeeper.outcomes import Outcome, outcome_of
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.proxy import FaultProxy
from tests.faults.commits import (
    CANCEL,
    CANCELLED,
    DEADLINE,
    ENDS_ITS_LINK,
    FAULTS,
    HOLD_AT_COMMIT,
    PHASES,
    SETTINGS,
    WAYS,
    BeforeTheAnswerArrives,
    BeforeTheCommitRecord,
    BeforeTheStandbyHasIt,
    Site,
)
from tests.faults.crashes import all_of
from tests.faults.points import Sessions, World, config_for, gone, prepare_database, said
from tests.faults.rig import DRIVERS
from tests.pool.soundness import assert_sound

HOLD_SECONDS = 1.2
"""How long a COMMIT stays where it is after the fault: longer than the deadline of any caller."""
HOLD_RESTARTED_SECONDS = 0.3
"""The same after the end of the server."""
CALL_SECONDS = 15.0
"""Including the time it is held, and that of a server to restart."""
DATABASE = "commit_phases"
FLUSHED = (BeforeTheStandbyHasIt, BeforeTheAnswerArrives)
"""Phases in which the commit record is on disk."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(_initialized_postgres):
    """One that waits for its disk, as the flush is one of the phases; with its database."""
    directory = Path(tempfile.mkdtemp(prefix="poolkeeper-test-"))
    try:
        _initialized_postgres.copy_to(directory)
        with FaultyPostgres(directory, settings=SETTINGS, durable=True) as server:
            prepare_database(server, DATABASE)
            server.psql(HOLD_AT_COMMIT, database=DATABASE)
            yield server
    finally:
        shutil.rmtree(directory)


@asynccontextmanager
async def world_on(server):
    world = World(server, server.dsn(DATABASE))
    try:
        yield world
    finally:
        await world.close()


@asynccontextmanager
async def site_on(world, phase, driver, way, fault):
    """A pool that has done everything but the call."""
    application = f"commit-{next(_numbers)}"
    name = f"{driver} {way}, {type(phase).__name__}: {fault}"
    async with FaultProxy.to(world.url) as proxy:
        pool = ConnectionPoolManager(
            config_for(proxy.url, driver, stall_after=0.2, timeout=12.0),
            server_settings={"application_name": application, "synchronous_commit": "on"},
        )
        async with pool:
            work = world.new_work(1)
            site = Site(name, way, fault, world, pool, proxy, phase, application, work)
            await WAYS[way](pool, world.new_work(1), None)
            proxy.policy = site.policy
            yield site
            await proxy.heal(links=True)
        await world.emptied(application, 0)


async def judge(site, doing, over):
    """Record what the caller was told; ask about what nobody could know; look at the pool."""
    error = await site.world.record(site.name, site.fault, site.work, doing, CALL_SECONDS)
    await over.wait()
    await site.proxy.heal(links=True)
    if site.fault in ENDS_ITS_LINK:
        await gone(site.link)
    await site.world.ask(site.pool, error)
    await assert_sound(site.pool, Sessions(site.world, site.application))
    return error


async def times_there(site) -> int:
    rows = await site.world.query("SELECT FROM work WHERE id = $1", site.work)
    return len(rows)


async def held_and_struck(phase, sites, strike, hold):
    """Bring all COMMITs into the phase, strike, and let them go on a while later."""
    await phase.enter()
    try:
        await all_of(*(site.get_there() for site in sites))
        await strike()
        # Resolvers come while the COMMIT in doubt is still running.
        await asyncio.sleep(hold)
    finally:
        await phase.leave()
        for site in sites:
            site.proxy.release()


async def results_of(phase, sites, strike, hold):
    """What each caller was told, by the name of its site."""
    results = {}
    over = asyncio.Event()

    async def struck():
        await strike()
        over.set()

    async def watch(site):
        await site.begun.wait()
        results[site.name] = await judge(site, site.doing, over)

    await all_of(held_and_struck(phase, sites, struck, hold), *(watch(site) for site in sites))
    return results


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", PHASES)
async def test_a_fault_during_commit_is_told_truly(server, driver, name, record_property):
    """Each fault strikes one COMMIT in this phase; the server lives."""
    async with world_on(server) as world, AsyncExitStack() as stack:
        phase = PHASES[name](world)
        sites = [
            await stack.enter_async_context(site_on(world, phase, driver, way, fault))
            for way in WAYS
            for fault in FAULTS
        ]

        async def strike():
            await all_of(*(FAULTS[site.fault](site) for site in sites))

        results = await results_of(phase, sites, strike, HOLD_SECONDS)
        for site in sites:
            await expect(phase, site, results[site.name])
        await stack.aclose()
        report = await world.report()
        assert report.ok, said(report)
        record_property("fault_points", len(sites))


async def expect(phase, site, error):
    """What is certain in a phase, beyond what is true of every answer."""
    if site.fault == DEADLINE:
        return  # it may have come before the COMMIT was sent
    cancelled = site.fault == CANCELLED
    if site.fault == CANCEL and isinstance(phase, BeforeTheCommitRecord):
        assert outcome_of(error) is Outcome.ROLLED_BACK, f"{site.name}: {error!r}"
        return
    harmless = site.fault == CANCEL and not isinstance(phase, BeforeTheAnswerArrives)
    if harmless or (site.way == "run_transaction" and not cancelled):
        assert error is None, f"{site.name}: {error!r}"
    if isinstance(phase, FLUSHED) or (cancelled and site.way != "autocommit"):
        # Nobody undoes what is on disk, and COMMIT is not cancelled with its caller.
        assert await times_there(site) == 1, f"{site.name}: {error!r}"


def _kill_one_backend(server, sites):
    server.kill_backend(sites[0].pid)
    # What stands still does not die, and all have to before the server goes on.
    server.thaw()


def _crash(server, sites):
    server.crash()


def _stop_immediately(server, sites):
    server.stop("immediate")


ENDS = {
    "SIGKILL of one backend": _kill_one_backend,
    "crash of everything": _crash,
    "immediate stop": _stop_immediately,
}


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", PHASES)
async def test_the_end_of_the_server_during_commit_is_told_truly(
    server, end, name, record_property
):
    """It ends with all COMMITs in this phase, and is started again."""
    async with world_on(server) as world, AsyncExitStack() as stack:
        phase = PHASES[name](world)
        sites = [
            await stack.enter_async_context(site_on(world, phase, driver, way, end))
            for driver in DRIVERS
            for way in WAYS
        ]

        async def strike():
            await asyncio.to_thread(ENDS[end], server, sites)
            for site in sites:
                # An answer that is held was never read by anybody.
                site.proxy.reset(site.link)
            await asyncio.to_thread(server.start)

        results = await results_of(phase, sites, strike, HOLD_RESTARTED_SECONDS)
        for site in sites:
            if site.way == "run_transaction":
                assert results[site.name] is None, f"{site.name}: {results[site.name]!r}"
            elif isinstance(phase, FLUSHED):
                assert await times_there(site) == 1, site.name
            elif isinstance(phase, BeforeTheCommitRecord):
                assert await times_there(site) == 0, site.name
        await stack.aclose()
        report = await world.report()
        assert report.ok, said(report)
        record_property("fault_points", len(sites))
