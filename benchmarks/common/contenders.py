"""The pools compared, each configured as README.md says, and the raw connections below them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from time import perf_counter
from typing import Any, ClassVar

QUERY = "SELECT 1"
SIZE = 10


class Contender(ABC):
    """Ten connections to one database, and the two things measured on them."""

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def operation(self, task: int) -> float:
        """Borrow, query, give back; returns when the connection was there."""

    async def borrow(self, times: int) -> None:
        """Acquire and release, nothing in between."""
        raise NotImplementedError

    def tasks(self, wanted: int) -> int:
        """How many tasks stand for ``wanted`` tasks of an application."""
        return wanted


class RawAsyncpg(Contender):
    """What is left when nothing is shared: each of ten tasks has a connection of its own."""

    name = "raw asyncpg"

    async def open(self) -> None:
        import asyncpg

        self.connections = await asyncio.gather(*(asyncpg.connect(self.url) for _ in range(SIZE)))

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()

    async def operation(self, task: int) -> float:
        acquired = perf_counter()
        await self.connections[task].fetchval(QUERY)
        return acquired

    def tasks(self, wanted: int) -> int:
        return min(wanted, SIZE)


class RawPsycopg(Contender):
    name = "raw psycopg"

    async def open(self) -> None:
        from psycopg import AsyncConnection

        self.connections = await asyncio.gather(
            *(AsyncConnection.connect(self.url, autocommit=True) for _ in range(SIZE))
        )

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()

    async def operation(self, task: int) -> float:
        acquired = perf_counter()
        cursor = await self.connections[task].execute(QUERY)
        await cursor.fetchone()
        return acquired

    def tasks(self, wanted: int) -> int:
        return min(wanted, SIZE)


class Poolkeeper(Contender):
    name = "poolkeeper"

    async def open(self) -> None:
        from poolkeeper import create_pool

        self.pool = create_pool(self.url, min_size=SIZE, max_size=SIZE)
        await self.pool.initialize()

    async def close(self) -> None:
        await self.pool.close()

    async def operation(self, _task: int) -> float:
        async with self.pool.acquire() as connection:
            acquired = perf_counter()
            await connection.fetchval(QUERY)
        return acquired

    async def borrow(self, times: int) -> None:
        for _ in range(times):
            async with self.pool.acquire():
                pass


class AsyncpgPool(Contender):
    name = "asyncpg.Pool"
    reset: Any = None

    async def open(self) -> None:
        import asyncpg

        self.pool = await asyncpg.create_pool(
            self.url, min_size=SIZE, max_size=SIZE, reset=self.reset
        )

    async def close(self) -> None:
        await self.pool.close()

    async def operation(self, _task: int) -> float:
        async with self.pool.acquire() as connection:
            acquired = perf_counter()
            await connection.fetchval(QUERY)
        return acquired

    async def borrow(self, times: int) -> None:
        for _ in range(times):
            async with self.pool.acquire():
                pass


class AsyncpgPoolWithoutReset(AsyncpgPool):
    """Not what anybody gets by default: it shows how much of the difference is the reset."""

    name = "asyncpg.Pool, no reset"

    async def reset(self, connection: Any) -> None:
        """Leave everything to the next borrower."""


class PsycopgPool(Contender):
    name = "psycopg_pool"

    async def open(self) -> None:
        from psycopg_pool import AsyncConnectionPool

        self.pool = AsyncConnectionPool(
            self.url, min_size=SIZE, max_size=SIZE, open=False, kwargs={"autocommit": True}
        )
        await self.pool.open(wait=True)

    async def close(self) -> None:
        await self.pool.close()

    async def operation(self, _task: int) -> float:
        async with self.pool.connection() as connection:
            acquired = perf_counter()
            cursor = await connection.execute(QUERY)
            await cursor.fetchone()
        return acquired

    async def borrow(self, times: int) -> None:
        for _ in range(times):
            async with self.pool.connection():
                pass


class SQLAlchemyEngine(Contender):
    """``engine.connect()``, as applications use it."""

    name = "SQLAlchemy"

    async def open(self) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        self.engine = create_async_engine(
            self.url.replace("postgresql://", "postgresql+asyncpg://"),
            pool_size=SIZE,
            max_overflow=0,
            pool_pre_ping=False,
            isolation_level="AUTOCOMMIT",
        )

    async def close(self) -> None:
        await self.engine.dispose()

    async def operation(self, _task: int) -> float:
        async with self.engine.connect() as connection:
            acquired = perf_counter()
            result = await connection.exec_driver_sql(QUERY)
            result.scalar()
        return acquired

    async def borrow(self, times: int) -> None:
        for _ in range(times):
            async with self.engine.connect():
                pass


class SQLAlchemyPool(SQLAlchemyEngine):
    """``engine.raw_connection()``: the pool alone, without the ``Connection`` built around it."""

    name = "SQLAlchemy, raw_connection"

    async def borrow(self, times: int) -> None:
        for _ in range(times):
            connection = await self.engine.raw_connection()
            connection.close()
