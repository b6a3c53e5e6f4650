"""What a statement sets going must not reach whoever gets its connection next."""

import asyncio
import contextlib
import os
import signal

import psutil
import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.drivers.psycopg_exchange import backend_pid
from poolkeeper.server.execute import run_statement
from poolkeeper.server.interrupt import interruptible

MEBIBYTE = 1 << 20


@contextlib.asynccontextmanager
async def pool_on(url):
    url = url.replace("postgresql://", "postgresql+psycopg://", 1) + "?sslmode=disable"
    config = PoolConfig(database_url=url, min_size=1, max_size=1, reset="always", timeout=60.0)
    async with ConnectionPoolManager(config, prepare_threshold=None) as pool:
        yield pool


async def run(conn, sql):
    return await run_statement(conn, sql.encode(), (), max_bytes=MEBIBYTE)


@pytest.mark.asyncio
async def test_a_cancel_request_that_may_still_arrive_ends_its_connection(crashable_postgres):
    """The postmaster was too busy to take it; the statement ended by itself meanwhile."""
    loop = asyncio.get_running_loop()
    async with pool_on(crashable_postgres.url) as pool:
        conn = await pool.acquire()
        first = backend_pid(conn)
        os.kill(crashable_postgres.pid, signal.SIGSTOP)
        try:
            sleeping = run(conn, "select pg_sleep(3) is not null")
            deadline = loop.time() + 0.2
            result = await interruptible(
                conn, sleeping, deadline=deadline, leaving=loop.create_future()
            )
        finally:
            os.kill(crashable_postgres.pid, signal.SIGCONT)
        assert result.rows == [("t",)]
        await pool.release(conn)
        conn = await pool.acquire()
        assert backend_pid(conn) != first
        assert (await run(conn, "select 1")).rows == [("1",)]
        await pool.release(conn)


@pytest.mark.asyncio
async def test_notifications_nobody_asked_for_are_not_kept(postgres):
    """libpq keeps them until somebody takes them."""
    process = psutil.Process()
    async with pool_on(postgres.url) as pool:
        conn = await pool.acquire()
        await run(conn, "listen flood")
        before = process.memory_info().rss
        for number in range(150):
            # Those with the same text are told once.
            await run(
                conn,
                f"select count(pg_notify('flood', repeat('y', 7000) || {number} || ' ' || i))"
                " from generate_series(1, 100) i",
            )
        # 105 MB were sent.
        assert process.memory_info().rss - before < 50 * MEBIBYTE
        await pool.release(conn)
