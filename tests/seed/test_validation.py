"""Broken connections never reach a caller."""

import asyncio

import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.exceptions import ConnectionValidationError, PoolTimeoutError
from poolkeeper.testing.embedded import FaultyPostgres
from tests.seed.witness import Witness, until_healthy

END_ALL_SESSIONS = """
    SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def asking_each_time(server: FaultyPostgres, driver: str, **options) -> ConnectionPoolManager:
    """Every connection is asked before it is handed out, and only then."""
    return ConnectionPoolManager(
        PoolConfig(
            **{
                "database_url": server.dsn(driver=driver),
                "validation_bypass": 0,
                "validation_timeout": 0.3,
                "probe_interval": 3600.0,
            }
            | options
        )
    )


async def backend_of(connection) -> int:
    """The server process behind a connection of either driver."""
    if hasattr(connection, "fetchval"):
        return await connection.fetchval("SELECT pg_backend_pid()")
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    return row[0]


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_connection_to_a_silent_backend_is_replaced_before_anybody_gets_it(
    crashable_postgres: FaultyPostgres, driver
) -> None:
    """Its socket is open and says nothing: only a question finds it, and the caller just waits."""
    server = crashable_postgres
    async with asking_each_time(server, driver, min_size=1, max_size=3) as pool:
        witness = Witness(pool)
        async with pool.acquire() as connection:
            silent = await backend_of(connection)
        await asyncio.to_thread(server.freeze, silent)
        async with pool.acquire() as connection:
            assert await backend_of(connection) != silent
        statistics = pool.get_statistics()
        assert statistics.recycled["validation_failed"] == 1
        assert statistics.total_timeouts == 0
        (recycled,) = witness.named("connection_recycled")
        assert recycled.reason == "validation_failed"


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_terminated_connections_never_reach_a_caller(
    crashable_postgres: FaultyPostgres, driver
) -> None:
    """An administrator ends all sessions at the worst moment, again and again."""
    server = crashable_postgres
    pool = asking_each_time(server, driver, min_size=3, max_size=3, validation_timeout=5.0)
    async with pool:
        for _ in range(10):
            # returns when the backends are gone: what ends while a statement runs is no longer
            # a matter of validation
            ended = await asyncio.to_thread(server.psql, END_ALL_SESSIONS)
            assert ended
            async with pool.acquire() as connection:
                await backend_of(connection)
        recycled = pool.get_statistics().recycled
        assert recycled["connection_lost"] + recycled.get("validation_failed", 0) >= 10


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_validation_error_comes_only_when_no_replacement_could_be_had(
    crashable_postgres: FaultyPostgres, driver
) -> None:
    """The whole server is silent: the error says so in the caller's time, and the pool recovers."""
    server = crashable_postgres
    async with asking_each_time(server, driver, min_size=2, max_size=3) as pool:
        await asyncio.to_thread(server.freeze)
        with pytest.raises(ConnectionValidationError) as caught:
            await pool.acquire(timeout=1.0)
        error = caught.value
        assert isinstance(error, PoolTimeoutError)
        assert isinstance(error.__cause__, TimeoutError)
        assert error.timeout == 1.0
        assert error.waited >= 1.0
        assert error.snapshot.active == 0
        text = str(error)
        assert "no replacement could be opened within 1.0s" in text
        assert "Suggestion: " in text
        assert server.password not in text
        assert (await pool.health_check()).status == "unhealthy"
        assert pool.get_statistics().recycled["validation_failed"] == 2

        await asyncio.to_thread(server.thaw)
        async with pool.acquire() as connection:
            await backend_of(connection)
        await until_healthy(pool)
