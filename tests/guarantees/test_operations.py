"""What holds for operations, whatever happens to their workers and databases."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import asyncpg
import pytest

from poolkeeper import create_pool
from poolkeeper.operations import OperationState, Step
from poolkeeper.testing.contracts import eventually
from poolkeeper.testing.proxy import Direction, FaultProxy, Verdict
from tests.guarantees.writes import COMMITS, GATE, Held, held_commits

pytestmark = pytest.mark.asyncio

STEPS = 60
TABLE = "CREATE TABLE write (number int)"

WORKER = f"""
import asyncio, os, sys
sys.path.insert(0, os.getcwd())
from poolkeeper import create_pool
from tests.guarantees.test_operations import counting

async def main():
    async with create_pool(os.environ["DATABASE_URL"], min_size=0) as pool:
        pool.operations.lease_seconds = float(sys.argv[1])
        counting(pool)
        operation = await pool.operations.start("count", upto={STEPS})
        await operation.run()

asyncio.run(main())
"""


def counting(pool):
    """A step that leaves one row."""

    @pool.operations.custom("count")
    async def count(connection, cursor, upto):
        number = cursor or 0
        await connection.execute("INSERT INTO write VALUES ($1)", number)
        return Step(number + 1, rows=1, done=number + 1 >= upto)


async def numbers(url):
    """What is in the table, from a connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT number FROM write ORDER BY number")
        return [row["number"] for row in rows]
    finally:
        await connection.close()


def worker(url, lease=15.0):
    """A process that carries the operation out."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(lease)],
        env={**os.environ, "DATABASE_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@asynccontextmanager
async def gate(database, number):
    """Nobody can insert that number inside this block; yields what waits for an attempt."""
    admin = await asyncpg.connect(database.url)
    try:
        await admin.execute(
            "CREATE FUNCTION stand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$;"
            " CREATE TRIGGER gate BEFORE INSERT ON write FOR EACH ROW"
            f" WHEN (NEW.number = {number}) EXECUTE FUNCTION stand()"
        )
        await admin.execute("SELECT pg_advisory_lock($1)", GATE)
        yield Held(admin)
    finally:
        await admin.close()


def claims(database):
    """How many claims have committed chunks."""
    return database.server.psql(
        "SELECT count(DISTINCT epoch) FROM poolkeeper.chunks", database=database.name
    )


async def test_atomic_checkpoints(postgres):
    """The rows of a chunk and its checkpoint are committed together or not at all."""
    postgres.server.psql(TABLE, database=postgres.name)
    async with create_pool(postgres.url, min_size=1) as pool, held_commits(postgres) as held:
        counting(pool)
        operation = await pool.operations.start("count", upto=2)
        run = asyncio.ensure_future(operation.run())
        await held.reached()
        assert await numbers(postgres.url) == []
        assert (await operation.refresh()).seq == 0
        postgres.server.terminate_backends(application_name=await _worker_name(pool))
        await held.reached()
        assert (await numbers(postgres.url), (await operation.refresh()).seq) == ([], 0)
        run.cancel()
        await asyncio.wait({run})


async def _worker_name(pool):
    return await pool.fetchval(
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'poolkeeper worker%' LIMIT 1"
    )


@pytest.mark.parametrize("verdict", [Verdict.LOSE, Verdict.DELIVER_THEN_RESET])
@pytest.mark.parametrize("direction", [Direction.TO_SERVER, Direction.TO_CLIENT])
async def test_lost_answers(postgres, direction, verdict):
    """A chunk whose COMMIT gets no answer is neither repeated nor left out."""
    postgres.server.psql(TABLE, database=postgres.name)
    struck = []
    committing = set()

    def policy(segment):
        if segment.direction is Direction.TO_SERVER and COMMITS in (segment.text or "").lower():
            committing.add(segment.link)
        elif segment.direction is Direction.TO_SERVER:
            committing.discard(segment.link)
        if segment.link in committing and segment.direction is direction and len(struck) < 3:
            struck.append(segment)
            return verdict
        return Verdict.PASS

    async with (
        FaultProxy.to(postgres.url) as proxy,
        create_pool(proxy.url, min_size=0) as pool,
    ):
        counting(pool)
        operation = await pool.operations.start("count", upto=10)
        proxy.policy = policy
        status = await operation.run()
        proxy.policy = None
    assert len(struck) == 3
    assert (status.rows_done, status.seq) == (10, 10)
    assert await numbers(postgres.url) == list(range(10))


async def test_killed_database(crashable_postgres):
    """An operation goes on by itself when its database has been killed and started again."""
    server = crashable_postgres
    server.psql(TABLE)
    async with create_pool(server.dsn(), min_size=1) as pool:
        counting(pool)
        operation = await pool.operations.start("count", upto=STEPS)
        reached = {number: asyncio.Event() for number in (10, 30, 50)}

        def report(report):
            for number, event in reached.items():
                if report.status.seq >= number:
                    event.set()

        run = asyncio.ensure_future(operation.run(report=report))
        for event in reached.values():
            await event.wait()
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.start)
        status = await run
    assert status.state is OperationState.DONE
    assert await numbers(server.dsn()) == list(range(STEPS))


async def test_killed_worker(postgres):
    """An operation whose worker was killed goes on where it stopped, in any other process."""
    postgres.server.psql(TABLE, database=postgres.name)
    async with gate(postgres, 20) as standing:
        first = worker(postgres.url)
        await standing.reached()
        first.kill()
        first.communicate()
        assert await numbers(postgres.url) == list(range(20))
    second = worker(postgres.url)
    assert await asyncio.to_thread(second.communicate) == (None, "")
    assert second.returncode == 0
    assert await numbers(postgres.url) == list(range(STEPS))
    assert claims(postgres) == "2"


async def test_frozen_worker(postgres):
    """A worker that was frozen past its lease and thawed never writes a row."""
    postgres.server.psql(TABLE, database=postgres.name)
    frozen = worker(postgres.url, lease=0.5)
    try:
        async with create_pool(postgres.url, min_size=1) as pool:
            counting(pool)
            async with gate(postgres, 20) as standing:
                await standing.reached()
                frozen.send_signal(signal.SIGSTOP)
                operation = await pool.operations.get("count")
                run = asyncio.ensure_future(operation.run())
                await eventually(lambda: _claimed_twice(operation))
            await run
        frozen.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(frozen.wait) == 0
    finally:
        frozen.kill()
        frozen.communicate()
    assert await numbers(postgres.url) == list(range(STEPS))
    assert claims(postgres) == "2"


async def _claimed_twice(operation):
    return (await operation.refresh()).epoch == 2


async def test_failover_that_loses_rows(replicated_postgres):
    """When a failover loses rows of an operation it goes back with them and does them again."""
    cluster = replicated_postgres
    cluster.primary.psql(TABLE)
    async with create_pool(cluster.url, min_size=1, probe_interval=0.2) as pool:
        counting(pool)
        operation = await pool.operations.start("count", upto=STEPS)
        await asyncio.to_thread(cluster.wait_for_catch_up)
        here = asyncio.Event()
        lost = asyncio.Event()

        def report(report):
            if report.status.seq >= 10:
                here.set()
            if report.status.seq >= 20:
                lost.set()

        run = asyncio.ensure_future(operation.run(report=report))
        await here.wait()
        await asyncio.to_thread(cluster.disconnect, cluster.standbys[0])
        await lost.wait()
        old = cluster.primary
        await asyncio.to_thread(old.crash)
        await asyncio.to_thread(cluster.promote)
        status = await run
    assert (status.state, status.rows_done) == (OperationState.DONE, STEPS)
    assert await numbers(cluster.primary.dsn()) == list(range(STEPS))
