"""What psycopg keeps on the client's side does not reach the next borrower either."""

import asyncio
from urllib.parse import quote

import psycopg
import pytest
from psycopg.rows import dict_row

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.testing.contracts import eventually

pytestmark = pytest.mark.asyncio


def psycopg_url(postgres, **query):
    url = postgres.url.replace("postgresql://", "postgresql+psycopg://", 1)
    for name, value in query.items():
        url += ("&" if "?" in url else "?") + f"{name}={quote(value)}"
    return url


def one_connection(url, *, connect=None, **options):
    options = {"min_size": 1, "max_size": 1} | options
    return ConnectionPoolManager(PoolConfig(database_url=url, **options), **(connect or {}))


async def value(connection, sql):
    row = await (await connection.execute(sql)).fetchone()
    return row[0]


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
async def test_a_borrower_without_autocommit_does_not_undo_the_next_ones_write(postgres, used):
    """What the next one wrote is there for everybody."""
    async with one_connection(psycopg_url(postgres)) as pool:
        async with pool.acquire() as connection:
            await connection.execute("CREATE TABLE written (x int)")
        async with pool.acquire() as connection:
            await connection.set_autocommit(False)
            if used:
                await connection.execute("SELECT 1")
                await connection.commit()
        async with pool.acquire() as connection:
            assert connection.autocommit
            await connection.execute("INSERT INTO written VALUES (1)")
    async with await psycopg.AsyncConnection.connect(postgres.url) as witness:
        assert await value(witness, "SELECT count(*) FROM written") == 1


async def test_a_read_only_borrower_does_not_forbid_the_next_ones_write(postgres):
    """Its transactions write again."""
    async with one_connection(psycopg_url(postgres)) as pool:
        async with pool.acquire() as connection:
            await connection.set_read_only(True)
        async with pool.acquire() as connection:
            async with connection.transaction():
                await connection.execute("CREATE TABLE written (x int)")
            assert connection.read_only is None


async def test_an_isolation_level_ends_with_its_borrower(postgres):
    """The next one's transactions have the server's default."""
    async with one_connection(psycopg_url(postgres)) as pool:
        async with pool.acquire() as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
            await connection.set_deferrable(True)
            async with connection.transaction():
                assert await value(connection, "SHOW transaction_isolation") == "serializable"
        async with pool.acquire() as connection, connection.transaction():
            assert await value(connection, "SHOW transaction_isolation") == "read committed"
            assert await value(connection, "SHOW transaction_deferrable") == "off"


async def test_a_row_factory_ends_with_its_borrower(postgres):
    """The next one gets tuples, and statements prepared as before."""
    async with one_connection(psycopg_url(postgres)) as pool:
        async with pool.acquire() as connection:
            usual = connection.prepare_threshold
            inner = connection.cursor().connection
            inner.row_factory = dict_row
            inner.prepare_threshold = 0
            assert await (await connection.execute("SELECT 1 AS x")).fetchone() == {"x": 1}
        async with pool.acquire() as connection:
            assert await (await connection.execute("SELECT 1 AS x")).fetchone() == (1,)
            assert connection.prepare_threshold == usual


@pytest.mark.parametrize(
    ("options", "connect", "setting", "expected"),
    [
        ({}, {}, "search_path", "pg_catalog"),
        ({"command_timeout": 5}, {}, "statement_timeout", "5s"),
        ({}, {"server_settings": {"work_mem": "1MB"}}, "work_mem", "1MB"),
    ],
    ids=["alone", "command_timeout", "server_settings"],
)
async def test_the_urls_options_hold_beside_other_settings(
    postgres, options, connect, setting, expected
):
    """Neither takes the place of the other."""
    url = psycopg_url(postgres, options="-csearch_path=pg_catalog")
    pool = one_connection(url, connect=connect, **options)
    async with pool, pool.acquire() as connection:
        assert await value(connection, "SHOW search_path") == "pg_catalog"
        assert await value(connection, f"SHOW {setting}") == expected


async def test_a_psycopg_dispatcher_that_hands_out_connections_is_no_deadlock(postgres):
    """It waits for the next one while its job works and gives its own back."""
    lock = 7
    async with (
        await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as witness,
        one_connection(psycopg_url(postgres)) as pool,
    ):
        await witness.execute(f"SELECT pg_advisory_lock({lock})")

        async def job(connection):
            try:
                await connection.execute(f"SELECT pg_advisory_xact_lock({lock})")
            finally:
                await pool.release(connection)

        async def dispatch():
            jobs = [asyncio.create_task(job(await pool.acquire())) for _ in range(3)]
            await asyncio.gather(*jobs)

        async def blocked():
            sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return await value(witness, sql + " AND datname = current_database()")

        dispatcher = asyncio.create_task(dispatch())
        await eventually(blocked)
        await eventually(lambda: pool.get_statistics().waiting_requests)
        pool._pool.housekeep()
        await witness.execute(f"SELECT pg_advisory_unlock({lock})")
        await dispatcher
