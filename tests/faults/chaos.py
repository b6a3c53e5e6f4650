"""Fifty clients, one pool and a nemesis: an episode of chaos, judged by the checker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.testing.checker import Bounds, Report, check
from poolkeeper.testing.clients import Clients, resolve_unknown
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.history import History
from poolkeeper.testing.proxy import FaultProxy
from poolkeeper.testing.workloads import (
    Bank,
    ListAppend,
    UniqueInserts,
    autocommit,
    final_read,
)
from tests.faults.nemesis import APPLICATION, Nemesis

CLIENTS = 50
POOL_SIZE = 20
CALL_SECONDS = 8.0
"""What every call is allowed. A write in autocommit may wait for a connection, find that nothing
could be sent on it, wait for another, and run: a third for each."""
RECOVERY_SECONDS = 6.0
"""From the last fault to the first success: a silent connection may have to be found out first."""
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Episode:
    """What became of one run.

    Attributes:
        report: The verdict.
        history: What it was made from.
        resolved: COMMITs in doubt whose outcome the pool found out.
        retries: Calls the pool made again by itself.
    """

    report: Report
    history: History
    resolved: int
    retries: int


async def exactly_once(pool, body):
    return await pool.run_transaction(body, timeout=CALL_SECONDS)


async def hurried(pool, body):
    """Too little time to find out about a lost COMMIT: its client is told that it is unknown."""
    return await pool.run_transaction(body, timeout=0.5)


async def idempotent(pool, query, *args):
    return await pool.fetch(query, *args, idempotent=True, timeout=CALL_SECONDS)


async def run_episode(
    server: FaultyPostgres,
    *,
    seed: int,
    seconds: float,
    overtime: float = 1.0,
    peace: tuple[float, float] = (0.05, 0.45),
) -> Episode:
    """Break things for so many seconds, mend them, and judge what is there."""
    history = History(seed=seed)
    workloads = [UniqueInserts(), Bank(), ListAppend()]
    with _database(server, f"chaos_{seed}") as url:
        connection = await asyncpg.connect(url)
        try:
            for workload in workloads:
                await workload.create(connection)
        finally:
            await connection.close()
        async with FaultProxy.to(url, seed=seed) as proxy, _pool(proxy.url) as pool:
            clients = Clients(
                pool, workloads, history,
                count=CLIENTS, writes=[exactly_once, exactly_once, hurried, autocommit],
                read=idempotent, deadline=CALL_SECONDS, seed=seed,
            )  # fmt: skip
            clients.start()
            try:
                await _break_things(server, proxy, pool, clients, history, seconds, peace)
            finally:
                hanging = await clients.stop(timeout=PATIENCE)
            assert not hanging, f"{hanging} clients did not come back"
            await resolve_unknown(pool, history)
            _note_resources(pool, history)
            statistics = pool.get_statistics()
        left = await _sessions_left(server)
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(f"SET lock_timeout = '{PATIENCE}s'")
            final = await final_read(connection, workloads, sessions_left=left)
        finally:
            await connection.close()
    bounds = Bounds(overtime=overtime, recovery=RECOVERY_SECONDS, acknowledged=100)
    return Episode(
        check(history, final, bounds=bounds),
        history,
        statistics.total_transactions_resolved,
        statistics.total_retries,
    )


async def _break_things(server, proxy, pool, clients, history, seconds, peace) -> None:
    nemesis = Nemesis(server, proxy, history, clients.seed)
    async with asyncio.timeout(PATIENCE):
        await clients.acknowledged(100)
    time = asyncio.get_running_loop().time
    end = time() + seconds
    try:
        while time() < end:
            await nemesis.strike()
            await nemesis.rest(*peace)
            _note_resources(pool, history)
    finally:
        await nemesis.mend()
    history.heal()
    async with asyncio.timeout(PATIENCE):
        await clients.acknowledged(200)


def _pool(url: str) -> ConnectionPoolManager:
    config = PoolConfig(
        database_url=url,
        min_size=4,
        max_size=POOL_SIZE,
        timeout=CALL_SECONDS / 3,
        command_timeout=CALL_SECONDS / 3,
        connect_timeout=2.0,
    )
    return ConnectionPoolManager(config, server_settings={"application_name": APPLICATION})


@contextmanager
def _database(server: FaultyPostgres, name: str) -> Iterator[str]:
    url = server.create_database(name)
    try:
        yield url
    finally:
        server.thaw()
        server.start()
        server.drop_database(name)


def _note_resources(pool: ConnectionPoolManager, history: History) -> None:
    statistics = pool.get_statistics()
    names = ("total", "idle", "active", "connecting", "validating", "resetting", "closing")
    sizes = {name: getattr(statistics, f"{name}_connections") for name in names}
    history.note("resources", sizes | {"max_size": statistics.max_size})


async def _sessions_left(server: FaultyPostgres) -> int:
    """Sessions that do not end although their client and its network are gone."""
    try:
        async with asyncio.timeout(PATIENCE / 4):
            while True:
                sessions = await asyncio.to_thread(server.backends)
                left = sum(s["application_name"] == APPLICATION for s in sessions)
                if not left:
                    return 0
                await asyncio.sleep(0.05)
    except TimeoutError:
        return left
