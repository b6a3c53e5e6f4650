"""Pools on both kinds of database: in memory, and a real PostgreSQL."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest_asyncio

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.testing.memory import MemoryDatabase, memory_pool

_numbers = itertools.count()


class World:
    """A database and the pools on it; leaving it checks that nothing is left."""

    kind: str
    slow = "SELECT pg_sleep(1)"
    """Runs for longer than a test needs; a server goes on with it after the client has gone."""

    def __init__(self) -> None:
        self.pools: list[ConnectionPoolManager] = []

    def pool(self, **options) -> ConnectionPoolManager:
        """A pool not opened yet; one connection at least unless said otherwise."""
        options = {"min_size": 1, "max_size": 2, "timeout": 20.0} | options
        if "max_size" in options and options["min_size"] > options["max_size"]:
            options["min_size"] = options["max_size"]
        pool = self._pool(options)
        self.pools.append(pool)
        return pool

    def _pool(self, options) -> ConnectionPoolManager:
        raise NotImplementedError

    async def sessions(self) -> int:
        """How many server sessions the pools have."""
        raise NotImplementedError

    async def drop_all(self) -> None:
        """The server ends every session."""
        raise NotImplementedError

    async def emptied(self, sessions: int = 0) -> None:
        """Wait until the server has no more than ``sessions`` sessions left."""
        async with asyncio.timeout(20):
            while await self.sessions() > sessions:
                await asyncio.sleep(0.01)


class MemoryWorld(World):
    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.database = MemoryDatabase()

    def _pool(self, options) -> ConnectionPoolManager:
        return memory_pool(self.database, **options)

    async def sessions(self) -> int:
        return len(self.database.sessions)

    async def drop_all(self) -> None:
        self.database.drop()


class PostgresWorld(World):
    kind = "asyncpg"

    def __init__(self, url: str, admin: asyncpg.Connection) -> None:
        super().__init__()
        self.url = url
        self.admin = admin
        self.application = f"pool-test-{next(_numbers)}"

    def _pool(self, options) -> ConnectionPoolManager:
        hooks = {
            name: options.pop(name)
            for name in ("init", "setup", "connect", "connection_class", "record_class")
            if name in options
        }
        reset = options.pop("reset", "auto")
        settings = {"application_name": self.application}
        if callable(reset):
            hooks["reset"] = reset
        else:
            options["reset"] = reset
        config = PoolConfig(database_url=self.url, **options)
        return ConnectionPoolManager(config, server_settings=settings, **hooks)

    async def sessions(self) -> int:
        return await self.admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", self.application
        )

    async def drop_all(self) -> None:
        await self.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
            self.application,
        )


async def _leave(world: World, tasks_before: set[asyncio.Task]) -> None:
    """Close what a test opened; neither a session nor a task may outlive it."""
    for pool in world.pools:
        await pool.close(timeout=5)
    await world.emptied()
    async with asyncio.timeout(10):
        while left := asyncio.all_tasks() - tasks_before - {asyncio.current_task()}:
            await asyncio.wait(left)


@asynccontextmanager
async def memory_world() -> AsyncIterator[MemoryWorld]:
    tasks_before = asyncio.all_tasks()
    world = MemoryWorld()
    try:
        yield world
    finally:
        world.database.open_gates()
        await _leave(world, tasks_before)


@asynccontextmanager
async def postgres_world(url: str) -> AsyncIterator[PostgresWorld]:
    tasks_before = asyncio.all_tasks()
    admin = await asyncpg.connect(url)
    try:
        world = PostgresWorld(url, admin)
        yield world
        await _leave(world, tasks_before)
    finally:
        await admin.close()


@pytest_asyncio.fixture
async def memory() -> AsyncIterator[MemoryWorld]:
    """Pools in memory, where every order of events can be had."""
    async with memory_world() as world:
        yield world


@pytest_asyncio.fixture
async def real(postgres) -> AsyncIterator[PostgresWorld]:
    """Pools on a real PostgreSQL."""
    async with postgres_world(postgres.url) as world:
        yield world


@pytest_asyncio.fixture(params=["memory", "asyncpg"])
async def world(request) -> AsyncIterator[World]:
    """Both, one after the other: what is promised holds on each."""
    if request.param == "memory":
        async with memory_world() as made:
            yield made
    else:
        async with postgres_world(request.getfixturevalue("postgres").url) as made:
            yield made
