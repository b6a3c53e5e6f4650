"""Every fault, shortened, on a real database with real pools."""

import asyncio
import contextlib
from dataclasses import replace
from functools import partial

import pytest

from poolkeeper.drill.engine import Pace, Range
from poolkeeper.drill.faults import FAULTS, Crash, LostReplies, SilentConnections, fault_named
from poolkeeper.drill.poolkeepers import PoolkeeperAsyncpg, PoolkeeperPsycopg
from poolkeeper.drill.terms import Terms

pytestmark = pytest.mark.slow

# The bound is the usual one, but statements have more of it: on a busy machine the pool needs more
# than one try to tell a silent connection, and should have it before the statement times out.
TERMS = replace(Terms(), clients=12, connections=4, acquire_timeout=5.0, command_timeout=10.0)
PACE = Pace(before=0.3, after=0.3)
SHORT = {
    "long-outage": 2.0,
    "frozen-server": 1.0,
    "silent-network": 4.0,
    "silent-connections": 3.0,
    "lost-replies": 3.0,
    "one-dead-connection": 3.0,
    "refused-connections": 0.5,
    "too-many-connections": 1.0,
    "rotated-password": 0.5,
    "slow-network": 1.0,
}

UNNOTICED = {"slow-statements", "slow-network", "frozen-server", "silent-network"}
"""Nothing is broken, or not for long enough when shortened."""


async def drilled(kind, contender):
    """One drill on a ground of its own."""
    fault = kind()
    fault.seconds = SHORT.get(fault.name, fault.seconds)
    async with Range() as ground:
        return await ground.drill(fault, contender, TERMS, pace=PACE)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.name)
async def test_a_fault_bites_and_heals(kind):
    """Clients work before it and after it, and what takes everything away leaves a gap."""
    report = await drilled(kind, PoolkeeperAsyncpg)
    assert report.calls_per_second > 0
    assert report.acknowledged > 0
    assert report.broken_promises == []
    if kind.outage:
        assert report.longest_gap > 0.4
    if kind.name not in UNNOTICED:
        assert report.noticed_after is not None


@pytest.mark.asyncio
async def test_psycopg_is_drilled_as_well():
    report = await drilled(Crash, PoolkeeperPsycopg)
    assert report.contender == "poolkeeper, psycopg"
    assert report.acknowledged > 0
    assert report.broken_promises == []


class NaiveRetry(PoolkeeperAsyncpg):
    """Sends an insert again when it does not know whether it was done."""

    name = "naive retry"

    async def write(self, number, sent):
        for _ in range(5):
            try:
                async with self.pool.acquire() as connection:
                    return await connection.execute(self._write, number)
            except Exception:
                continue
        return None


class LostReplyToAnInsert(LostReplies):
    """Comes when an insert is on its way to the server, however slow or quick the machine is."""

    async def begin(self, scene):
        await scene.arena.proxy.wait_for_segment(
            lambda segment: "INSERT" in (segment.text or "") and "E" in segment.types
        )
        await super().begin(scene)


class AcknowledgesTooEarly(PoolkeeperAsyncpg):
    """Says that an insert is done, does it later, and tells nobody when that fails.

    Of the first one it knows when: it has a connection for it, and waits until told to go on.
    """

    name = "too early"

    def __init__(self, address, terms, *, promised, go_on):
        super().__init__(address, terms)
        self.promised, self.go_on = promised, go_on

    async def open(self):
        await super().open()
        self.keeping = set()

    async def write(self, number, sent):
        task = asyncio.create_task(self.keep(number))
        self.keeping.add(task)
        task.add_done_callback(self.keeping.discard)
        await asyncio.sleep(0.02)

    async def keep(self, number):
        with contextlib.suppress(Exception):
            async with self.pool.acquire() as connection:
                if not self.promised.is_set():
                    self.promised.set()
                    await self.go_on.wait()
                await connection.execute(self._write, number)


class SilentWhilePromised(SilentConnections):
    """Comes between a promise and its insert, however slow or quick the machine is."""

    def __init__(self, *, promised, go_on):
        self.promised, self.go_on = promised, go_on

    async def begin(self, scene):
        await self.promised.wait()
        await super().begin(scene)
        self.go_on.set()


@pytest.mark.asyncio
async def test_a_pool_that_repeats_what_may_have_been_done_is_caught():
    """Requests arrive and replies are lost: every repetition doubles."""
    report = await drilled(LostReplyToAnInsert, NaiveRetry)
    assert report.doubled > 0
    assert any("written twice" in promise for promise in report.broken_promises)


@pytest.mark.asyncio
async def test_a_pool_that_acknowledges_too_early_is_caught():
    """What it had not sent when the connections went silent is not there at the end."""
    events = {"promised": asyncio.Event(), "go_on": asyncio.Event()}
    report = await drilled(
        partial(SilentWhilePromised, **events), partial(AcknowledgesTooEarly, **events)
    )
    assert report.lost > 0
    assert any("acknowledged and lost" in promise for promise in report.broken_promises)


@pytest.mark.asyncio
async def test_a_drill_that_is_cancelled_leaves_nothing_behind():
    """No task, no process, no directory."""
    started = asyncio.Event()

    class Telling(PoolkeeperAsyncpg):
        async def open(self):
            await super().open()
            started.set()

    drilling = asyncio.create_task(drilled(fault_named("long-outage"), Telling))
    async with asyncio.timeout(30):
        await started.wait()
    drilling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drilling
    assert asyncio.all_tasks() == {asyncio.current_task()}
