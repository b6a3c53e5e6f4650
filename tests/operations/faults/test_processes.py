"""Worker processes that die or stand still: who takes over, how soon, and what they write."""

from __future__ import annotations

import asyncio
import signal

import pytest

from poolkeeper.testing.contracts import eventually
from tests.operations.faults.process import Paced, WorkerProcess
from tests.operations.faults.world import NEVER, RUN_SECONDS

pytestmark = pytest.mark.asyncio

LEASE = 1.0
TAKEOVER_SECONDS = 1.0
"""The promise: from the end of the lease to the first chunk of whoever takes over."""
SLACK_SECONDS = 10.0
"""For a machine that is busy with something else."""


async def committed(world, operation, epoch, least=1):
    """Wait until a claim has committed some chunks."""

    async def enough():
        sql = "SELECT count(*) FROM poolkeeper.chunks WHERE operation = $1 AND epoch = $2"
        return (await world.query(sql, operation.status.id, epoch))[0][0] >= least

    await eventually(enough)


async def takeover_seconds(world, operation):
    """From the last chunk of the first claim to the first chunk of the second."""
    sql = """
        SELECT extract(epoch FROM min(at) FILTER (WHERE epoch = 2)
                                - max(at) FILTER (WHERE epoch = 1))::float8
          FROM poolkeeper.chunks WHERE operation = $1"""
    return (await world.query(sql, operation.status.id))[0][0]


async def test_a_killed_process_is_replaced_long_before_its_lease_ends(world, record_property):
    """SIGKILL; its sessions end, and a worker that waits sees that."""
    job, operation = await world.new(Paced)
    async with asyncio.timeout(RUN_SECONDS), WorkerProcess(world.url, NEVER) as dying:
        await committed(world, operation, 1, least=5)
        async with WorkerProcess(world.url, NEVER) as living:
            await dying.kill()
            await committed(world, operation, 2)
            await operation.cancel()
    books = await world.judge(job, "killed", "cancelled")
    assert set(books.rows_by_owner()) == {dying.owner, living.owner}
    assert not world.verdict()
    seconds = await takeover_seconds(world, operation)
    record_property("takeover_seconds_after_kill", round(seconds, 3))
    assert seconds < NEVER


async def test_a_process_frozen_past_its_lease_writes_nothing_when_it_goes_on(
    world, record_property
):
    """SIGSTOP; its sessions stay open, its lease ends, and SIGCONT comes too late."""
    job, operation = await world.new(Paced)
    async with asyncio.timeout(RUN_SECONDS), WorkerProcess(world.url, LEASE) as frozen:
        await committed(world, operation, 1, least=5)
        async with WorkerProcess(world.url, LEASE) as other:
            frozen.send(signal.SIGSTOP)
            await committed(world, operation, 2, least=5)
            frozen.send(signal.SIGCONT)
            await frozen.has_said("follows")
            since = (await world.query("SELECT max(seq) FROM poolkeeper.chunks"))[0][0]
            await committed(world, operation, 2, least=since + 5)
            await operation.cancel()
    books = await world.judge(job, "frozen", "cancelled")
    owners = [chunk["owner"] for chunk in books.chunks]
    assert owners == sorted(owners, key=[frozen.owner, other.owner].index)
    assert not world.verdict()
    seconds = await takeover_seconds(world, operation)
    record_property("takeover_seconds_after_freeze", round(seconds, 3))
    assert seconds < LEASE + TAKEOVER_SECONDS + SLACK_SECONDS
