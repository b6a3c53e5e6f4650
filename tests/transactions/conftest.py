"""A table to write to, and pools on it with each driver, through a proxy or not."""

import itertools
from contextlib import asynccontextmanager

import asyncpg
import pytest
import pytest_asyncio

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.observability.events import TransactionResolved
from poolkeeper.testing.contracts import eventually
from poolkeeper.testing.proxy import FaultProxy

_numbers = itertools.count(1)


class Rig:
    """One database with the table ``done``, where each piece of work leaves one row."""

    def __init__(self, url: str, driver: str, admin: asyncpg.Connection) -> None:
        self.url = url
        self.driver = driver
        self.admin = admin
        self.application = f"transactions-{next(_numbers)}"

    @asynccontextmanager
    async def pool(self, url: str | None = None, **options):
        """An open pool; its events are in ``pool.seen``."""
        options = {"min_size": 1, "max_size": 2, "timeout": 20.0, "close_timeout": 2.0} | options
        settings = options.pop("server_settings", {})
        scheme = f"postgresql+{self.driver}://"
        config = PoolConfig(
            database_url=(url or self.url).replace("postgresql://", scheme, 1), **options
        )
        pool = ConnectionPoolManager(
            config, server_settings={"application_name": self.application, **settings}
        )
        pool.seen = []
        pool.add_event_listener(pool.seen.append)
        async with pool:
            yield pool

    @asynccontextmanager
    async def behind_a_proxy(self, **options):
        """A pool whose connections lead through a proxy; the ledger exists already."""
        async with FaultProxy.to(self.url) as proxy, self.pool(proxy.url, **options) as pool:
            await pool.run_transaction(write, next(_numbers))
            yield pool, proxy
            await proxy.heal(links=True)

    async def times_done(self, work) -> int:
        """How many rows a piece of work has left."""
        return await self.admin.fetchval("SELECT count(*) FROM done WHERE work = $1", work)

    async def sessions(self, condition: str = "true") -> int:
        """Server sessions of the pools for which a condition on pg_stat_activity holds."""
        return await self.admin.fetchval(
            f"SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND ({condition})",
            self.application,
        )

    async def reached(self, condition: str) -> None:
        """Wait until such a session exists."""
        await eventually(lambda: self.sessions(condition))


async def write(connection, work: int) -> int:
    """Leave the row of a piece of work, in a way both drivers understand."""
    await connection.execute(f"INSERT INTO done VALUES ({int(work)})")
    return work


async def value(connection, sql: str):
    """First column of the first row."""
    if hasattr(connection, "fetchval"):
        return await connection.fetchval(sql)
    return (await (await connection.execute(sql)).fetchone())[0]


def work() -> int:
    """A piece of work nobody has done yet."""
    return next(_numbers)


def resolutions(pool) -> list[str]:
    """What the pool found out about unanswered COMMITs."""
    return [event.outcome for event in pool.seen if isinstance(event, TransactionResolved)]


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request) -> str:
    """Each driver."""
    return request.param


@pytest_asyncio.fixture
async def rig(postgres, driver):
    """A database of the test's own."""
    admin = await asyncpg.connect(postgres.url)
    # No unique key: what is done twice must show.
    await admin.execute("CREATE TABLE done (work bigint NOT NULL)")
    yield Rig(postgres.url, driver, admin)
    await admin.close()
