"""Read-only transactions cost their BEGIN and their COMMIT, and nothing else."""

import asyncio

import pytest

from poolkeeper.testing.proxy import Direction, Verdict
from tests.transactions.conftest import resolutions, value


async def read(connection):
    return await value(connection, "SELECT 1")


def messages_of(segments) -> list[tuple[str, str]]:
    return [(segment.direction.name, segment.types) for segment in segments if segment.types != "X"]


@pytest.mark.asyncio
async def test_reading_costs_no_more_messages_than_a_plain_transaction(rig):
    """Counted on the wire, message by message."""
    async with rig.behind_a_proxy(max_size=1, stall_after=0) as (pool, proxy):
        seen = []
        await pool.run_transaction(read, readonly=True)
        proxy.policy = lambda segment: seen.append(segment) or Verdict.PASS
        await pool.run_transaction(read, readonly=True)
        ours, seen[:] = messages_of(seen), []
        async with pool.acquire() as connection, connection.transaction():
            await read(connection)
        assert ours == messages_of(seen)
        assert len(ours) == 6


@pytest.mark.asyncio
async def test_reading_needs_no_ledger(rig):
    """A role that may create nothing can read; so can everybody on a standby."""
    async with rig.pool() as pool:
        assert await pool.run_transaction(read, readonly=True) == 1
    assert await rig.admin.fetchval("SELECT to_regnamespace('poolkeeper')") is None


async def with_a_lost_answer_to_commit(rig, **options):
    """How often a read-only function runs, and what the caller gets."""
    runs = []

    async def count(connection):
        runs.append(1)
        return await read(connection)

    async with rig.behind_a_proxy(max_size=1) as (pool, proxy):
        commits = []

        def lose_answer(segment):
            if segment.direction is Direction.TO_SERVER and "commit" in (segment.text or ""):
                commits.append(segment.link)
            elif segment.link in commits[:1]:
                return Verdict.LOSE
            return Verdict.PASS

        proxy.policy = lose_answer
        async with asyncio.timeout(20):
            result = await pool.run_transaction(count, readonly=True, **options)
        assert commits
        assert resolutions(pool) == []
        return len(runs), result


@pytest.mark.asyncio
async def test_a_lost_answer_to_the_commit_of_a_reader_is_harmless(rig):
    """What was read is returned."""
    assert await with_a_lost_answer_to_commit(rig) == (1, 1)


@pytest.mark.asyncio
async def test_a_serializable_reader_is_run_again(rig):
    """Only its COMMIT would have said that what it read fits together."""
    assert await with_a_lost_answer_to_commit(rig, isolation="serializable") == (2, 1)
    deferrable = {"isolation": "serializable", "deferrable": True}
    assert await with_a_lost_answer_to_commit(rig, **deferrable) == (1, 1)
