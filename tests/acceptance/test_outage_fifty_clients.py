"""Fifty clients at work while their database is killed, stopped, frozen or swept clean."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.plugin import TemporaryDatabase
from tests.acceptance.fifty_clients import FiftyClients, busy_pool, check_capacity
from tests.seed.witness import (
    Witness,
    check_outage_log,
    health_watched,
    json_log,
    measured,
    until_healthy,
)

pytestmark = pytest.mark.slow

Fault = Callable[[FaultyPostgres], Awaitable[None]]


async def kill(server: FaultyPostgres) -> None:
    """``kill -9`` of every process at one instant."""
    await asyncio.to_thread(server.crash)


async def stop_fast(server: FaultyPostgres) -> None:
    """``pg_ctl stop -m fast``."""
    await asyncio.to_thread(server.stop, "fast")


async def stop_immediate(server: FaultyPostgres) -> None:
    """``pg_ctl stop -m immediate``."""
    await asyncio.to_thread(server.stop, "immediate")


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", [kill, stop_fast, stop_immediate])
async def test_fifty_clients_survive_the_end_of_their_database(
    crashable_postgres: FaultyPostgres, tmp_path: Path, fault: Fault
) -> None:
    """Every call comes back in its time, every acknowledged row is there, all heals by itself."""
    server = crashable_postgres
    time = asyncio.get_running_loop().time
    with json_log(tmp_path / "outage.log") as log:
        async with busy_pool(server.dsn()) as pool, health_watched(pool) as health:
            witness = Witness(pool)
            clients = FiftyClients(pool)
            await clients.start()

            struck = time()
            await fault(server)
            gone = time()
            noticed = await witness.saw("database_connection_lost")
            assert noticed - struck < 5
            await witness.saw("reconnect_attempt", 4)
            await asyncio.to_thread(server.start)
            accepts = time()
            back = await witness.saw("database_reconnected")
            assert back - accepts < 10
            successes = await clients.successes(200, since=gone)
            assert min(successes) - accepts < 10
            await clients.stop()
            healthy = await until_healthy(pool)

            during = health.between(noticed, back)
            assert {report.status for report in during} == {"unhealthy"}
            after = health.between(back, healthy)
            assert {report.status for report in after} <= {"degraded", "healthy"}
            clients.check_bounds()
            await clients.check_rows()
            await check_capacity(pool, server)
            assert len(witness.named("database_connection_lost")) == 1
    outage = check_outage_log(log())
    measured(
        noticed_ms=round(1000 * (noticed - struck), 1),
        outage_seconds=round(outage["outage_seconds"], 3),
        attempts=outage["attempts"],
        first_success_ms=round(1000 * (min(successes) - accepts), 1),
        reconnected_ms=round(1000 * (back - accepts), 1),
        healthy_seconds=round(healthy - accepts, 3),
        calls=len(clients.calls),
        errors=dict(clients.errors),
    )


@pytest.mark.asyncio
async def test_fifty_clients_survive_the_end_of_all_their_sessions(
    crashable_postgres: FaultyPostgres,
) -> None:
    """The server stays and ends every session, five times: only calls in flight can fail."""
    server = crashable_postgres
    async with busy_pool(server.dsn()) as pool:
        clients = FiftyClients(pool)
        await clients.start()
        told = 0
        for _ in range(5):
            told += await asyncio.to_thread(server.terminate_backends)
            await clients.successes(200, since=asyncio.get_running_loop().time())
        await clients.stop()
        await until_healthy(pool)
        assert told > 0
        assert sum(clients.errors.values()) <= told
        clients.check_bounds()
        await clients.check_rows()
        await check_capacity(pool, server)
    measured(
        sessions_ended=told,
        errors=dict(clients.errors),
    )


@pytest.mark.asyncio
async def test_idle_pool_notices_a_frozen_database_within_five_seconds_and_recovers(
    crashable_postgres: FaultyPostgres,
) -> None:
    """No socket closes and nobody asks: the pool says ``unhealthy`` by itself, then recovers."""
    server = crashable_postgres
    time = asyncio.get_running_loop().time
    async with (
        ConnectionPoolManager(PoolConfig(database_url=server.dsn(), min_size=5)) as pool,
        health_watched(pool) as health,
    ):
        witness = Witness(pool)
        struck = time()
        await asyncio.to_thread(server.freeze)
        frozen = time()
        noticed = await witness.saw("database_connection_lost")
        assert noticed - frozen < 5
        assert (await pool.health_check()).status == "unhealthy"
        # the freeze lasts six seconds: that is the fault itself, not a wait for something
        await asyncio.sleep(6 - (time() - frozen))
        await asyncio.to_thread(server.thaw)
        thawed = time()
        back = await witness.saw("database_reconnected")
        assert back - thawed < 10
        healthy = await until_healthy(pool)
        assert {report.status for report in health.between(noticed, back)} == {"unhealthy"}
        (lost,) = witness.named("database_connection_lost")
        assert 0 < lost.detection_time_seconds < 5
        assert await pool.fetchval("SELECT 1") == 1
    measured(
        noticed_seconds=round(noticed - struck, 3),
        reconnected_ms=round(1000 * (back - thawed), 1),
        healthy_seconds=round(healthy - thawed, 3),
    )


@pytest.mark.asyncio
async def test_fifty_clients_survive_a_freeze(crashable_postgres: FaultyPostgres) -> None:
    """Six seconds of silence in the middle of their statements: all calls come back, rows agree."""
    server = crashable_postgres
    time = asyncio.get_running_loop().time
    async with busy_pool(server.dsn()) as pool:
        witness = Witness(pool)
        clients = FiftyClients(pool)
        await clients.start()
        await asyncio.to_thread(server.freeze)
        frozen = time()
        await asyncio.sleep(6)
        await asyncio.to_thread(server.thaw)
        thawed = time()
        successes = await clients.successes(200, since=thawed)
        assert min(successes) - thawed < 10
        await clients.stop()
        healthy = await until_healthy(pool)
        clients.check_bounds()
        await clients.check_rows()
        await check_capacity(pool, server)
        lost = witness.named("database_connection_lost")
    measured(
        lost_events=len(lost),
        first_success_ms=round(1000 * (min(successes) - thawed), 1),
        healthy_seconds=round(healthy - thawed, 3),
        longest_call=round(max(c.ended - c.started for c in clients.calls), 3),
        frozen_seconds=round(thawed - frozen, 3),
        errors=dict(clients.errors),
    )


@pytest.mark.asyncio
async def test_outage_of_one_database_leaves_the_pool_of_another_untouched(
    crashable_postgres: FaultyPostgres, postgres: TemporaryDatabase
) -> None:
    """Two pools in one process: while one is cut off, the other has no error and no event."""
    async with busy_pool(crashable_postgres.dsn()) as struck, busy_pool(postgres.url) as spared:
        witness, quiet = Witness(struck), Witness(spared)
        victims, others = FiftyClients(struck), FiftyClients(spared)
        await victims.start()
        await others.start()
        async with health_watched(spared) as health:
            await asyncio.to_thread(crashable_postgres.crash)
            gone = asyncio.get_running_loop().time()
            await witness.saw("reconnect_attempt", 4)
            await others.successes(200, since=gone)
            await asyncio.to_thread(crashable_postgres.start)
            await victims.successes(200, since=gone)
            await victims.stop()
            await others.stop()
        assert others.errors == {}
        assert {report.database.status for _, report in health.reports} == {"connected"}
        assert (
            quiet.named("database_connection_lost", "reconnect_attempt", "connection_recycled")
            == []
        )
        for clients in (victims, others):
            clients.check_bounds()
            await clients.check_rows()
        await check_capacity(struck, crashable_postgres)
        await check_capacity(spared, postgres.server)
