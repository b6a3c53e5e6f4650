"""Operations behind PgBouncer in transaction mode: exactly once, and taken over by lease alone."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from poolkeeper import ConnectionPoolManager
from poolkeeper.operations import OperationState
from poolkeeper.testing.proxy import FaultProxy
from tests.operations.faults.jobs import JOBS, Custom
from tests.operations.faults.world import RUN_SECONDS, World, manager_on
from tests.pool.test_pgbouncer import DRIVERS, PgBouncer, needs_pgbouncer

pytestmark = [needs_pgbouncer, pytest.mark.asyncio]

LEASE = 0.5


@pytest_asyncio.fixture
async def pooled_world(crashable_postgres, tmp_path):
    """The server, and the way to it through PgBouncer."""
    bouncer = PgBouncer(tmp_path / "pgbouncer", crashable_postgres)
    bouncer.start()
    try:
        async with World(crashable_postgres, crashable_postgres.url, tmp_path) as world:
            world.bouncer = bouncer
            yield world
    finally:
        bouncer.kill()


def pooled(url: str) -> ConnectionPoolManager:
    return manager_on(url, connect_kwargs=DRIVERS["asyncpg"])


def url_of(world) -> str:
    return world.bouncer.url().replace("+asyncpg", "")


@pytest.mark.parametrize("kind", JOBS)
async def test_every_kind_is_done_once_while_pgbouncer_is_killed(pooled_world, monkeypatch, kind):
    """Its sessions are of many clients, and what one sets must not be met by another."""
    world, job = pooled_world, JOBS[kind]
    job.small_chunks(monkeypatch)
    made, operation = await world.new(job)
    async with FaultProxy.to(url_of(world)) as proxy, asyncio.timeout(RUN_SECONDS):
        commits = []

        async def policy(segment):
            if segment.text == "commit" and not commits:
                commits.append(segment)
                await segment.link.deliver(segment)
                world.bouncer.kill()
                world.bouncer.start()

        proxy.policy = policy
        async with pooled(proxy.url) as pool:
            made.register(pool.operations)
            status = await (await pool.operations.get(str(operation.status.id))).run()
        assert commits
        assert (status.state, status.epoch) == (OperationState.DONE, 1)
    made.has_writers = False
    await world.judge(made, kind)
    assert not world.verdict()


async def test_a_worker_behind_pgbouncer_is_replaced_by_its_lease_alone(pooled_world):
    """Whether it has a session cannot be told: others use the same ones."""
    world = pooled_world
    job, operation = await world.new(Custom)
    key = str(operation.status.id)
    async with (
        FaultProxy.to(url_of(world)) as proxy,
        pooled(proxy.url) as first,
        world.worker(job) as theirs,
        asyncio.timeout(RUN_SECONDS),
    ):
        ours = first.operations
        ours.lease_seconds = LEASE
        job.register(ours)
        cut = asyncio.Event()

        async def policy(segment):
            if (segment.text or "").startswith("INSERT") and not cut.is_set():
                cut.set()
                proxy.policy = None
                await proxy.refuse()
                proxy.reset()

        proxy.policy = policy
        running = asyncio.create_task((await ours.get(key)).run())
        await cut.wait()
        direct = await world.query(
            "SELECT owner_direct, lease_until FROM poolkeeper.operations WHERE id = $1",
            operation.status.id,
        )
        assert direct[0]["owner_direct"] is False
        status = await (await theirs.get(key)).run()
        assert (status.state, status.epoch) == (OperationState.DONE, 2)
        first_chunk = "SELECT min(at) FROM poolkeeper.chunks WHERE operation = $1"
        began = (await world.query(first_chunk, operation.status.id))[0][0]
        assert began >= direct[0]["lease_until"]
        await proxy.accept()
        assert (await running).epoch == 2
    job.has_writers = False
    await world.judge(job, "lease")
    assert not world.verdict()
