"""What holds for a single server, and with standbys, synchronous or not."""

import asyncio

import asyncpg
import pytest

from poolkeeper.exceptions import TransactionOutcomeUnknownError
from poolkeeper.observability.events import FailoverDetected
from poolkeeper.outcomes import TransactionOutcome
from poolkeeper.transactions.ids import new_id
from tests.faults.rig import FAILURES, outcome, pool_on, until, with_both_drivers
from tests.guarantees.writes import write

pytestmark = pytest.mark.asyncio


class Clients:
    """Ten clients that insert numbers until told to stop; which ones were acknowledged."""

    def __init__(self, pool):
        self.pool = pool
        self.acknowledged = []
        self._stop = False
        self._next = 0
        self._tasks = []

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._client()) for _ in range(10)]
        await until(lambda: len(self.acknowledged) >= 50)
        return self

    async def _client(self):
        while not self._stop:
            number = self._next = self._next + 1
            try:
                await write(self.pool, number)
            except FAILURES:
                await asyncio.sleep(0.01)
            else:
                self.acknowledged.append(number)

    async def __aexit__(self, *_):
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def more(self, number=20):
        """Return after that many more acknowledgements."""
        goal = len(self.acknowledged) + number
        await until(lambda: len(self.acknowledged) >= goal)


async def numbers(url):
    """What is in the table, from a connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        return [row["number"] for row in await connection.fetch("SELECT number FROM write")]
    finally:
        await connection.close()


TABLE = "CREATE TABLE write (number int)"


@with_both_drivers
async def test_single_server(crashable_postgres, driver):
    """An acknowledged write survives a crash of the server."""
    server = crashable_postgres
    server.psql(TABLE)
    async with pool_on(server.dsn(), driver) as pool, Clients(pool) as clients:
        for _ in range(3):
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.start)
            await clients.more()
    there = await numbers(server.dsn())
    assert len(there) == len(set(there))
    assert set(clients.acknowledged) <= set(there)


@with_both_drivers
async def test_synchronous_failover(replicated_postgres, driver):
    """An acknowledged write survives the failover to the standby that confirmed it."""
    cluster = replicated_postgres
    cluster.primary.psql(TABLE)
    cluster.replicate_synchronously()
    async with pool_on(cluster.url, driver, probe_interval=0.2) as pool, Clients(pool) as clients:
        await asyncio.to_thread(cluster.primary.crash)
        await asyncio.to_thread(cluster.promote)
        await asyncio.to_thread(cluster.replicate_synchronously, on=False)
        await clients.more()
    there = await numbers(cluster.primary.dsn())
    assert len(there) == len(set(there))
    assert set(clients.acknowledged) <= set(there)


@pytest.mark.parametrize("streamed", [True, False])
async def test_commit_waiting_for_a_standby(replicated_postgres, streamed):
    """A COMMIT that was waiting for a standby is resolved truthfully on the new primary.

    Whether it is there depends on what the standby had got when the primary died.
    """
    cluster = replicated_postgres
    old, [standby] = cluster.primary, cluster.standbys
    old.psql(TABLE)
    async with pool_on(cluster.url, probe_interval=0.2) as pool:
        await write(pool, 0)
        cluster.wait_for_catch_up()
        if not streamed:
            cluster.disconnect(standby)
        # A standby that does not exist: the wait never ends, whatever the other one confirms.
        old.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        old.psql("SELECT pg_reload_conf()")
        task = asyncio.create_task(outcome(write(pool, 1), bound=30.0))
        await until(lambda: old.psql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
        if streamed:
            await asyncio.to_thread(_wait_until_received, old, standby)
        await asyncio.to_thread(old.crash)
        await asyncio.to_thread(cluster.promote, standby)
        await asyncio.to_thread(cluster.replicate_synchronously, on=False)
        assert await task is None
    assert sorted(await numbers(standby.dsn())) == [0, 1]


@with_both_drivers
async def test_closing_during_commit(crashable_postgres, driver):
    """Closing the pool does not make a COMMIT succeed without its standby.

    PostgreSQL answers COMMIT with success if it is asked to cancel the wait.
    """
    server = crashable_postgres
    server.psql(TABLE)
    async with pool_on(server.dsn(), driver) as pool:
        await write(pool, 0)
        server.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.psql("SELECT pg_reload_conf()")
        task = asyncio.create_task(outcome(write(pool, 1), bound=30.0))
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await until(lambda: server.psql(waits))
        await pool.close(timeout=0.5)
        assert isinstance(await task, TransactionOutcomeUnknownError)


def _wait_until_received(primary, standby):
    position = primary.psql("SELECT pg_current_wal_flush_lsn()")
    while standby.psql(f"SELECT pg_last_wal_receive_lsn() >= '{position}'") != "t":
        pass


async def test_asynchronous_failover(replicated_postgres):
    """An acknowledged write may be missing after a failover; transaction_outcome says so."""
    cluster = replicated_postgres
    old, [standby] = cluster.primary, cluster.standbys
    old.psql(TABLE)
    async with pool_on(cluster.url, probe_interval=0.2) as pool:
        await write(pool, 0)
        cluster.wait_for_catch_up()
        cluster.disconnect(standby)
        key = new_id()
        await write(pool, 1, id=key)
        assert await pool.transaction_outcome(key) is TransactionOutcome.COMMITTED
        await asyncio.to_thread(old.crash)
        await asyncio.to_thread(cluster.promote, standby)
        assert await pool.transaction_outcome(key) is TransactionOutcome.ABORTED
    assert await numbers(standby.dsn()) == [0]


async def test_older_timeline(replicated_postgres):
    """A primary on an older timeline is left once one on a newer timeline is seen.

    The old primary is alive and takes writes, as one whose failover manager froze.
    """
    cluster = replicated_postgres
    old, [standby] = cluster.primary, cluster.standbys
    old.psql(TABLE)
    async with pool_on(cluster.url, probe_interval=0.2) as pool:
        await write(pool, 0)
        await asyncio.to_thread(cluster.wait_for_catch_up)
        await asyncio.to_thread(cluster.promote, standby)
        await until(lambda: any(isinstance(event, FailoverDetected) for event in pool.seen))
        await write(pool, 1)
    assert sorted(await numbers(standby.dsn())) == [0, 1]
    assert await numbers(old.dsn()) == [0]


ASYNCHRONOUS_COMMIT = "ALTER SYSTEM SET synchronous_commit = off"


@pytest.fixture
def forgetful_postgres(crashable_postgres):
    """A server that acknowledges first and writes to disk seconds later."""
    server = crashable_postgres
    server.psql(TABLE)
    server.psql(ASYNCHRONOUS_COMMIT)
    server.psql("ALTER SYSTEM SET wal_writer_delay = '10s'")
    server.restart()
    return server


async def test_asynchronous_commit(forgetful_postgres):
    """With synchronous_commit off an acknowledged write may be missing after a crash."""
    server = forgetful_postgres
    async with pool_on(server.dsn()) as pool:
        for number in range(20):
            await pool.execute(f"INSERT INTO write VALUES ({number})")
        await asyncio.to_thread(server.crash)
        await asyncio.to_thread(server.start)
    assert len(await numbers(server.dsn())) < 20


async def test_asynchronous_commit_of_transactions(forgetful_postgres):
    """With synchronous_commit off run_transaction takes effect once or not at all."""
    server = forgetful_postgres
    async with pool_on(server.dsn()) as pool:
        async with Clients(pool) as clients:
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.start)
            await clients.more()
        told = {}
        key = new_id()
        try:
            await write(pool, -1, id=key)
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.start)
            told[-1] = await pool.transaction_outcome(key, timeout=20.0)
        except TransactionOutcomeUnknownError:
            pytest.fail("the server is back")
    there = await numbers(server.dsn())
    assert len(there) == len(set(there))
    assert (told[-1] is TransactionOutcome.COMMITTED) == (-1 in there)
