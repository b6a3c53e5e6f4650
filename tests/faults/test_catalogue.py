"""The catalogue of faults: what a caller sees of each, how soon, and that the pool recovers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from poolkeeper import (
    ConnectionPoolManager,
    DatabaseUnavailableError,
    PoolConfig,
    PoolInitializationError,
)
from poolkeeper.outcomes import Outcome
from poolkeeper.sqlstate import chain, sqlstate_of
from poolkeeper.testing.proxy import FaultProxy, SilentServer
from tests.faults.catalogue import DATABASE, ROWS, Scene, Seen
from tests.faults.rig import DRIVERS, EVERY_CALL_SECONDS, SLACK_SECONDS, outcome, pool_on, until

STALL = 0.3
PROBE = {"probe_interval": 0.3, "probe_timeout": 0.5}
RETRY_SECONDS = 1.0
"""The longest pause of the prober."""
LIMIT = 2.0
"""Of the borrower's own, for the one fault nobody but a deadline finds."""
CELLS = [(row, driver) for driver in DRIVERS for row in ROWS]
EVERY_CELL = pytest.mark.parametrize(("name", "driver"), CELLS, ids=map("-".join, CELLS))


@pytest.fixture(scope="module")
def server(_initialized_postgres, tmp_path_factory):
    with _initialized_postgres.copy_to(tmp_path_factory.mktemp("catalogue")) as server:
        server.create_database(DATABASE)
        yield server


@asynccontextmanager
async def scene_on(server, driver, **options):
    """A pool with one connection, idle, behind a proxy."""
    options = {"max_size": 1, "stall_after": STALL, "connect_timeout": 1.0} | PROBE | options
    async with (
        FaultProxy.to(server.dsn(DATABASE)) as proxy,
        pool_on(proxy.url, driver, **options) as pool,
    ):
        [link] = proxy.links
        yield Scene(server, proxy, link.backend_pid), pool


async def assert_recovers(pool, row):
    """The first call after the fault succeeds; where a login was refused, one soon after does."""
    error = await outcome(pool.execute("SELECT 1"), bound=20.0)
    if row.refused and error is not None:
        assert isinstance(error, DatabaseUnavailableError), repr(error)
        async with asyncio.timeout(RETRY_SECONDS + SLACK_SECONDS):
            while await outcome(pool.execute("SELECT 1")) is not None:
                await asyncio.sleep(0.01)
        return
    assert error is None, repr(error)


def the_connection(pool):
    """Which one it is; None while there is none to be had."""
    slots = [slot for slot in pool._pool.state.slots.values() if slot.connection is not None]
    return next((slot.id for slot in slots if not slot.connection.is_closed()), None)


@EVERY_CELL
@pytest.mark.asyncio
async def test_an_idle_connection_is_missed_in_time(server, name, driver, record_property):
    """By nobody's query; the next call after the fault succeeds."""
    row = ROWS[name]
    async with scene_on(server, driver) as (scene, pool):
        before = the_connection(pool)
        started = monotonic()
        await row.strike(scene)
        struck = monotonic()
        try:
            if row.idle:
                async with asyncio.timeout(EVERY_CALL_SECONDS + SLACK_SECONDS):
                    await until(lambda: the_connection(pool) != before)
                bound = EVERY_CALL_SECONDS if row.probed else 1.0
                assert monotonic() - struck < bound + SLACK_SECONDS, monotonic() - started
        finally:
            await row.mend(scene)
        await assert_recovers(pool, row)
        if not row.idle and row.strike.__name__ != "stop_smart":
            assert the_connection(pool) == before
    record_property("fault_points", 1)


@EVERY_CELL
@pytest.mark.asyncio
async def test_a_running_statement_ends_in_time_or_runs_on(server, name, driver, record_property):
    """With the error of its family, and an outcome that is true."""
    row = ROWS[name]
    async with scene_on(server, driver) as (scene, pool):

        async def statement():
            limit = LIMIT if row.running == {"time"} else None
            async with asyncio.timeout(limit):
                await pool.execute(f"SELECT pg_sleep({row.seconds})")

        call = asyncio.ensure_future(statement())
        sleeping = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {scene.pid}"
        while await scene.psql(f"{sleeping} AND wait_event = 'PgSleep'") == "0":
            await asyncio.sleep(0.01)
        await row.strike(scene)
        try:
            error = await outcome(call)
        finally:
            await row.mend(scene)
        if not row.running:
            assert error is None
        else:
            seen = Seen.of(error)
            assert seen.family in row.running, repr(error)
            assert seen.outcome is row.outcome, repr(error)
            assert not row.codes or not seen.codes or seen.codes & row.codes, repr(error)
        await assert_recovers(pool, row)
    record_property("fault_points", 1)


@EVERY_CELL
@pytest.mark.asyncio
async def test_a_new_pool_says_why_it_cannot_open(server, name, driver, record_property):
    """During the fault; where only old connections suffer, or it is over, it opens."""
    row = ROWS[name]
    async with scene_on(server, driver) as (scene, _pool):
        await row.strike(scene)
        try:
            url = scene.proxy.url.replace("postgresql://", f"postgresql+{driver}://", 1)
            attempts = 1 if row.connect else 20
            new = ConnectionPoolManager(
                PoolConfig(
                    database_url=url,
                    min_size=1,
                    timeout=1.0,  # also the patience with a server that says it is starting
                    connect_timeout=0.5,
                    initialization_attempts=attempts,
                )
            )
            error = await outcome(new.initialize(), bound=10.0)
            if row.connect:
                assert isinstance(error, PoolInitializationError)
                assert_says(error, row.connect)
            else:
                assert error is None
            await new.close()
        finally:
            await row.mend(scene)
    record_property("fault_points", 1)


def assert_says(error, words):
    """One of the words is in the error, its causes or their SQLSTATEs; the password is not."""
    said = " ".join(f"{type(link).__name__} {link}" for link in chain(error))
    said += f" {sqlstate_of(error)}"
    assert any(word in said for word in words), said
    assert "Suggestion: " in str(error)


# What only a new connection meets -----------------------------------------------------------------

LOGINS = {
    "wrong password": ("", {"password": "wrong"}, "28P01"),
    "unknown role": ("", {"user": "nobody"}, "28"),
    "role without login": ("CREATE ROLE nologin PASSWORD 'p'", {"user": "nologin"}, "28"),
    "unknown database": ("", {"database": "nothing"}, "3D000"),
    "database that allows no connections": (
        f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false",
        {},
        "55000",
    ),
    "limit of the database": (
        f"ALTER DATABASE {DATABASE} CONNECTION LIMIT 0; CREATE ROLE few LOGIN PASSWORD 'few'",
        {"user": "few", "password": "few"},
        "53300",
    ),
    "limit of the role": (
        "CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 0",
        {"user": "few", "password": "few"},
        "53300",
    ),
}
UNDO = (
    f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true",
    f"ALTER DATABASE {DATABASE} CONNECTION LIMIT -1",
    "DROP ROLE IF EXISTS nologin, few",
)


@pytest.mark.parametrize("name", LOGINS)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.asyncio
async def test_a_refused_login_says_what_the_server_said(server, driver, name, record_property):
    """With its SQLSTATE where the driver tells it, and never the password."""
    setup, login, code = LOGINS[name]
    try:
        for statement in filter(None, setup.split("; ")):
            await asyncio.to_thread(server.psql, statement)
        login = {"user": "postgres", "password": server.password, "database": DATABASE} | login
        url = (
            f"postgresql+{driver}://{login['user']}:{login['password']}"
            f"@127.0.0.1:{server.port}/{login['database']}"
        )
        pool = ConnectionPoolManager(
            PoolConfig(database_url=url, min_size=1, initialization_attempts=1)
        )
        error = await outcome(pool.initialize())
        assert isinstance(error, PoolInitializationError), repr(error)
        told = sqlstate_of(error)
        # libpq tells a refusal in words alone.
        assert told.startswith(code) if told else driver == "psycopg", repr(error)
        assert f":{login['password']}@" not in str(error)
    finally:
        for statement in UNDO:
            await asyncio.to_thread(server.psql, statement)
    record_property("fault_points", 1)


async def _hang_up(reader, writer):
    writer.close()


async def _speak_http(reader, writer):
    await reader.read(8)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("peer", [_hang_up, _speak_http, None], ids=["fin", "http", "silence"])
@pytest.mark.asyncio
async def test_a_peer_that_is_no_postgresql_is_said_to_be_none(driver, peer, record_property):
    """It hangs up, speaks another language, or says nothing; the pool is back in time."""
    if peer is None:
        opened = SilentServer()
        async with opened as server:
            error = await refusal(driver, server.host, server.port)
        assert_says(error, ("TimeoutError", "timeout"))
    else:
        async with await asyncio.start_server(peer, "127.0.0.1", 0) as server:
            error = await refusal(driver, *server.sockets[0].getsockname())
    assert isinstance(error, PoolInitializationError), repr(error)
    record_property("fault_points", 1)


async def refusal(driver, host, port):
    config = PoolConfig(
        database_url=f"postgresql+{driver}://nobody@{host}:{port}/nothing",
        min_size=1,
        connect_timeout=0.5,
        initialization_attempts=1,
    )
    return await outcome(ConnectionPoolManager(config).initialize())


# What the server says to a statement --------------------------------------------------------------


async def _one(pool, *statements):
    async with pool.acquire() as connection:
        for statement in statements:
            await connection.execute(statement)


async def _locked(pool):
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute("LOCK TABLE things")
        await _one(pool, "SET lock_timeout = 50", "UPDATE things SET n = 0")


async def _conflict(pool, first, second, begin="BEGIN"):
    """Two transactions in each other's way; the error of the one that has to give in."""
    async with pool.acquire() as one, pool.acquire() as two:
        for connection in (one, two):
            await connection.execute(begin)
        try:
            await one.execute(first[0])
            await two.execute(second[0])
            waiting = asyncio.ensure_future(one.execute(first[1]))
            results = await asyncio.gather(waiting, two.execute(second[1]), return_exceptions=True)
        finally:
            for connection in (one, two):
                await connection.execute("ROLLBACK")
    raise next(result for result in results if isinstance(result, Exception))


async def _deadlock(pool):
    await _conflict(
        pool,
        ("UPDATE things SET n = 0 WHERE id = 1", "UPDATE things SET n = 0 WHERE id = 2"),
        ("UPDATE things SET n = 0 WHERE id = 2", "UPDATE things SET n = 0 WHERE id = 1"),
    )


async def _serialization(pool):
    async with pool.acquire() as one, pool.acquire() as two:
        await one.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await one.execute("TABLE things")
        await two.execute("UPDATE things SET n = n + 1 WHERE id = 1")
        try:
            await one.execute("UPDATE things SET n = n + 1 WHERE id = 1")
        finally:
            await one.execute("ROLLBACK")


STATEMENTS = {
    "statement_timeout": (
        lambda pool: _one(pool, "SET statement_timeout = 50", "SELECT pg_sleep(10)"),
        "57014",
    ),
    "lock_timeout": (_locked, "55P03"),
    "deadlock": (_deadlock, "40P01"),
    "serialization failure": (_serialization, "40001"),
    "read-only": (
        lambda pool: _one(pool, "BEGIN READ ONLY", "INSERT INTO things VALUES (9, 9)"),
        "25006",
    ),
    "unique violation": (lambda pool: _one(pool, "INSERT INTO things VALUES (1, 1)"), "23505"),
    "failed transaction": (
        lambda pool: _swallowing(pool, "SELECT 1 / 0", "SELECT 1"),
        "25P02",
    ),
}


async def _swallowing(pool, wrong, then):
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        try:
            await connection.execute(wrong)
        except Exception:
            await connection.execute(then)


@pytest.mark.parametrize("name", STATEMENTS)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.asyncio
async def test_a_refused_statement_is_rolled_back_and_costs_no_connection(
    server, driver, name, record_property
):
    """Its SQLSTATE reaches the caller, and the connections are used again."""
    work, code = STATEMENTS[name]
    async with pool_on(server.dsn(DATABASE), driver, max_size=2, min_size=2) as pool:
        await _one(
            pool,
            "DROP TABLE IF EXISTS things",
            "CREATE TABLE things (id int PRIMARY KEY, n int)",
            "INSERT INTO things VALUES (1, 1), (2, 2)",
        )
        error = await outcome(work(pool))
        seen = Seen.of(error)
        assert seen.family == "statement", repr(error)
        assert code in seen.codes, repr(error)
        assert seen.outcome is Outcome.ROLLED_BACK, repr(error)
        async with pool.acquire() as one, pool.acquire() as two:
            for connection in (one, two):
                await connection.execute("SELECT 1")
        assert not pool.get_statistics().recycled
    record_property("fault_points", 1)


ENDED = {
    "idle_in_transaction_session_timeout": ("BEGIN", "25P03"),
    "transaction_timeout": ("BEGIN", "25P04"),
    "idle_session_timeout": ("SELECT 1", "57P05"),
}


@pytest.mark.parametrize("setting", ENDED)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.asyncio
async def test_a_session_the_server_ends_is_lost_and_replaced(
    server, driver, setting, record_property
):
    """The next statement on it fails as lost, never as done; the next borrower gets another."""
    first, _code = ENDED[setting]
    async with pool_on(server.dsn(DATABASE), driver, max_size=1) as pool:

        async def use():
            async with pool.acquire() as connection:
                pid = pool._pool.state.slots[connection._slot.id].connection.backend_pid()
                await connection.execute(f"SET {setting} = 50")
                await connection.execute(first)
                gone = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"
                while await asyncio.to_thread(server.psql, gone) != "0":
                    await asyncio.sleep(0.01)
                await connection.execute("SELECT 1")

        error = await outcome(use())
        seen = Seen.of(error)
        assert seen.family == "lost", repr(error)
        assert seen.outcome is not Outcome.ROLLED_BACK, repr(error)
        assert await outcome(pool.execute("SELECT 1")) is None
    record_property("fault_points", 1)
