"""What workloads and their clients promise, on a real PostgreSQL in which nothing fails."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

import poolkeeper
from poolkeeper.testing.checker import Bounds, Kind, check
from poolkeeper.testing.clients import Clients
from poolkeeper.testing.history import History, Type
from poolkeeper.testing.workloads import (
    Bank,
    Counters,
    ListAppend,
    UniqueInserts,
    autocommit,
    final_read,
    in_transaction,
)

ALL = (UniqueInserts, Bank, ListAppend, Counters)


@asynccontextmanager
async def admin(url):
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def create(connection, kinds=ALL):
    workloads = [kind() for kind in kinds]
    for workload in workloads:
        await workload.create(connection)
    return workloads


async def run(pool, connection, workloads, *, more=500, **options):
    """Some hundred writes; the history and what is there afterwards."""
    history = History(seed=1)
    async with Clients(pool, workloads, history, seed=1, deadline=60, **options) as clients:
        await clients.acknowledged(more)
    return history, await final_read(connection, workloads)


@pytest.mark.asyncio
@pytest.mark.parametrize("create_pool", [poolkeeper.create_pool, asyncpg.create_pool])
@pytest.mark.parametrize("write", [in_transaction, autocommit])
async def test_fifty_clients_without_a_fault_leave_a_clean_report(postgres, create_pool, write):
    """All workloads at once, on our pool and on asyncpg's."""
    async with admin(postgres.url) as connection:
        workloads = await create(connection)
        async with create_pool(postgres.url, min_size=5, max_size=10) as pool:
            history, final = await run(pool, connection, workloads, writes=[write])
    report = check(history, final, bounds=Bounds(acknowledged=500))
    assert report.ok, str(report)
    assert (report.failed, report.unknown) == (0, 0)
    done = {operation.f for operation in history.operations() if operation.type is Type.OK}
    assert done == {
        "insert", "transfer", "append", "increment",
        "read-inserts", "read-bank", "read-list", "read-counter",
    }  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ALL)
async def test_a_write_that_is_made_twice_is_found(postgres, kind):
    """By each workload: its table must be able to show it."""
    made = 0

    async def twice_now_and_then(pool, body):
        nonlocal made
        made += 1
        if made % 50 == 0:
            await body(pool)
        await body(pool)

    async with admin(postgres.url) as connection:
        workloads = await create(connection, [kind])
        async with poolkeeper.create_pool(postgres.url, max_size=10) as pool:
            history, final = await run(
                pool, connection, workloads, more=200, writes=[twice_now_and_then]
            )
    report = check(history, final)
    assert report.doubled >= 1, str(report)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ALL)
async def test_an_acknowledged_write_that_was_never_made_is_found(postgres, kind):
    """By each workload."""
    made = 0

    async def lie_now_and_then(pool, body):
        nonlocal made
        made += 1
        if made % 50:
            await body(pool)

    async with admin(postgres.url) as connection:
        workloads = await create(connection, [kind])
        async with poolkeeper.create_pool(postgres.url, max_size=10) as pool:
            history, final = await run(
                pool, connection, workloads, more=200, writes=[lie_now_and_then]
            )
    report = check(history, final)
    assert report.lost >= 1, str(report)


@pytest.mark.asyncio
async def test_a_read_of_half_a_transfer_is_found(postgres):
    """A snapshot between the debit and the credit shows a wrong total."""

    class TornBank(Bank):
        async def move(self, connection, transfer):
            debit = transfer | {"target": transfer["source"]}
            await super().move(connection, debit)
            await connection.execute(
                "UPDATE workload_accounts SET balance = balance - $2 WHERE account = $1",
                transfer["source"],
                transfer["amount"],
            )
            await connection.execute(
                "UPDATE workload_accounts SET balance = balance + $2 WHERE account = $1",
                transfer["target"],
                transfer["amount"],
            )

    async with admin(postgres.url) as connection:
        workloads = await create(connection, [TornBank])
        async with poolkeeper.create_pool(postgres.url, max_size=10) as pool:
            history, final = await run(pool, connection, workloads, more=200, writes=[autocommit])
    assert Kind.TORN in {finding.kind for finding in check(history, final).findings}


@pytest.mark.asyncio
async def test_a_statement_that_is_refused_is_a_failed_write(postgres):
    """Not an unknown one: the server said that it did nothing."""

    async def read_only(pool, body):
        async with pool.acquire() as connection, connection.transaction(readonly=True):
            return await body(connection)

    async with admin(postgres.url) as connection:
        workloads = await create(connection, [UniqueInserts])
        async with poolkeeper.create_pool(postgres.url, max_size=10) as pool:
            history, final = await run(
                pool, connection, workloads, more=50, writes=[read_only, autocommit]
            )
    report = check(history, final)
    assert report.ok, str(report)
    assert report.failed
    assert report.unknown == 0


@pytest.mark.asyncio
async def test_a_mistake_of_the_test_ends_the_run(postgres):
    """Recorded as unknown answers it would look like an outage, and the report would be clean."""

    async def mistaken(pool, body):
        raise KeyError("a typing error")

    async with admin(postgres.url) as connection:
        workloads = await create(connection, [UniqueInserts])
        async with poolkeeper.create_pool(postgres.url, max_size=2) as pool:
            clients = Clients(pool, workloads, History(), count=3, writes=[mistaken])
            clients.start()
            with pytest.raises(KeyError, match="typing"):
                await clients.acknowledged(1)
            with pytest.raises(KeyError, match="typing"):
                await clients.acknowledged(1)
            with pytest.raises(KeyError, match="typing"):
                await clients.stop()


@pytest.mark.asyncio
async def test_a_client_that_does_not_come_back_is_told(postgres):
    """Its operation stands in the history as unknown, after all the time it took."""
    never = asyncio.Event()

    async def hang(pool, body):
        await never.wait()

    async with admin(postgres.url) as connection:
        workloads = await create(connection, [UniqueInserts])
        async with poolkeeper.create_pool(postgres.url, max_size=2) as pool:
            history = History()
            clients = Clients(pool, workloads, history, count=3, writes=[hang], reads=0)
            clients.start()
            async with asyncio.timeout(30):
                while len(history) < 3:
                    await asyncio.sleep(0)
            assert await clients.stop(timeout=0) == 3
            assert [event.type for event in history.events[3:]] == [Type.INFO] * 3
            with pytest.raises(TimeoutError, match="3 of 3 clients did not come back"):
                async with Clients(pool, workloads, history, count=3, writes=[hang], reads=0) as c:
                    c.stop = lambda stop=c.stop: stop(timeout=0)
                    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_the_final_read_waits_for_writes_under_way(postgres):
    """A session cut off in mid-write may commit after everybody has gone."""
    async with admin(postgres.url) as connection, admin(postgres.url) as orphan:
        workloads = await create(connection, [UniqueInserts])
        transaction = orphan.transaction()
        await transaction.start()
        await orphan.execute("INSERT INTO workload_inserts (id) VALUES (5)")
        reading = asyncio.create_task(final_read(connection, workloads))
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
        async with asyncio.timeout(30):
            while not await orphan.fetchval(waiting):
                await asyncio.sleep(0.01)
        await transaction.commit()
        assert list((await reading).inserts) == [5]


@pytest.mark.asyncio
async def test_tables_of_an_earlier_run_are_refused(postgres):
    """Their rows would be found as unexpected, or hide a loss."""
    async with admin(postgres.url) as connection:
        for kind in ALL:
            await kind().create(connection)
            with pytest.raises(asyncpg.DuplicateTableError):
                await kind().create(connection)


@pytest.mark.asyncio
async def test_the_same_seed_chooses_the_same_work(postgres):
    """For one client, which nobody else disturbs."""
    told = []
    for _ in range(2):
        async with admin(postgres.url) as connection:
            workloads = await create(connection)
            async with poolkeeper.create_pool(postgres.url, max_size=1) as pool:
                history, _final = await run(pool, connection, workloads, more=40, count=1)
            for workload in workloads:
                await connection.execute(f"DROP TABLE {', '.join(workload.tables)}")
        told.append([(event.f, event.value) for event in history.events][:80])
    assert told[0] == told[1]
