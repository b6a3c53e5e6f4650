"""The peers in an outage, each used as its documentation says; see ``poolkeeper.drill``.

All have ten connections and the time-outs of ``Terms`` where they know such a time-out.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from poolkeeper.drill.contender import Contender, Fate, fate_by_sqlstate
from poolkeeper.drill.poolkeepers import PoolkeeperAsyncpg, PoolkeeperPsycopg
from poolkeeper.drill.terms import APPLICATION, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable

READ = f"SELECT name FROM {SCHEMA}.things WHERE id = "
WRITE = f"INSERT INTO {SCHEMA}.writes (id) VALUES "

# It reports every failed attempt to connect as a warning: thousands of lines in a drill.
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
# SQLAlchemy reports each connection it could not give back.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL + 1)


class Peer(Contender):
    """A pool that does not say what became of a write: what the server answered is certain."""

    def fate(self, error: BaseException, *, sent: bool) -> Fate:
        return fate_by_sqlstate(error, sent=sent)


class AsyncpgPool(Peer):
    name = "asyncpg.Pool"

    async def open(self) -> None:
        import asyncpg

        terms = self.terms
        self.pool = await asyncpg.create_pool(
            self.address.url,
            min_size=terms.connections,
            max_size=terms.connections,
            password=self.address.password,
            timeout=terms.connect_timeout,
            command_timeout=terms.command_timeout,
            server_settings={"application_name": APPLICATION},
        )

    async def close(self) -> None:
        # close() waits for every connection that is in use, for ever
        self.pool.terminate()

    async def read(self, key: int) -> str:
        async with self.pool.acquire(timeout=self.terms.acquire_timeout) as connection:
            return await connection.fetchval(f"{READ}$1", key)

    async def write(self, number: int, sent: Callable[[], None]) -> None:
        async with self.pool.acquire(timeout=self.terms.acquire_timeout) as connection:
            sent()
            await connection.execute(f"{WRITE}($1)", number)

    async def sleep(self, seconds: float) -> None:
        await self.pool.execute(f"SELECT pg_sleep({seconds})")


class PsycopgPool(Peer):
    name = "psycopg_pool, check"

    async def open(self) -> None:
        from psycopg.conninfo import make_conninfo
        from psycopg_pool import AsyncConnectionPool

        terms = self.terms

        async def conninfo() -> str:
            return make_conninfo(
                self.address.url,
                password=self.address.password(),
                application_name=APPLICATION,
                connect_timeout=round(terms.connect_timeout),
                options=f"-c statement_timeout={round(terms.command_timeout * 1000)}",
            )

        self.pool = AsyncConnectionPool(
            conninfo,
            min_size=terms.connections,
            max_size=terms.connections,
            timeout=terms.acquire_timeout,
            check=AsyncConnectionPool.check_connection,
            kwargs={"autocommit": True},
            open=False,
        )
        await self.pool.open(wait=True)

    async def close(self) -> None:
        await self.pool.close()

    async def read(self, key: int) -> str:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(f"{READ}%s", (key,))
            (name,) = await cursor.fetchone()
            return name

    async def write(self, number: int, sent: Callable[[], None]) -> None:
        async with self.pool.connection() as connection:
            sent()
            await connection.execute(f"{WRITE}(%s)", (number,))

    async def sleep(self, seconds: float) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(f"SELECT pg_sleep({seconds})")


class SQLAlchemyEngine(Peer):
    name = "SQLAlchemy, pre-ping"

    async def open(self) -> None:
        from sqlalchemy import make_url, text
        from sqlalchemy.ext.asyncio import create_async_engine

        terms = self.terms
        self.engine = create_async_engine(
            make_url(_sqlalchemy_url(self.address.url)),
            pool_size=terms.connections,
            max_overflow=0,
            pool_timeout=terms.acquire_timeout,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
            connect_args={
                "password": self.address.password,
                "timeout": terms.connect_timeout,
                "command_timeout": terms.command_timeout,
                "server_settings": {"application_name": APPLICATION},
            },
        )
        self.select, self.insert = text(f"{READ}:key"), text(f"{WRITE}(:number)")
        self.pause = text("SELECT pg_sleep(:seconds)")

    async def close(self) -> None:
        await self.engine.dispose()

    async def read(self, key: int) -> str:
        async with self.engine.connect() as connection:
            return await connection.scalar(self.select, {"key": key})

    async def write(self, number: int, sent: Callable[[], None]) -> None:
        async with self.engine.connect() as connection:
            sent()
            await connection.execute(self.insert, {"number": number})

    async def sleep(self, seconds: float) -> None:
        async with self.engine.connect() as connection:
            await connection.execute(self.pause, {"seconds": seconds})


def _sqlalchemy_url(url: str) -> Any:
    """Several hosts are parameters there."""
    scheme_and_login, _, rest = url.replace("postgresql://", "postgresql+asyncpg://").rpartition(
        "@"
    )
    hosts, _, rest = rest.partition("/")
    database, _, query = rest.partition("?")
    if "," not in hosts:
        return f"{scheme_and_login}@{hosts}/{database}"
    named = "&".join(f"host={host}" for host in hosts.split(","))
    return f"{scheme_and_login}@/{database}?{named}&{query}"


CONTENDERS: tuple[type[Contender], ...] = (
    PoolkeeperAsyncpg,
    PoolkeeperPsycopg,
    AsyncpgPool,
    PsycopgPool,
    SQLAlchemyEngine,
)
