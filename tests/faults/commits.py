"""COMMITs held in one of their phases for as long as a test likes, and what can happen there."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from poolkeeper.embedded import EmbeddedPostgresError
from poolkeeper.testing.proxy import Direction, FaultProxy, Link, Segment, Verdict
from tests.faults.calls import insert
from tests.faults.points import World

LOCK = 42
HOLD_AT_COMMIT = f"""
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON work
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold();
CREATE TABLE leader (n int);
"""
SETTINGS = {
    # Only the pools under test wait for a standby.
    "synchronous_commit": "local",
    "max_connections": "300",
    # Nobody else flushes what a frozen session should.
    "wal_writer_delay": "10s",
    "autovacuum": "off",
}


# Ways to write ------------------------------------------------------------------------------------


async def run_transaction(pool, work, seconds):
    async def body(connection):
        await connection.execute(insert(work))

    await pool.run_transaction(body, timeout=seconds)


async def transaction(pool, work, seconds):
    async with asyncio.timeout(seconds), pool.acquire() as connection, connection.transaction():
        await connection.execute(insert(work))


async def autocommit(pool, work, seconds):
    if pool._pool.driver.name == "asyncpg":
        await pool.execute(insert(work), timeout=seconds)
    else:
        async with asyncio.timeout(seconds):
            await pool.execute(insert(work))


WAYS = {way.__name__: way for way in (run_transaction, transaction, autocommit)}


def commits(segment: Segment, way: str) -> bool:
    """Whether a segment is the request that commits."""
    if segment.direction is not Direction.TO_SERVER or segment.text is None:
        return False
    if way == "autocommit":
        return segment.text.startswith("INSERT INTO work")
    return "commit" in segment.text.lower()


# Phases -------------------------------------------------------------------------------------------


class Phase(ABC):
    """Where COMMITs stand while it is entered."""

    wait_event: str

    def __init__(self, world: World) -> None:
        self.world = world
        self._connection: asyncpg.Connection | None = None

    @abstractmethod
    async def enter(self) -> None:
        """From now on COMMITs get that far and no further."""

    @abstractmethod
    async def leave(self) -> None:
        """Let them go on, those of a server that was restarted as well."""

    def hold_answer(self, site: Site, segment: Segment) -> Verdict:
        """What becomes of the answer to COMMIT."""
        return Verdict.PASS

    async def reached(self, site: Site) -> bool:
        """Whether a COMMIT that was sent has got there."""
        assert site.link is not None
        rows = await self.world.query(
            "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = $2",
            site.link.backend_pid,
            self.wait_event,
        )
        return bool(rows)

    async def _connect(self) -> asyncpg.Connection:
        self._connection = await asyncpg.connect(self.world.url)
        return self._connection

    async def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class BeforeTheCommitRecord(Phase):
    """A deferred trigger waits for a lock."""

    wait_event = "advisory"

    async def enter(self) -> None:
        await (await self._connect()).execute(f"SELECT pg_advisory_lock({LOCK})")

    async def leave(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            with contextlib.suppress(asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
                await self._connection.execute(f"SELECT pg_advisory_unlock({LOCK})")
        await self._hang_up()


class BeforeTheFlush(Phase):
    """Somebody who flushes stands still, with the lock all need for it."""

    wait_event = "WALWrite"

    async def enter(self) -> None:
        leader = await self._connect()
        await leader.execute("SET synchronous_commit = on; SET commit_siblings = 0")
        await leader.execute("SET commit_delay = 100000")
        pid = leader.get_server_pid()
        while True:
            committing = asyncio.ensure_future(leader.execute("INSERT INTO leader VALUES (1)"))
            while not committing.done():
                if await self._unflushed():
                    await asyncio.to_thread(self.world.server.freeze, pid)
                    if await self._unflushed():
                        committing.add_done_callback(lambda done: done.exception())
                        return
                    await asyncio.to_thread(self.world.server.thaw, pid)
                await asyncio.sleep(0.005)
            await committing

    async def _unflushed(self) -> bool:
        """Whether a commit record is written and not on disk."""
        [row] = await self.world.query(
            "SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()"
        )
        return row[0]

    async def leave(self) -> None:
        await asyncio.to_thread(self.world.server.thaw)
        await self._hang_up()


class BeforeTheStandbyHasIt(Phase):
    """A synchronous standby is waited for that does not exist."""

    wait_event = "SyncRep"

    async def enter(self) -> None:
        await self._set("nosuch")

    async def leave(self) -> None:
        await self._set("")

    async def _set(self, names: str) -> None:
        await self._psql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await self._psql("SELECT pg_reload_conf()")
        while await self._psql("SHOW synchronous_standby_names") != names:
            await asyncio.sleep(0.01)

    async def _psql(self, sql: str) -> str:
        while True:
            try:
                return await asyncio.to_thread(self.world.server.psql, sql)
            except EmbeddedPostgresError as error:
                # It may be on its way back.
                if "the database system is" not in str(error):
                    raise
                await asyncio.sleep(0.05)


class BeforeTheAnswerArrives(Phase):
    """The answer is on its way for a long time."""

    async def enter(self) -> None: ...

    async def leave(self) -> None: ...

    def hold_answer(self, site: Site, segment: Segment) -> Verdict:
        site.answered = True
        return Verdict.HOLD

    async def reached(self, site: Site) -> bool:
        return site.answered


PHASES: dict[str, type[Phase]] = {
    "before the commit record": BeforeTheCommitRecord,
    "before the flush": BeforeTheFlush,
    "before the standby has it": BeforeTheStandbyHasIt,
    "before the answer arrives": BeforeTheAnswerArrives,
}


# Faults -------------------------------------------------------------------------------------------


@dataclass
class Site:
    """One call at its COMMIT."""

    name: str
    way: str
    fault: str
    world: World
    pool: Any
    proxy: FaultProxy
    phase: Phase
    application: str
    work: int
    doing: asyncio.Future[Any] = field(init=False)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    link: Link | None = None
    answered: bool = False
    loses_answer: bool = False

    def policy(self, segment: Segment) -> Verdict:
        """Find the COMMIT; lose or hold the answer to it."""
        if self.link is None and commits(segment, self.way):
            self.link = segment.link
        elif segment.link is self.link and segment.direction is Direction.TO_CLIENT:
            if self.loses_answer:
                return Verdict.LOSE
            return self.phase.hold_answer(self, segment)
        return Verdict.PASS

    async def get_there(self) -> None:
        """Begin the call and wait until its COMMIT is in the phase."""
        seconds = DEADLINES[self.way] if self.fault == DEADLINE else None
        self.doing = asyncio.ensure_future(WAYS[self.way](self.pool, self.work, seconds))
        self.begun.set()
        while not self.doing.done() and (self.link is None or not await self.phase.reached(self)):
            await asyncio.sleep(0.01)
        # A deadline may come sooner than that, on a busy machine.
        assert not self.doing.done() or self.fault == DEADLINE, f"{self.name}: {self.doing}"

    @property
    def pid(self) -> int:
        assert self.link is not None
        assert self.link.backend_pid is not None
        return self.link.backend_pid


async def _reset(site: Site) -> None:
    site.proxy.reset(site.link)


async def _hang_up(site: Site) -> None:
    site.proxy.hang_up(site.link)


async def _silence(site: Site) -> None:
    site.proxy.silence(site.link)


async def _terminate(site: Site) -> None:
    await site.world.query("SELECT pg_terminate_backend($1)", site.pid)


async def _cancel(site: Site) -> None:
    await site.world.query("SELECT pg_cancel_backend($1)", site.pid)


async def _cancel_caller(site: Site) -> None:
    site.doing.cancel()


async def _lose_answer(site: Site) -> None:
    site.loses_answer = True
    if site.answered:
        site.proxy.reset(site.link)


async def _wait(site: Site) -> None:
    await asyncio.wait({site.doing}, timeout=DEADLINES[site.way])


DEADLINE = "deadline of the caller"
DEADLINES = {"run_transaction": 1.0, "transaction": 0.5, "autocommit": 0.5}
CANCEL = "pg_cancel_backend"
CANCELLED = "cancellation of the caller"

ENDS_ITS_LINK: dict[str, Callable[[Site], Awaitable[None]]] = {
    "RST": _reset,
    "FIN": _hang_up,
    "silence": _silence,
    "pg_terminate_backend": _terminate,
    "answer lost": _lose_answer,
}
"""After these the connection does not survive the call, whatever became of that."""

FAULTS: dict[str, Callable[[Site], Awaitable[None]]] = {
    **ENDS_ITS_LINK,
    CANCEL: _cancel,
    CANCELLED: _cancel_caller,
    DEADLINE: _wait,
}
