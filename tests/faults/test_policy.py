"""What an outage does to those who wait, to those who come, and to the server that comes back."""

import asyncio
import contextlib
import struct
from time import monotonic

import asyncpg
import pytest

from poolkeeper import ConnectionPoolManager, DatabaseUnavailableError, PoolConfig
from poolkeeper.testing.proxy import FaultProxy
from tests.faults.rig import (
    on_both_loops,
    outages,
    outcome,
    pool_on,
    until,
    with_both_drivers,
)


@with_both_drivers
@on_both_loops
async def test_waiters_are_held_through_a_short_outage(postgres, driver):
    """A restart is a pause: who waits gets its connection, and nobody an error."""
    async with FaultProxy.to(postgres.url) as proxy, pool_on(proxy.url, driver) as pool:
        await proxy.refuse()
        proxy.reset()
        await until(lambda: outages(pool))
        calls = [asyncio.create_task(outcome(pool.execute("SELECT 1"))) for _ in range(20)]
        await until(lambda: pool.get_statistics().waiting_requests == 20)
        await proxy.accept()
        assert await asyncio.gather(*calls) == [None] * 20


@with_both_drivers
@on_both_loops
async def test_after_outage_patience_calls_fail_at_once_with_the_cause(postgres, driver):
    """Who waited is told then, who comes later at once; both learn why, and how old it is."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, outage_patience=0.5) as pool,
    ):
        await proxy.refuse()
        proxy.reset()
        await until(lambda: outages(pool))
        waiting = await outcome(pool.execute("SELECT 1"))
        assert isinstance(waiting, DatabaseUnavailableError)
        assert waiting.outage_seconds >= 0.5
        assert waiting.__cause__ is not None
        started = monotonic()
        late = [await outcome(pool.execute("SELECT 1")) for _ in range(100)]
        assert all(isinstance(error, DatabaseUnavailableError) for error in late)
        assert monotonic() - started < 2.0, "they waited"
        await proxy.accept()
        await until(lambda: len(outages(pool)) == 2)
        assert await outcome(pool.execute("SELECT 1")) is None


@with_both_drivers
@on_both_loops
async def test_a_database_that_comes_back_meets_no_herd(postgres, driver):
    """Fifty wait for ten connections: these are dialled once each, few at a time at first."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, min_size=5, max_size=10) as pool,
    ):
        await proxy.refuse()
        proxy.reset()
        await until(lambda: outages(pool))
        calls = [
            asyncio.create_task(outcome(pool.execute("SELECT pg_sleep(0.05)"))) for _ in range(50)
        ]
        await until(lambda: pool.get_statistics().waiting_requests == 50)
        before = proxy.accepted
        proxy.hold()
        await proxy.accept()
        # One prober, and for as long as nobody lets it in it stays one; a knock and, if this takes
        # long, a fresh attempt come on top.
        await until(lambda: pool.get_statistics().connecting_connections)
        for _ in range(30):
            await asyncio.sleep(0.01)
            assert pool.get_statistics().connecting_connections <= 1
        proxy.release()
        proxy.shape()
        assert await asyncio.gather(*calls) == [None] * 50
        assert proxy.accepted - before <= 10 + 4


@with_both_drivers
@on_both_loops
async def test_flapping_leaves_a_sound_pool(postgres, driver):
    """Up and down, twenty times: each outage begins and ends once, and all capacity is there."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, max_size=4, timeout=30.0) as pool,
    ):
        stop = asyncio.Event()

        async def client():
            while not stop.is_set():
                await outcome(pool.execute("SELECT 1"), bound=30.0)
                await asyncio.sleep(0)

        clients = [asyncio.create_task(client()) for _ in range(12)]
        for turn in range(20):
            await proxy.refuse()
            proxy.reset()
            seen = len(outages(pool))
            await asyncio.sleep(0.02 * (turn % 4))
            await proxy.accept()
            if turn % 2:
                await until(lambda seen=seen: len(outages(pool)) > seen)
        stop.set()
        await asyncio.gather(*clients)
        await until(lambda: len(outages(pool)) % 2 == 0)
        names = [type(event).__name__ for event in outages(pool)]
        pair = ["DatabaseConnectionLost", "DatabaseReconnected"]
        assert names == pair * (len(names) // 2)
        held = [await pool.acquire() for _ in range(4)]
        assert pool.get_statistics().active_connections == 4
        for connection in held:
            await pool.release(connection)
        statistics = pool.get_statistics()
        assert statistics.total_acquisitions == statistics.total_releases


@pytest.fixture
def limited_role(postgres):
    """A role that may have two connections; yields the URL to log in as it."""
    name, password = f"{postgres.name}_limited", "before"
    postgres.server.psql(
        f"CREATE ROLE {name} LOGIN PASSWORD '{password}' CONNECTION LIMIT 2",
        database=postgres.name,
    )
    host = postgres.url.rpartition("@")[2]
    yield name, f"postgresql://{name}:{password}@{host}"
    postgres.server.terminate_backends(database=postgres.name)
    postgres.server.psql(f"DROP OWNED BY {name}; DROP ROLE {name}", database=postgres.name)


@with_both_drivers
@on_both_loops
async def test_a_full_server_is_backpressure_and_no_outage(limited_role, driver):
    """53300 on every dial: who waits goes on waiting, and is served when there is room."""
    _name, url = limited_role
    others = [await asyncpg.connect(url), await asyncpg.connect(url)]
    try:
        async with pool_on(url, driver, min_size=0, outage_patience=0.1) as pool:
            call = asyncio.create_task(outcome(pool.execute("SELECT 1"), bound=20.0))
            await until(lambda: pool.get_statistics().total_connect_failures >= 3)
            assert not call.done()
            assert not outages(pool)
            await others.pop().close()
            assert await call is None
            # The one connection there is serves everybody, however few dials succeed.
            assert (
                await asyncio.gather(
                    *(outcome(pool.execute("SELECT 1"), bound=20.0) for _ in range(20))
                )
                == [None] * 20
            )
            assert not outages(pool)
    finally:
        for other in others:
            await other.close()


@with_both_drivers
@on_both_loops
async def test_a_rotated_password_heals_by_itself(postgres, limited_role, driver):
    """While it is wrong, calls fail at once and say so; the prober tries on, and finds the new."""
    name, url = limited_role
    passwords = ["before"]
    url = url.replace(":before@", "@").replace("postgresql://", f"postgresql+{driver}://")
    config = PoolConfig(database_url=url, min_size=1, max_size=2, timeout=20.0)
    async with ConnectionPoolManager(config, password=lambda: passwords[-1]) as pool:
        assert await outcome(pool.execute("SELECT 1")) is None
        server = postgres.server
        server.psql(f"ALTER ROLE {name} PASSWORD 'after'", database=postgres.name)
        server.terminate_backends(database=postgres.name)
        error = None
        while not isinstance(error, DatabaseUnavailableError):
            error = await outcome(pool.execute("SELECT 1"))
        assert "password" in str(error)
        passwords.append("after")
        async with asyncio.timeout(20):
            while await outcome(pool.execute("SELECT 1")) is not None:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _starting_up():
    """A server that answers every login with 57P03, as one in recovery does."""
    visits = []

    async def serve(reader, writer):
        visits.append(monotonic())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                (size,) = struct.unpack("!I", await reader.readexactly(4))
                body = await reader.readexactly(size - 4)
                if size == 8:  # an SSLRequest; the login follows
                    writer.write(b"N")
                    continue
                del body
                fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
                writer.write(b"E" + struct.pack("!I", len(fields) + 4) + fields)
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://user@127.0.0.1:{port}/postgres", visits


@with_both_drivers
@on_both_loops
async def test_a_server_that_is_starting_up_is_waited_for(postgres, driver):
    """57P03 means soon: nobody is refused for want of patience, and its end is noticed at once."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        _starting_up() as (elsewhere, visits),
        pool_on(proxy.url, driver, outage_patience=0.2) as pool,
    ):
        await proxy.refuse()
        proxy.reset()
        await until(lambda: outages(pool))
        proxy.retarget(elsewhere)
        await proxy.accept()
        await until(lambda: len(visits) >= 3)
        call = asyncio.create_task(outcome(pool.execute("SELECT 1"), bound=20.0))
        number = len(visits)
        await until(lambda: len(visits) >= number + 10)
        assert not call.done()
        # Asked again and again, but by one prober: at most one login each 50 ms.
        seconds = visits[-1] - visits[number]
        assert (len(visits) - number) <= seconds / 0.05 * 2 + 4
        proxy.retarget(postgres.url)
        assert await call is None
