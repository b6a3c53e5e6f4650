"""The ways a database fails, and how each is made and mended."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg

from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.outcomes import LOST, Outcome, outcome_of
from poolkeeper.sqlstate import chain
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.proxy import FaultProxy

DATABASE = "catalogue"


@dataclass
class Scene:
    """A server, a proxy in front of it, and the server process of the pool's one connection."""

    server: FaultyPostgres
    proxy: FaultProxy
    pid: int = 0

    async def psql(self, sql: str) -> str:
        return await asyncio.to_thread(self.server.psql, sql)


@dataclass(frozen=True)
class Seen:
    """What a caller is told.

    Attributes:
        family: ``pool``, ``lost``, ``statement``, ``time`` or ``network``.
        codes: The SQLSTATEs of the error and its causes.
        outcome: What ``outcome_of`` makes of it.
    """

    family: str
    codes: frozenset[str]
    outcome: Outcome

    @classmethod
    def of(cls, error: BaseException) -> Seen:
        codes = (getattr(link, "sqlstate", None) for link in chain(error))
        return cls(family(error), frozenset(c for c in codes if c), outcome_of(error))


def family(error: BaseException) -> str:
    """The kind of an exception, the same for both drivers."""
    if isinstance(error, ConnectionPoolError):
        return "pool"
    code = getattr(error, "sqlstate", None)
    if code in LOST or isinstance(error, asyncpg.InterfaceError):
        return "lost"
    if code is None and isinstance(error, psycopg.OperationalError):
        return "lost"
    if isinstance(error, asyncpg.PostgresError | psycopg.Error):
        return "statement"
    return "time" if isinstance(error, TimeoutError) else "network"


# Faults of the server -----------------------------------------------------------------------------


async def kill_own_backend(scene):
    await asyncio.to_thread(scene.server.kill_backend, scene.pid)


async def kill_another_backend(scene):
    other = await asyncpg.connect(scene.server.dsn(DATABASE))
    try:
        await asyncio.to_thread(scene.server.kill_backend, other.get_server_pid())
    finally:
        other.terminate()


async def kill_the_postmaster(scene):
    os.kill(scene.server.pid, signal.SIGKILL)


async def crash(scene):
    await asyncio.to_thread(scene.server.crash)


async def stop_immediate(scene):
    await asyncio.to_thread(scene.server.stop, "immediate")


async def stop_fast(scene):
    await asyncio.to_thread(scene.server.stop, "fast")


async def stop_smart(scene):
    # The server's own tool would wait until the last client has gone.
    os.kill(scene.server.pid, signal.SIGTERM)


async def terminate(scene):
    await scene.psql(f"SELECT pg_terminate_backend({scene.pid})")


async def drop_database(scene):
    await scene.psql(f"DROP DATABASE {DATABASE} WITH (FORCE)")


async def cancel(scene):
    await scene.psql(f"SELECT pg_cancel_backend({scene.pid})")


async def freeze_backend(scene):
    await asyncio.to_thread(scene.server.freeze, scene.pid)


async def freeze_postmaster(scene):
    await asyncio.to_thread(scene.server.freeze_postmaster)


async def freeze_everything(scene):
    await asyncio.to_thread(scene.server.freeze)


async def restart(scene):
    """Bring back a server in whatever state."""
    await asyncio.to_thread(scene.server.thaw)
    await asyncio.to_thread(scene.server.stop, "immediate")
    await asyncio.to_thread(scene.server.start)


async def thaw(scene):
    await asyncio.to_thread(scene.server.thaw)


async def create_database(scene):
    await scene.psql(f"CREATE DATABASE {DATABASE}")


async def nothing(scene):
    """It mends itself."""


# Faults of the network ----------------------------------------------------------------------------


async def rst(scene):
    scene.proxy.reset()


async def fin(scene):
    scene.proxy.hang_up()


async def silence_of_old_connections(scene):
    scene.proxy.silence(scene.proxy.links)


async def silence(scene):
    scene.proxy.silence()


async def refuse(scene):
    await scene.proxy.refuse()
    scene.proxy.reset()


async def heal(scene):
    await scene.proxy.heal(links=True)


# The table ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        strike: Makes it.
        mend: Ends it.
        idle: Whether an idle connection does not survive it.
        probed: Whether only a probe can find that out.
        running: The families of error a running statement may end with; empty: it runs on.
        codes: SQLSTATEs of which one may come with it.
        outcome: What ``outcome_of`` says of it.
        connect: Words or SQLSTATEs in what a new pool says; empty: it opens.
        seconds: How long the statement would run.
        refused: Whether new logins are refused meanwhile, which is not waited out.
    """

    strike: Callable[[Any], Awaitable[None]]
    mend: Callable[[Any], Awaitable[None]] = nothing
    idle: bool = True
    probed: bool = False
    running: frozenset[str] = frozenset({"lost"})
    codes: frozenset[str] = frozenset({"08003", "57P01", "57P02", "57P03"})
    outcome: Outcome = Outcome.UNKNOWN
    connect: tuple[str, ...] = ()
    seconds: float = 30.0
    refused: bool = False

    @property
    def name(self) -> str:
        return self.strike.__name__.replace("_", " ")


REFUSED = (
    "Connect call failed", "Connection refused", "reset by peer", "closed the connection", "57P03",
)  # fmt: skip
UNANSWERED = ("TimeoutError", "timeout", "no answer")

ROWS = {
    row.name: row
    for row in (
        Row(kill_own_backend),
        Row(kill_another_backend),
        Row(kill_the_postmaster, restart, connect=REFUSED),
        Row(crash, restart, connect=REFUSED),
        Row(stop_immediate, restart, connect=REFUSED),
        Row(stop_fast, restart, connect=REFUSED),
        Row(stop_smart, restart, idle=False, running=frozenset(), seconds=1.5,
            connect=("shutting down", *REFUSED)),
        Row(terminate),
        Row(drop_database, create_database, connect=("3D000", "does not exist"),
            refused=True),
        Row(cancel, idle=False, running=frozenset({"statement"}), codes=frozenset({"57014"}),
            outcome=Outcome.ROLLED_BACK),
        Row(freeze_backend, thaw, probed=True, running=frozenset({"time"}), codes=frozenset()),
        Row(freeze_postmaster, thaw, idle=False, running=frozenset(), seconds=1.5,
            connect=UNANSWERED),
        Row(freeze_everything, thaw, probed=True, connect=UNANSWERED),
        Row(rst),
        Row(fin),
        # While the server is at work on it, it is a slow one.
        Row(silence_of_old_connections, heal, probed=True, seconds=1.0),
        Row(silence, heal, probed=True, connect=UNANSWERED),
        Row(refuse, heal, connect=REFUSED),
    )
}  # fmt: skip
