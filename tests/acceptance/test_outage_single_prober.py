"""During an outage one prober dials, however many wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.testing.embedded import FaultyPostgres
from tests.seed.witness import Witness, measured

pytestmark = pytest.mark.slow

WAITERS = 50


class FakeListener:
    """Stands where the database stood: accepts everybody, logs nobody in; counts who comes."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._present = 0
        self.logins = 0
        self.most_logins_at_once = 0
        self.knocks = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One visitor: whoever says anything wants to log in."""
        try:
            if not await reader.read(1024):
                self.knocks += 1
                return
            self.logins += 1
            self._present += 1
            self.most_logins_at_once = max(self.most_logins_at_once, self._present)
            try:
                while self._silent and await reader.read(1024):
                    pass
            finally:
                self._present -= 1
        except ConnectionError:
            self.knocks += 1
        finally:
            writer.transport.abort()


async def ask(pool: ConnectionPoolManager) -> None:
    """One caller that waits for as long as it takes."""
    async with pool.acquire() as connection:
        await connection.execute("SELECT 1")


@asynccontextmanager
async def in_place_of(server: FaultyPostgres, *, silent: bool) -> AsyncIterator[FakeListener]:
    """Occupy the address of a stopped server."""
    listener = FakeListener(silent=silent)
    fake = await asyncio.start_server(listener.serve, server.host, server.port)
    try:
        yield listener
    finally:
        fake.close()
        await fake.wait_closed()


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("silent", [False, True], ids=["hangs_up", "silent"])
async def test_one_login_at_a_time_while_fifty_wait(
    crashable_postgres: FaultyPostgres, driver, silent
) -> None:
    """Five seconds of a door that opens on nothing: a handful of logins, then all are served."""
    server = crashable_postgres
    config = PoolConfig(
        database_url=server.dsn(driver=driver) + "?sslmode=disable",
        min_size=5,
        max_size=10,
        timeout=60.0,
        outage_patience=60.0,
        connect_timeout=1.0,
    )
    async with ConnectionPoolManager(config) as pool:
        witness = Witness(pool)
        await asyncio.to_thread(server.crash)
        async with asyncio.TaskGroup() as asking:
            async with in_place_of(server, silent=silent) as listener:
                tasks = [asking.create_task(ask(pool)) for _ in range(WAITERS)]
                # how often somebody dials in a time is the question, so here time passes
                await asyncio.sleep(5)
                assert not any(task.done() for task in tasks)
                assert pool.get_statistics().waiting_requests == WAITERS
                assert pool.get_statistics().connecting_connections <= 1
                attempts = len(witness.named("reconnect_attempt"))
                measured(logins=listener.logins, knocks=listener.knocks, attempts=attempts)
                assert 1 <= listener.logins <= attempts
                # beside one that is not answered a fresh one, to notice the end of the silence
                assert listener.most_logins_at_once <= (2 if silent else 1)
                # the expectation is a dozen; each waiter dialling once would be fifty
                assert attempts < WAITERS * 4 / 5
                # bare TCP connections, at most one each 50 ms
                assert listener.knocks <= 5 / 0.05 + 1
            await asyncio.to_thread(server.start)
        statistics = pool.get_statistics()
        assert statistics.total_connects <= 5 + 10
        assert statistics.total_outages == 1
