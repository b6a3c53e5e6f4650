"""What became of a COMMIT that was still running when its answer was lost."""

import asyncio

import pytest

from poolkeeper import (
    TransactionOutcome,
    TransactionOutcomeUnknownError,
    TransactionRolledBackError,
)
from poolkeeper.testing.proxy import Direction, Verdict
from poolkeeper.transactions.ids import new_id
from tests.transactions.conftest import resolutions, work, write
from tests.transactions.holding import HELD, held_commits

WAITING_FOR_IT = "wait_event_type = 'Lock' AND query LIKE 'begin isolation level%'"
"""The tombstone waits for the transaction in doubt."""

READ_LEDGER = "SELECT count(*) FROM poolkeeper.ledger"


def cut_during_commit(proxy):
    """Reset the link whose COMMIT is held; the server goes on with it."""
    proxy.reset([link for link in proxy.links if link.backend_pid is not None])


@pytest.mark.asyncio
async def test_a_commit_that_ends_after_its_connection_is_found_committed(rig):
    """Whoever only reads the ledger meanwhile would say aborted, and do it twice."""
    async with rig.behind_a_proxy() as (pool, proxy), held_commits(rig) as held:
        before = await rig.admin.fetchval(READ_LEDGER)
        job = work()
        running = asyncio.ensure_future(pool.run_transaction(write, job))
        await rig.reached(HELD)
        cut_during_commit(proxy)
        await rig.reached(WAITING_FOR_IT)
        assert await rig.admin.fetchval(READ_LEDGER) == before
        await held.let_go()
        assert await running == job
        assert await rig.times_done(job) == 1
        assert resolutions(pool) == ["committed"]
        assert pool.get_statistics().total_retries == 0


@pytest.mark.asyncio
async def test_a_commit_that_does_not_end_is_ended_and_run_again(rig):
    """Its process is terminated, the tombstone says aborted, and the second attempt counts."""
    async with rig.behind_a_proxy() as (pool, proxy), held_commits(rig):
        job = work()
        running = asyncio.ensure_future(pool.run_transaction(write, job))
        await rig.reached(HELD)
        cut_during_commit(proxy)
        assert await running == job
        assert await rig.times_done(job) == 1
        assert resolutions(pool) == ["aborted"]
        assert await rig.sessions(HELD) == 0


@pytest.mark.asyncio
async def test_a_deadline_during_commit_is_resolved_as_well(rig):
    """The connection is dropped, the database asked; all within the timeout."""
    async with rig.pool() as pool:
        await pool.run_transaction(write, work())
        async with held_commits(rig):
            job = work()
            async with asyncio.timeout(20):
                assert await pool.run_transaction(write, job, timeout=4.0) == job
            assert await rig.times_done(job) == 1
            assert resolutions(pool) == ["aborted"]


@pytest.mark.asyncio
async def test_an_outcome_nobody_can_find_out_is_said_to_be_unknown(rig):
    """With the id to ask again; and later the question has an answer."""
    async with rig.behind_a_proxy(timeout=1.0) as (pool, proxy), held_commits(rig) as held:
        job = work()
        running = asyncio.ensure_future(pool.run_transaction(write, job))
        await rig.reached(HELD)
        await proxy.refuse()
        cut_during_commit(proxy)
        with pytest.raises(TransactionOutcomeUnknownError) as caught:
            await running
        error = caught.value
        assert error.attempts >= 1
        assert error.elapsed >= 1.0
        assert f"UUID('{error.transaction_id}')" in str(error)
        assert "Suggestion: " in str(error)
        assert resolutions(pool) == ["unknown"]
        assert pool.get_statistics().total_transactions_unknown == 1
        await held.let_go()
        await proxy.accept()
        outcome = await pool.transaction_outcome(error.transaction_id, timeout=20)
        assert outcome is TransactionOutcome.COMMITTED
        assert await rig.times_done(job) == 1


@pytest.mark.asyncio
async def test_a_commit_that_arrives_late_fails(rig):
    """It was on its way while the outcome was decided: the tombstone is in its way."""
    async with rig.behind_a_proxy() as (pool, proxy):
        key, job = new_id(), work()
        proxy.policy = lambda segment: (
            Verdict.HOLD
            if segment.direction is Direction.TO_SERVER and "commit" in (segment.text or "")
            else Verdict.PASS
        )
        held = proxy.wait_for_segment(lambda segment: "commit" in (segment.text or ""))
        running = asyncio.ensure_future(pool.run_transaction(write, job, id=key))
        await held
        proxy.policy = None
        assert await pool.transaction_outcome(key) is TransactionOutcome.ABORTED
        proxy.release()
        with pytest.raises(TransactionRolledBackError, match="declared it aborted"):
            await running
        assert await rig.times_done(job) == 0
        assert await pool.transaction_outcome(key) is TransactionOutcome.ABORTED


@pytest.mark.asyncio
async def test_locks_of_a_silent_connection_do_not_block_the_next_attempt(rig):
    """The server has not heard that its client is gone; the process is ended for it."""
    await rig.admin.execute("INSERT INTO done VALUES (0)")

    async def change(connection, new):
        await connection.execute(f"UPDATE done SET work = {int(new)} WHERE work <= 0")

    async with rig.behind_a_proxy(stall_after=0.2) as (pool, proxy):
        proxy.policy = lambda segment: (
            Verdict.DROP
            if segment.direction is Direction.TO_SERVER and "commit" in (segment.text or "")
            else Verdict.PASS
        )
        dropped = proxy.wait_for_segment(lambda segment: "commit" in (segment.text or ""))
        running = asyncio.ensure_future(pool.run_transaction(change, -1))
        await dropped
        await asyncio.sleep(0)
        proxy.policy = None
        async with asyncio.timeout(20):
            await running
        assert await rig.times_done(-1) == 1
        assert resolutions(pool) == ["aborted"]
