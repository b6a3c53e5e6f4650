"""``asyncpg.create_pool`` → ``poolkeeper.create_pool`` is the only line that changes."""

import asyncio
import inspect
import io

import asyncpg
import pytest

import poolkeeper
from poolkeeper import ConnectionPoolManager, PoolUsageError, create_pool
from poolkeeper.testing.contracts import eventually

METHODS = [
    name
    for name, value in vars(asyncpg.Pool).items()
    if callable(value) and not name.startswith("_")
]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_what_asyncpgs_takes(name):
    """Whatever call asyncpg.Pool accepts is accepted, by position or by name."""
    theirs = inspect.signature(getattr(asyncpg.Pool, name))
    ours = inspect.signature(getattr(ConnectionPoolManager, name))
    takes_any_keyword = any(p.kind is p.VAR_KEYWORD for p in ours.parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    our_positions = [p for p in ours.parameters.values() if p.kind in positional]
    for position, parameter in enumerate(theirs.parameters.values()):
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            assert parameter.kind in {p.kind for p in ours.parameters.values()}
        elif parameter.kind in positional:
            assert our_positions[position].name == parameter.name
        elif parameter.kind is parameter.KEYWORD_ONLY and not takes_any_keyword:
            assert parameter.name in ours.parameters
    for parameter in our_positions[len(theirs.parameters) :]:
        assert parameter.default is not parameter.empty


@pytest.mark.parametrize("name", inspect.signature(asyncpg.create_pool).parameters)
def test_create_pool_takes_what_asyncpgs_takes(name):
    """Every keyword of asyncpg.create_pool; what is not ours goes to connect()."""
    ours = inspect.signature(create_pool).parameters
    assert name in ours or any(p.kind is p.VAR_KEYWORD for p in ours.values())


@pytest.mark.asyncio
async def test_both_ways_to_open_and_both_ways_to_acquire(postgres):
    """Await or async with."""
    pool = await create_pool(postgres.url, min_size=1)
    connection = await pool.acquire()
    assert isinstance(connection, asyncpg.Connection)
    assert await connection.fetchval("SELECT 1") == 1
    await pool.release(connection)
    await pool.close()
    async with create_pool(dsn=postgres.url, min_size=1) as pool, pool.acquire() as connection:
        assert isinstance(connection, asyncpg.Connection)
        assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.asyncio
async def test_shortcuts_do_what_a_connections_methods_do(postgres):
    """Each borrows a connection for one call."""
    async with create_pool(postgres.url, min_size=1, max_size=2) as pool:
        assert await pool.execute("CREATE TABLE t (x int)") == "CREATE TABLE"
        await pool.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)])
        assert [row["x"] for row in await pool.fetch("SELECT x FROM t ORDER BY x")] == [1, 2]
        assert (await pool.fetchrow("SELECT x, x + 1 FROM t ORDER BY x"))[1] == 2
        assert await pool.fetchval("SELECT 1, 2", column=1) == 2
        if hasattr(asyncpg.Pool, "fetchmany"):
            rows = await pool.fetchmany("INSERT INTO t VALUES ($1) RETURNING x", [(3,), (4,)])
            assert [row["x"] for row in rows] == [3, 4]
        status = await pool.copy_records_to_table("t", records=[(5,), (6,)])
        assert status == "COPY 2"
        sink = io.BytesIO()
        assert await pool.copy_from_table("t", output=sink) == "COPY 6"
        assert await pool.copy_from_query("SELECT $1::int", 7, output=sink) == "COPY 1"
        assert sink.getvalue().split() == [b"1", b"2", b"3", b"4", b"5", b"6", b"7"]
        assert await pool.copy_to_table("t", source=io.BytesIO(b"8\n9\n")) == "COPY 2"
        with pytest.raises(TimeoutError):
            await pool.fetchval("SELECT pg_sleep(60)", timeout=0.05)


@pytest.mark.asyncio
async def test_hooks_get_what_asyncpgs_hooks_get(postgres):
    """init: the new connection, once; setup: the borrowed one, each time; reset: after each use."""
    calls = []

    def hook(name):
        async def call(connection):
            calls.append((name, isinstance(connection, asyncpg.Connection)))
            assert await connection.fetchval("SELECT 1") == 1

        return call

    hooks = {name: hook(name) for name in ("init", "setup", "reset")}
    async with create_pool(postgres.url, min_size=1, max_size=1, **hooks) as pool:
        await pool.fetchval("SELECT 1")
        await pool.fetchval("SELECT 1")
    names = [name for name, is_connection in calls if is_connection]
    assert names == ["init", "setup", "reset", "setup", "reset"]


class Connection(asyncpg.Connection):
    async def answer(self):
        return await self.fetchval("SELECT 42")


class Record(asyncpg.Record):
    def __getattr__(self, name):
        return self[name]


@pytest.mark.asyncio
async def test_classes_of_ones_own_are_used(postgres):
    """For connections and for records, with their own methods."""
    options = {"connection_class": Connection, "record_class": Record}
    async with create_pool(postgres.url, min_size=1, **options) as pool:
        async with pool.acquire() as connection:
            assert await connection.answer() == 42
        assert (await pool.fetchrow("SELECT 1 AS number")).number == 1


@pytest.mark.asyncio
async def test_a_connect_function_of_ones_own_is_used(postgres):
    """With the arguments asyncpg.connect would get."""
    seen = []

    async def connect(*args, **kwargs):
        seen.append((args, kwargs["connection_class"]))
        return await asyncpg.connect(*args, **kwargs)

    async with create_pool(postgres.url, min_size=1, max_size=1, connect=connect) as pool:
        assert await pool.fetchval("SELECT 1") == 1
    assert seen == [((postgres.url,), asyncpg.Connection)]


@pytest.mark.asyncio
async def test_a_connect_function_must_return_a_connection(postgres):
    """Anything else is refused when the pool is opened."""

    async def connect(*args, **kwargs):
        return object()

    options = {"connect": connect, "initialization_attempts": 1}
    with pytest.raises(poolkeeper.PoolInitializationError, match="expected connect to return"):
        await create_pool(postgres.url, min_size=1, **options)


@pytest.mark.asyncio
async def test_listeners_get_the_borrowed_connection(postgres):
    """As with asyncpg's pool, and they are gone after the release."""
    got = asyncio.Queue()
    async with create_pool(postgres.url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await connection.add_listener("news", lambda *args: got.put_nowait(args))
            await connection.execute("NOTIFY news, 'hello'")
            source, _pid, channel, payload = await asyncio.wait_for(got.get(), 20)
            assert (channel, payload) == ("news", "hello")
            assert source is connection
            with pytest.warns(asyncpg.InterfaceWarning, match="active listeners"):
                await pool.release(connection)
        assert await pool.fetchval("SELECT count(*) FROM pg_listening_channels()") == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg"])
async def test_connect_arguments_can_be_changed(postgres, scheme):
    """From the next connection on; expire_connections() makes every one the next."""
    other = postgres.url.replace("postgresql", scheme, 1)
    async with create_pool(postgres.url, min_size=1, max_size=1, command_timeout=9) as pool:
        settings = {"application_name": "changed"}
        pool.set_connect_args(other, server_settings=settings)
        await pool.expire_connections()
        assert await pool.fetchval("SHOW application_name") == "changed"


@pytest.mark.asyncio
async def test_a_schema_change_reaches_the_statements_of_every_connection(postgres):
    """asyncpg drops the caches of the whole pool; so a cached plan fails once at most."""
    async with create_pool(postgres.url, min_size=2, max_size=2) as pool:
        await pool.execute("CREATE TABLE t (x int)")
        async with pool.acquire() as one, pool.acquire() as two:
            for connection in (one, two):
                await connection.fetch("SELECT * FROM t")
            await one.execute("ALTER TABLE t ALTER COLUMN x TYPE text")
            for connection in (one, two):
                await connection.fetch("SELECT * FROM t")


@pytest.mark.asyncio
async def test_sizes_have_asyncpgs_names(postgres):
    """And its meaning."""
    async with create_pool(postgres.url, min_size=1, max_size=3) as pool:
        async with pool.acquire():
            sizes = (pool.get_size(), pool.get_idle_size(), pool.get_min_size())
            assert (*sizes, pool.get_max_size()) == (1, 0, 1, 3)
            assert not pool.is_closing()
        await eventually(lambda: pool.get_idle_size() == 1)
    assert pool.is_closing()


@pytest.mark.asyncio
async def test_a_terminated_connection_is_replaced(postgres):
    """A borrower may close or terminate its connection; the next one gets another."""
    async with create_pool(postgres.url, min_size=1, max_size=1) as pool:
        for end in ("close", "terminate"):
            async with pool.acquire() as connection:
                ended = getattr(connection, end)()
                if inspect.isawaitable(ended):
                    await ended
                assert connection.is_closed()
            assert await pool.fetchval("SELECT 1") == 1
        with pytest.raises(PoolUsageError):
            connection.is_closed()
