"""A pool with several hosts follows the primary, and loses nothing it was promised."""

import asyncio
import itertools
import time
from contextlib import asynccontextmanager

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.drivers.hosts import Hosts
from poolkeeper.endpoints import Host
from poolkeeper.keepers.hosts import HostsKeeper
from poolkeeper.observability.events import (
    ConnectionRecycled,
    DatabaseConnectionLost,
    DatabaseReconnected,
    FailoverDetected,
)
from poolkeeper.testing.contracts import KeeperContract, eventually
from poolkeeper.testing.memory import MemoryDatabase, memory_pool
from poolkeeper.testing.proxy import FaultProxy

DRIVERS = ["asyncpg", "psycopg"]
CLIENTS = 50
GAP_BEYOND_PROMOTION = 0.5
SLACK = 1.5
"""For two busy cores: the promise is GAP_BEYOND_PROMOTION."""


def pool_on(url, **options):
    """A pool that looks at its hosts often enough for a test."""
    options = {"min_size": 2, "max_size": 10, "probe_interval": 0.2, "probe_timeout": 1.0} | options
    return ConnectionPoolManager(PoolConfig(database_url=url, **options))


def listen(pool, *kinds):
    """Collect the events of some kinds from now on."""
    events = []
    pool.add_event_listener(lambda event: events.append(event) if isinstance(event, kinds) else 0)
    return events


async def value(pool, sql):
    """First column of the first row, with either driver."""
    async with pool.acquire() as connection:
        if pool._pool.driver.name == "asyncpg":
            return await connection.fetchval(sql)
        row = await (await connection.execute(sql)).fetchone()
        return row[0]


def endpoints(pool):
    """Where the connections of a pool lead."""
    slots = pool._pool.state.slots.values()
    return {name(slot.connection.endpoint) for slot in slots if slot.connection is not None}


def name(server):
    host, port = server if isinstance(server, tuple) else (server.host, server.port)
    return f"{host}:{port}"


class Writers:
    """Clients that insert one number after the other and note what was acknowledged."""

    def __init__(self, pool):
        self.pool = pool
        self.acknowledged = []
        self.unknown = []
        self.refused = []
        self._numbers = iter(range(10**9))
        self._ending = False
        self._tasks = []

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._write()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(self, *exc):
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def _write(self):
        while not self._ending:
            number = next(self._numbers)
            try:
                async with self.pool.acquire() as connection:
                    await connection.execute(f"INSERT INTO t VALUES ({number})")
            except (asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error, OSError):
                self.unknown.append(number)
                await asyncio.sleep(0.01)
            else:
                self.acknowledged.append((time.monotonic(), number))

    async def at_work(self):
        """Return when many more have been acknowledged than there are clients."""
        target = len(self.acknowledged) + 4 * CLIENTS
        await eventually(lambda: len(self.acknowledged) > target)

    def longest_gap(self):
        times = [when for when, _ in self.acknowledged]
        return max(after - before for before, after in itertools.pairwise(times))

    def check(self, server):
        """Everything acknowledged is there once, and nothing nobody wrote."""
        found = [int(line) for line in server.psql("SELECT n FROM t").split()]
        acknowledged = {number for _, number in self.acknowledged}
        assert len(found) == len(set(found))
        assert acknowledged <= set(found)
        assert set(found) <= acknowledged | set(self.unknown)


# ------------------------------------------------------------------------------------- under load


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("fault", ["crash", "freeze"])
async def test_fifty_clients_are_served_by_the_promoted_standby(replicated_postgres, driver, fault):
    """With synchronous replication nothing acknowledged is lost; the gap is the promotion's.

    A frozen primary keeps every socket open and says nothing: it takes the promotion to notice.
    """
    cluster = replicated_postgres
    cluster.primary.psql("CREATE TABLE t (n bigint)")
    cluster.replicate_synchronously()
    old = cluster.primary

    def fail_over():
        begun = time.monotonic()
        getattr(old, fault)()
        cluster.promote()
        return time.monotonic() - begun

    async with pool_on(cluster.dsn(driver=driver)) as pool:
        events = listen(pool, FailoverDetected)
        async with Writers(pool) as writers:
            await writers.at_work()
            took = await asyncio.to_thread(fail_over)
            await writers.at_work()
        gap = writers.longest_gap()
        assert [(event.from_host, event.to_host) for event in events] == [
            (name(old), name(cluster.primary))
        ]
        assert events[0].timeline == 2
        assert gap <= took + GAP_BEYOND_PROMOTION + SLACK
        # No more than one statement of each connection was cut off.
        assert len(writers.unknown) <= 10
        await asyncio.to_thread(writers.check, cluster.primary)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_switchover_is_a_pause(replicated_postgres, driver):
    """And back again: the pool follows every time, and each move is told once."""
    cluster = replicated_postgres
    cluster.primary.psql("CREATE TABLE t (n bigint)")
    first, (second,) = cluster.primary, cluster.standbys
    async with pool_on(cluster.dsn(driver=driver)) as pool:
        events = listen(pool, FailoverDetected)
        async with Writers(pool) as writers:
            for _ in range(2):
                await writers.at_work()
                await asyncio.to_thread(cluster.switchover)
                await writers.at_work()
        assert [event.to_host for event in events] == [name(second), name(first)]
        assert [event.timeline for event in events] == [2, 3]
        await asyncio.to_thread(writers.check, cluster.primary)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_same_primary_is_used_again_after_its_restart(replicated_postgres, driver):
    """A standby that answers all the while is no reason to wait, nor a failover."""
    cluster = replicated_postgres
    async with pool_on(
        cluster.dsn(driver=driver), reconnect_initial_delay=3600, reconnect_max_delay=3600
    ) as pool:
        events = listen(pool, FailoverDetected, DatabaseConnectionLost, DatabaseReconnected)
        await asyncio.to_thread(cluster.primary.crash)
        await eventually(lambda: events)
        await asyncio.to_thread(cluster.primary.start)
        await eventually(pool.get_size)
        assert await value(pool, "SELECT pg_is_in_recovery()") is False
        assert [type(event) for event in events] == [DatabaseConnectionLost, DatabaseReconnected]


# ---------------------------------------------------------------------------------- two primaries


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_connections_to_a_replaced_primary_are_dropped_although_it_answers(
    replicated_postgres, driver
):
    """Idle or in use: what it acknowledges from now on will be lost."""
    cluster = replicated_postgres
    old = cluster.primary
    async with pool_on(cluster.dsn(driver=driver)) as pool:
        events = listen(pool, FailoverDetected)
        async with pool.acquire() as connection:
            working = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
            await asyncio.to_thread(cluster.promote)
            with pytest.raises((asyncpg.PostgresError, psycopg.Error)) as caught:
                await working
        note = " ".join(caught.value.__notes__)
        assert f"{name(cluster.primary)} is the primary now, no longer {name(old)}" in note
        port = await value(pool, "SELECT current_setting('port')::int")
        assert port == cluster.primary.port
        (event,) = events
        assert (event.reason, event.timeline) == ("higher_timeline", 2)
        assert endpoints(pool) == {name(cluster.primary)}


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_new_connection_elsewhere_takes_the_others_along(replicated_postgres, driver):
    """The old primary lets nobody in while its sessions go on; nobody stays behind on it."""
    cluster = replicated_postgres
    async with pool_on(cluster.dsn(driver=driver), probe_interval=3600) as pool:
        events = listen(pool, FailoverDetected)
        cluster.primary.freeze_postmaster()
        await asyncio.to_thread(cluster.promote)
        held = [await pool.acquire() for _ in range(3)]
        assert [event.reason for event in events] == ["unreachable"]
        assert endpoints(pool) == {name(cluster.primary)}
        for connection in held:
            await pool.release(connection)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_connection_made_ready_during_a_failover_is_not_used(replicated_postgres, driver):
    """It was dialled to the old primary, which answers still; what it acknowledges will be lost."""
    cluster = replicated_postgres
    ready, begun = asyncio.Event(), asyncio.Event()
    ready.set()

    async def init(_connection):
        begun.set()
        await ready.wait()

    config = PoolConfig(database_url=cluster.dsn(driver=driver), min_size=1, max_size=2)
    async with ConnectionPoolManager(config, init=init) as pool, pool.acquire():
        events = listen(pool, FailoverDetected)
        ready.clear()
        begun.clear()
        asking = asyncio.create_task(value(pool, "SELECT current_setting('port')::int"))
        await begun.wait()
        await asyncio.to_thread(cluster.promote)
        await eventually(lambda: events)
        ready.set()
        assert await asking == cluster.primary.port
        assert endpoints(pool) == {name(cluster.primary)}


@asynccontextmanager
async def pool_on_two_addresses(server, driver):
    """A pool, the proxy in front of a server that it uses, and another one in front of that."""
    dsn = server.dsn(driver=driver)
    async with FaultProxy.to(dsn) as one, FaultProxy.to(dsn) as other:
        addresses = f"127.0.0.1:{one.port},127.0.0.1:{other.port}"
        url = f"{dsn.replace(address_of(dsn), addresses)}?target_session_attrs=read-write"
        async with pool_on(url, min_size=1) as pool:
            port = pool._pool.driver.hosts.current.port
            yield (pool, one, other) if port == one.port else (pool, other, one)


def address_of(dsn):
    return dsn.rpartition("@")[2].partition("/")[0]


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_address_that_is_slow_for_once_keeps_its_connections(postgres, driver):
    """Two poolers of one primary: nothing failed over, and statements in flight go on."""
    async with pool_on_two_addresses(postgres.server, driver) as (pool, used, other):
        events = listen(pool, FailoverDetected, ConnectionRecycled)
        async with pool.acquire() as connection:
            working = asyncio.create_task(connection.execute("SELECT pg_sleep(2)"))
            used.shape(latency=0.5)
            await value(pool, "SELECT 1")
            assert pool._pool.driver.hosts.current.port == other.port
            used.shape()
            await working
        assert events == []


@pytest.mark.asyncio
async def test_connections_left_behind_are_dropped_when_their_host_proves_a_standby(
    replicated_postgres,
):
    """The pool had gone elsewhere without need; what it learns later counts as well."""
    cluster = replicated_postgres
    (standby,) = cluster.standbys
    async with pool_on_two_addresses(cluster.primary, "asyncpg") as (pool, used, other):
        (keeper,) = (keeper for keeper in pool._keepers if isinstance(keeper, HostsKeeper))
        async with pool.acquire() as connection:
            working = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
            used.shape(latency=0.5)
            await value(pool, "SELECT 1")
            used.shape()
            used.retarget(standby.dsn())
            # The next look dials.
            await eventually(lambda: Host("127.0.0.1", used.port) in keeper._sessions)
            keeper._sessions[Host("127.0.0.1", used.port)].abort()
            with pytest.raises(asyncpg.PostgresError) as caught:
                await working
            note = f"127.0.0.1:{other.port} is the primary now, no longer 127.0.0.1:{used.port}"
            assert note in " ".join(caught.value.__notes__)


@pytest.mark.asyncio
async def test_a_standby_elsewhere_is_no_reason_to_leave(replicated_postgres):
    """Nor is a primary that was replaced long ago and runs again."""
    cluster = replicated_postgres
    old = cluster.primary
    await asyncio.to_thread(cluster.promote)
    async with pool_on(cluster.url) as pool:
        events = listen(pool, FailoverDetected, ConnectionRecycled)
        (keeper,) = (keeper for keeper in pool._keepers if isinstance(keeper, HostsKeeper))
        await eventually(lambda: len(keeper._sights) == 2)
        assert keeper._sights[old.host, old.port].primary
        assert events == []


# ----------------------------------------------------------------------------------------- 25006


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_write_refused_by_a_standby_moves_the_pool_to_the_primary(
    replicated_postgres, driver
):
    """Whoever asked gets the server's error, everybody after that the primary."""
    cluster = replicated_postgres
    cluster.primary.psql("CREATE TABLE t (n int)")
    cluster.wait_for_catch_up()
    standby = cluster.dsn(driver=driver, target_session_attrs="standby")
    async with pool_on(standby, probe_interval=3600) as pool:
        events = listen(pool, ConnectionRecycled)
        pool.set_connect_args(cluster.dsn(driver=driver))
        with pytest.raises((asyncpg.PostgresError, psycopg.Error)) as caught:
            await pool.execute("INSERT INTO t VALUES (1)")
        assert caught.value.sqlstate == "25006"
        await pool.execute("INSERT INTO t VALUES (1)")
        assert {event.reason for event in events} == {"read_only"}


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_transaction_declared_read_only_keeps_its_connection(replicated_postgres, driver):
    """The user said so; the server is still the primary."""
    cluster = replicated_postgres
    cluster.primary.psql("CREATE TABLE t (n int)")
    async with pool_on(cluster.dsn(driver=driver)) as pool:
        events = listen(pool, ConnectionRecycled)
        async with pool.acquire() as connection:
            await connection.execute("BEGIN READ ONLY")
            with pytest.raises((asyncpg.PostgresError, psycopg.Error)) as caught:
                await connection.execute("INSERT INTO t VALUES (1)")
            assert caught.value.sqlstate == "25006"
            await connection.execute("ROLLBACK")
            await connection.execute("INSERT INTO t VALUES (1)")
        assert events == []


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_one_address_that_leads_elsewhere_is_followed(replicated_postgres, driver):
    """A virtual address or a name: first to a standby, then to what that was promoted to."""
    cluster = replicated_postgres
    cluster.primary.psql("CREATE TABLE t (n int)")
    cluster.wait_for_catch_up()
    old, (standby,) = cluster.primary, cluster.standbys
    third = await asyncio.to_thread(cluster.add_standby)
    async with FaultProxy.to(old.dsn(driver=driver)) as proxy, pool_on(proxy.url) as pool:
        events = listen(pool, ConnectionRecycled, DatabaseConnectionLost)
        proxy.retarget(third.dsn())
        proxy.reset()
        await eventually(lambda: events)
        for _ in range(2):
            with pytest.raises((asyncpg.PostgresError, psycopg.Error)) as caught:
                await pool.execute("INSERT INTO t VALUES (1)")
            assert caught.value.sqlstate == "25006"
        # On a standby now. The address moves on, the connections stay where they are …
        proxy.retarget(old.dsn())
        # … until a write is refused there, once a second at most.
        async with asyncio.timeout(20):
            while True:
                try:
                    await pool.execute("INSERT INTO t VALUES (2)")
                    break
                except (asyncpg.PostgresError, psycopg.Error):
                    await asyncio.sleep(0.1)
        assert "read_only" in {getattr(event, "reason", None) for event in events}
    assert standby.psql("SELECT 1") == "1"


@pytest.mark.asyncio
async def test_a_pool_that_never_saw_a_primary_keeps_its_standby(replicated_postgres):
    """It was made for a standby; writes there are the user's mistake."""
    (standby,) = replicated_postgres.standbys
    async with pool_on(standby.url) as pool:
        events = listen(pool, ConnectionRecycled)
        for _ in range(3):
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await pool.execute("CREATE TABLE t (n int)")
        assert events == []


# ---------------------------------------------------------------------------------------- the rest


@pytest.mark.asyncio
async def test_closing_leaves_no_session_on_any_host(replicated_postgres):
    """Those that watch the other hosts end with the pool."""
    cluster = replicated_postgres
    before = asyncio.all_tasks()
    async with pool_on(cluster.url) as pool:
        (keeper,) = (keeper for keeper in pool._keepers if isinstance(keeper, HostsKeeper))
        await eventually(lambda: len(keeper._sights) == 2)
        (standby,) = cluster.standbys
        assert len(await asyncio.to_thread(standby.backends)) == 1
    await eventually(lambda: asyncio.all_tasks() == before)
    for server in cluster.servers:
        await eventually(lambda server=server: not server.backends())


@pytest.mark.asyncio
async def test_a_host_that_lets_nobody_in_is_not_asked_twenty_times_a_second(replicated_postgres):
    """During an outage hosts are looked at that often; one that refuses the login is spared."""
    (standby,) = replicated_postgres.standbys
    standby.psql("ALTER SYSTEM SET log_connections = 'all'")
    standby.psql("SELECT pg_reload_conf()")
    standby.freeze()
    async with pool_on(replicated_postgres.url, connect_timeout=1.0) as pool:
        (keeper,) = (keeper for keeper in pool._keepers if isinstance(keeper, HostsKeeper))
        await eventually(lambda: keeper._pauses)
        for _ in range(4):
            keeper._unreachable(next(iter(keeper._pauses)), TimeoutError("no answer"))
        (_until, pause) = next(iter(keeper._pauses.values()))
        assert pause == 1.0
        assert await value(pool, "SELECT 1") == 1


@pytest.mark.asyncio
async def test_other_arguments_lead_to_other_hosts(replicated_postgres, postgres):
    """From the next connection on; nothing of the old hosts is remembered."""
    async with pool_on(replicated_postgres.url) as pool:
        events = listen(pool, FailoverDetected)
        pool.set_connect_args(postgres.url)
        await pool.expire_connections()
        assert await value(pool, "SELECT current_database()") == postgres.name
        pool.set_connect_args(replicated_postgres.url)
        await pool.expire_connections()
        assert await value(pool, "SELECT current_database()") == "postgres"
        assert events == []


class TestHostsKeeper(KeeperContract):
    """It starts and stops as every keeper does."""

    @pytest_asyncio.fixture(params=["one host", "several"])
    async def keeper(self, request):
        async with memory_pool(MemoryDatabase(), min_size=1) as pool:
            if request.param == "several":

                async def dial(_host, _timeout):
                    raise ConnectionRefusedError

                url = "postgresql://u@a,b/db?target_session_attrs=primary"
                pool._pool.driver.hosts = Hosts(url, {}, dial)
            keeper = HostsKeeper(pool._pool, 0.01, 1.0, lambda event: None)
            yield keeper
            await keeper.stop()
