"""What is in doubt when a pool is closed is found out all the same."""

import asyncio
from uuid import uuid4

import pytest

from poolkeeper import TransactionOutcomeUnknownError
from poolkeeper.testing.proxy import Direction
from tests.transactions.conftest import resolutions, work, write
from tests.transactions.holding import HELD, held_commits

WAITING_FOR_IT = "wait_event_type = 'Lock' AND query LIKE 'begin isolation level%'"


@pytest.mark.asyncio
async def test_a_commit_that_was_unanswered_when_the_pool_was_closed_is_resolved(rig):
    """The pool lends nothing any more; the question goes on a connection of its own."""
    async with rig.behind_a_proxy() as (pool, proxy), held_commits(rig) as held:
        job = work()
        running = asyncio.ensure_future(pool.run_transaction(write, job))
        await rig.reached(HELD)
        closing = asyncio.ensure_future(pool.close(timeout=20))
        await asyncio.sleep(0)
        proxy.reset([link for link in proxy.links if link.backend_pid is not None])
        await rig.reached(WAITING_FOR_IT)
        await held.let_go()
        assert await running == job
        await closing
        assert await rig.times_done(job) == 1
        assert resolutions(pool) == ["committed"]
    assert await rig.sessions() == 0


@pytest.mark.asyncio
async def test_a_question_that_waited_for_a_connection_goes_on_while_the_pool_is_closed(rig):
    """It was in the queue when the queue was refused."""
    async with rig.behind_a_proxy(max_size=1) as (pool, proxy), held_commits(rig) as held:
        job = work()
        running = asyncio.ensure_future(pool.run_transaction(write, job))
        await rig.reached(HELD)
        await proxy.refuse()
        proxy.reset([link for link in proxy.links if link.backend_pid is not None])
        while not pool._pool.state.waiters:
            await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(pool.close(timeout=20))
        await asyncio.sleep(0)
        await held.let_go()
        await proxy.accept()
        assert await running == job
        await closing
        assert await rig.times_done(job) == 1


@pytest.mark.asyncio
async def test_a_pool_that_was_terminated_asks_nothing_any_more(rig):
    """Nothing of it is left; whoever waits learns that the outcome is unknown."""
    async with rig.behind_a_proxy() as (pool, proxy):
        proxy.policy = lambda segment: (
            segment.link.silence(Direction.TO_CLIENT)
            if segment.direction is Direction.TO_SERVER and "; commit" in (segment.text or "")
            else None
        )
        sent = proxy.wait_for_segment(lambda segment: "; commit" in (segment.text or ""))
        running = asyncio.ensure_future(pool.run_transaction(write, work()))
        await sent
        pool.terminate()
        with pytest.raises(TransactionOutcomeUnknownError):
            await running
        assert resolutions(pool) == ["unknown"]


@pytest.mark.asyncio
async def test_a_closed_pool_answers_no_new_question(rig):
    """Only what was begun before goes on."""
    async with rig.pool() as pool:
        await pool.run_transaction(write, work())
    with pytest.raises(TransactionOutcomeUnknownError):
        await pool.transaction_outcome(uuid4())
