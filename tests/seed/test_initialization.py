"""A pool that cannot be opened says why and leaves nothing."""

import asyncio
import os
import socket
import traceback
from urllib.parse import urlsplit

import psutil
import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.exceptions import PoolInitializationError
from poolkeeper.testing.plugin import TemporaryDatabase

SECRET = "correct-horse-battery"


def refused_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wrong_url(url: str, wrong: str) -> str:
    """The URL of a real database with one part of it wrong."""
    parts = urlsplit(url)
    user, password, host = parts.username, parts.password, parts.hostname
    port, database = parts.port, parts.path
    match wrong:
        case "host":
            # a name that no resolver knows (RFC 6761), and none needs to be asked for
            host = "nonexistent_host.invalid"
        case "port":
            port = refused_port()
        case "user":
            user = "invalid_user"
        case "password":
            password = SECRET
        case "database":
            database = "/no_db"
    return f"postgresql://{user}:{password}@{host}:{port}{database}"


EXPECTED = {
    # part: attempts, in the message
    "host": (3, "check host and port"),
    "port": (3, "check host and port"),
    # a stranger is not told that he is one: the server says no more than "wrong password"
    "user": (1, "check the password"),
    "password": (1, "check the password"),
    "database": (1, "check the database name"),
}


def open_sockets() -> set[tuple[str, ...]]:
    """The TCP connections of this process."""
    connections = psutil.Process(os.getpid()).net_connections("tcp")
    return {(str(found.laddr), str(found.raddr)) for found in connections}


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("wrong", EXPECTED)
async def test_pool_that_cannot_be_opened_says_why_and_leaves_nothing(
    postgres: TemporaryDatabase, driver, wrong
) -> None:
    """The masked URL, the cause, what to do; no task, no socket, no session left."""
    attempts, advice = EXPECTED[wrong]
    url = wrong_url(postgres.url, wrong).replace("postgresql://", f"postgresql+{driver}://")
    password = urlsplit(url).password
    config = PoolConfig(database_url=url, min_size=2, max_size=5, timeout=1.0)
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    pool = ConnectionPoolManager(config)
    with pytest.raises(PoolInitializationError) as caught:
        await pool.initialize()

    error = caught.value
    assert error.attempts == attempts
    assert error.elapsed >= 0
    masked = url.replace(f":{password}@", ":***@")
    assert error.url == masked
    text = str(error)
    assert masked in text
    assert f"({attempts} attempt" in text
    assert "Suggestion: " in text
    assert advice in text
    assert error.__cause__ is not None
    assert type(error.__cause__).__name__ in text
    everything = "".join(traceback.format_exception(error)) + repr(error) + repr(pool)
    assert password not in everything

    assert asyncio.all_tasks() == tasks
    assert open_sockets() == sockets
    assert pool.get_size() == 0
    sessions = await asyncio.to_thread(
        postgres.server.psql,
        "SELECT count(*) FROM pg_stat_activity "
        f"WHERE datname = '{postgres.name}' AND backend_type = 'client backend'",
    )
    assert sessions == "0"


@pytest.mark.asyncio
async def test_pool_can_be_opened_after_the_cause_is_gone(crashable_postgres) -> None:
    """The failed attempt spoiled nothing: the same pool opens once the server is there."""
    server = crashable_postgres
    await asyncio.to_thread(server.stop)
    pool = ConnectionPoolManager(PoolConfig(database_url=server.dsn(), min_size=1, max_size=2))
    with pytest.raises(PoolInitializationError):
        await pool.initialize()
    await asyncio.to_thread(server.start)
    async with pool:
        assert await pool.fetchval("SELECT 1") == 1
