"""The database that is broken: set up, reached directly or through a proxy, and read at the end."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import AsyncExitStack
from enum import Flag, auto
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote, urlsplit

from poolkeeper import create_pool
from poolkeeper.drill.contender import Address
from poolkeeper.drill.terms import APPLICATION, SCHEMA, THINGS
from poolkeeper.endpoints import endpoints_of
from poolkeeper.testing.cluster import ReplicatedPostgres
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.proxy import FaultProxy
from poolkeeper.urls import mask_url, split_url

if TYPE_CHECKING:
    from types import TracebackType

    from poolkeeper import ConnectionPoolManager

DATABASE = ROLE = "drill"


class Control(Flag):
    """What a fault must be able to do to the database, and what an arena can."""

    NETWORK = auto()
    SESSIONS = auto()
    SERVER = auto()
    STANDBY = auto()


class Arena(ABC):
    """A database with the drill's tables in it, and everything faults are made with.

    Attributes:
        controls: Which faults can be made here.
        password: What pools are to log in with now.
    """

    controls: Control
    password: str
    proxy: FaultProxy
    server: FaultyPostgres
    cluster: ReplicatedPostgres

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @abstractmethod
    def direct_url(self) -> str:
        """Where the database is, with the password of the role the pools use."""

    def proxied_url(self) -> str:
        """The same through the proxy."""
        return self.proxy.url

    @abstractmethod
    async def end_sessions(self) -> int:
        """Terminate the sessions of the pools under test; how many there were."""

    @property
    def masked_url(self) -> str:
        """For people to read."""
        return mask_url(self.direct_url())

    def address(self, *, proxied: bool) -> Address:
        """Where a pool connects to."""
        return Address(self.proxied_url() if proxied else self.direct_url(), lambda: self.password)

    def doors(self, *, proxied: bool) -> list[tuple[str, int]]:
        """Hosts and ports the prober dials."""
        if proxied:
            return [(self.proxy.host, self.proxy.port)]
        return [each for each in endpoints_of(self.direct_url(), {}) if isinstance(each, tuple)]

    def admin(self) -> ConnectionPoolManager:
        """A pool for the drill itself, past the proxy."""
        _driver, url = split_url(self.direct_url())
        return create_pool(url, min_size=0, max_size=1, command_timeout=60.0)

    async def create_tables(self) -> None:
        """Make the schema anew."""
        async with self.admin() as admin:
            await admin.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            await admin.execute(f"CREATE SCHEMA {SCHEMA}")
            await admin.execute(
                f"CREATE TABLE {SCHEMA}.things (id int PRIMARY KEY, name text NOT NULL)"
            )
            await admin.execute(
                f"INSERT INTO {SCHEMA}.things SELECT n, 'thing ' || n "
                f"FROM generate_series(0, {THINGS - 1}) n"
            )
            # no unique key: what was written twice must show
            await admin.execute(f"CREATE TABLE {SCHEMA}.writes (id bigint NOT NULL)")
            await admin.execute(f"ANALYZE {SCHEMA}.things")

    async def forget_writes(self) -> None:
        """Leave no row of the drill before."""
        async with self.admin() as admin:
            await admin.execute(f"TRUNCATE {SCHEMA}.writes")

    async def written(self) -> Counter[int]:
        """How often each row is there, once nobody can write any more."""
        await self.end_sessions()
        async with (
            self.admin() as admin,
            admin.acquire() as connection,
            connection.transaction(),
        ):
            # waits for a session that is still ending in the middle of a write
            await connection.execute(f"LOCK TABLE {SCHEMA}.writes IN EXCLUSIVE MODE")
            rows = await connection.fetch(f"SELECT id FROM {SCHEMA}.writes")
        return Counter(row["id"] for row in rows)


class EmbeddedArena(Arena):
    """A PostgreSQL of the drill's own in a temporary directory, gone afterwards."""

    controls = Control.NETWORK | Control.SESSIONS | Control.SERVER

    async def __aenter__(self) -> Self:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="poolkeeper-drill-"))
        self.server = FaultyPostgres(Path(folder))
        await asyncio.to_thread(self.server.start)
        self._stack.push_async_callback(asyncio.to_thread, self.server.stop, "immediate")
        self.password = await asyncio.to_thread(make_role, self.server)
        await self.create_tables()
        self.proxy = await self._stack.enter_async_context(FaultProxy.to(self.direct_url()))
        return self

    def direct_url(self) -> str:
        """See ``Arena``."""
        return role_url(self.server.host, self.server.port, self.password)

    def proxied_url(self) -> str:
        """See ``Arena``. The proxy itself knows the first password only."""
        return role_url(self.proxy.host, self.proxy.port, self.password)

    async def end_sessions(self) -> int:
        """See ``Arena``."""
        return await asyncio.to_thread(self.server.terminate_backends, application_name=APPLICATION)


class ReplicatedArena(Arena):
    """A primary and a synchronous standby of the drill's own; made anew for every drill."""

    controls = Control.STANDBY

    async def __aenter__(self) -> Self:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="poolkeeper-drill-"))
        self.cluster = ReplicatedPostgres(Path(folder), standbys=1, synchronous=True)
        await asyncio.to_thread(self.cluster.start)
        self._stack.push_async_callback(asyncio.to_thread, self.cluster.stop)
        self.password = await asyncio.to_thread(make_role, self.cluster.primary)
        await self.create_tables()
        return self

    def direct_url(self) -> str:
        """See ``Arena``."""
        hosts = ",".join(f"{server.host}:{server.port}" for server in self.cluster.servers)
        login = f"{ROLE}:{quote(self.password, safe='')}"
        return f"postgresql://{login}@{hosts}/{DATABASE}?target_session_attrs=primary"

    def doors(self, *, proxied: bool) -> list[tuple[str, int]]:
        """The primary's."""
        del proxied
        return [(self.cluster.primary.host, self.cluster.primary.port)]

    async def end_sessions(self) -> int:
        """See ``Arena``."""
        return await asyncio.to_thread(
            self.cluster.primary.terminate_backends, application_name=APPLICATION
        )


class GivenArena(Arena):
    """A database of somebody's: only the way to it is broken, and sessions of the drill itself.

    Everything is written into a schema that is dropped at the end, but for the ledger: others may
    have begun to use it meanwhile.
    """

    controls = Control.NETWORK | Control.SESSIONS

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.password = unquote(urlsplit(url).password or "")

    async def __aenter__(self) -> Self:
        self.proxy = await self._stack.enter_async_context(FaultProxy.to(self._url))
        self._stack.push_async_callback(self._clean_up)
        await self.create_tables()
        return self

    def direct_url(self) -> str:
        """See ``Arena``."""
        return self._url

    async def end_sessions(self) -> int:
        """See ``Arena``."""
        async with self.admin() as admin:
            told = await admin.fetchval(
                "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = $1 AND usename = current_user",
                APPLICATION,
            )
        return int(told)

    async def _clean_up(self) -> None:
        await self.end_sessions()
        async with self.admin() as admin:
            await admin.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def make_role(server: FaultyPostgres) -> str:
    """Creates the role the pools log in as, no superuser, with a database; returns its password."""
    password = secrets.token_urlsafe(12)
    server.psql(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")
    server.psql(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    return password


def role_url(host: str, port: int, password: str) -> str:
    """That role's URL of that database."""
    return f"postgresql://{ROLE}:{quote(password, safe='')}@{host}:{port}/{DATABASE}"


async def change_password(server: FaultyPostgres) -> str:
    """Changes it on the server; returns the new one, which no pool is told yet."""
    password = secrets.token_urlsafe(12)
    await asyncio.to_thread(server.psql, f"ALTER ROLE {ROLE} PASSWORD '{password}'")
    return password
