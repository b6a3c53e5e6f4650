"""The three drivers, each with a second view of its server."""

import asyncio
import itertools

import asyncpg
import pytest_asyncio

from poolkeeper.drivers.asyncpg import AsyncpgDriver
from poolkeeper.drivers.psycopg import PsycopgDriver
from poolkeeper.testing.contracts import DriverSubject, NoOwner, eventually
from poolkeeper.testing.memory import MemoryDatabase, MemoryDriver

_numbers = itertools.count()


class MemorySubject(DriverSubject):
    def __init__(self) -> None:
        super().__init__()
        self.database = MemoryDatabase()
        self.driver = MemoryDriver(self.database, owner=NoOwner(), notes=self.notes)

    async def sessions(self) -> int:
        return len(self.database.sessions)

    async def terminate(self, session) -> None:
        self.database.drop(session)

    async def running(self, session) -> None:
        await self.database.gates["sleep"].reached()


class ServerSubject(DriverSubject):
    """A driver on a real server, watched through a connection of its own."""

    def __init__(self, url: str, admin: asyncpg.Connection) -> None:
        super().__init__()
        self.url = url
        self.admin = admin
        self.application = f"driver-test-{next(_numbers)}"
        self.settings = {"application_name": self.application}

    def pid(self, session) -> int:
        raise NotImplementedError

    def descriptor(self, session) -> int:
        """Of the socket."""
        raise NotImplementedError

    async def value(self, lease, sql: str):
        """First column of the first row."""
        raise NotImplementedError

    async def sessions(self) -> int:
        return await self.admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", self.application
        )

    async def terminate(self, session) -> None:
        await self.admin.execute("SELECT pg_terminate_backend($1, 10000)", self.pid(session))

    async def running(self, session) -> None:
        pid = self.pid(session)
        await eventually(
            lambda: self.admin.fetchval(
                "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1", pid
            )
        )

    async def end_all(self) -> None:
        await self.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
            self.application,
        )


class AsyncpgSubject(ServerSubject):
    def __init__(self, url, admin) -> None:
        super().__init__(url, admin)
        self.driver = AsyncpgDriver(
            url, owner=NoOwner(), notes=self.notes, server_settings=self.settings
        )

    def pid(self, session) -> int:
        return session.connection.get_server_pid()

    def descriptor(self, session) -> int:
        return session.connection._transport.get_extra_info("socket").fileno()

    async def value(self, lease, sql: str):
        return await lease.fetchval(sql)


class PsycopgSubject(ServerSubject):
    def __init__(self, url, admin) -> None:
        super().__init__(url, admin)
        self.driver = PsycopgDriver(
            url, owner=NoOwner(), notes=self.notes, server_settings=self.settings
        )

    def pid(self, session) -> int:
        return session.connection.info.backend_pid

    def descriptor(self, session) -> int:
        return session.connection.fileno()

    async def value(self, lease, sql: str):
        cursor = await lease.execute(sql)
        row = await cursor.fetchone()
        return None if row is None else row[0]


SUBJECTS = {"asyncpg": AsyncpgSubject, "psycopg": PsycopgSubject}


@pytest_asyncio.fixture(params=["memory", "asyncpg", "psycopg"])
async def subject(request):
    """Every driver, one after the other."""
    before = asyncio.all_tasks()
    if request.param == "memory":
        made = MemorySubject()
        yield made
        made.abort_all()
        made.database.open_gates()
    else:
        url = request.getfixturevalue("postgres").url
        admin = await asyncpg.connect(url)
        made = SUBJECTS[request.param](url, admin)
        yield made
        made.abort_all()
        await made.end_all()
        await admin.close()
    await eventually(lambda: not asyncio.all_tasks() - before - {asyncio.current_task()})


@pytest_asyncio.fixture(params=["asyncpg", "psycopg"])
async def server_subject(request, postgres):
    """The drivers that speak SQL."""
    admin = await asyncpg.connect(postgres.url)
    made = SUBJECTS[request.param](postgres.url, admin)
    yield made
    made.abort_all()
    await made.end_all()
    await admin.close()
