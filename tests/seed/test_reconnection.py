"""A database that dies under a working pool and comes back."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.testing.embedded import FaultyPostgres
from tests.seed.witness import Witness, check_outage_log, health_watched, json_log, until_healthy


class Counting:
    """Inserts 0, 1, 2 … one row after another, whatever happens; remembers what was said to it."""

    def __init__(self, pool: ConnectionPoolManager) -> None:
        self._pool = pool
        self.acknowledged: list[int] = []
        self.failed: list[int] = []

    async def run(self, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            try:
                await self._pool.execute("INSERT INTO work (number) VALUES ($1)", number)
            except (ConnectionPoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                self.failed.append(number)
            else:
                self.acknowledged.append(number)
            number += 1
            await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_idle_pool_notices_a_killed_database_within_five_seconds_and_comes_back(
    crashable_postgres: FaultyPostgres, driver
) -> None:
    """Nobody asks for a connection: the pool notices by itself, and returns by itself."""
    server = crashable_postgres
    config = PoolConfig(database_url=server.dsn(driver=driver), min_size=2, max_size=5)
    loop = asyncio.get_running_loop()
    async with ConnectionPoolManager(config) as pool, health_watched(pool) as health:
        witness = Witness(pool)
        await until_healthy(pool)
        killed = loop.time()
        await asyncio.to_thread(server.crash)
        noticed = await witness.saw("database_connection_lost")
        assert noticed - killed < 5

        await witness.saw("reconnect_attempt", 4)
        await asyncio.to_thread(server.start)
        started = loop.time()
        back = await witness.saw("database_reconnected")
        assert back - started < 10
        await until_healthy(pool)

        assert (await pool.health_check()).database.status == "connected"
        assert {report.status for report in health.between(noticed, back)} == {"unhealthy"}


@pytest.mark.asyncio
async def test_work_goes_on_after_the_database_was_killed_and_nothing_committed_is_lost(
    crashable_postgres: FaultyPostgres, tmp_path: Path
) -> None:
    """The log tells the story in order; each acknowledged row is there once."""
    server = crashable_postgres
    config = PoolConfig(
        database_url=server.dsn(driver="asyncpg"), min_size=2, max_size=5, timeout=5.0
    )
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    with json_log(tmp_path / "resilience.log") as log:
        async with ConnectionPoolManager(config) as pool, health_watched(pool) as health:
            await pool.execute("CREATE TABLE work (number int)")
            witness = Witness(pool)
            counting = Counting(pool)
            working = asyncio.create_task(counting.run(stop))
            async with asyncio.timeout(30):
                while len(counting.acknowledged) < 50:
                    await asyncio.sleep(0.01)

            killed = loop.time()
            await asyncio.to_thread(server.crash)
            noticed = await witness.saw("database_connection_lost")
            assert noticed - killed < 5
            await witness.saw("reconnect_attempt", 4)

            before = len(counting.acknowledged)
            await asyncio.to_thread(server.start)
            started = loop.time()
            back = await witness.saw("database_reconnected")
            async with asyncio.timeout(30):
                while len(counting.acknowledged) < before + 50:
                    await asyncio.sleep(0.01)
            assert back - started < 10
            stop.set()
            await working

            during = health.between(noticed, back)
            assert {report.status for report in during} == {"unhealthy"}
            assert {report.http_status for report in during} == {503}
            assert {report.database.status for report in during} == {"disconnected"}
            assert all(report.database.outage_seconds is not None for report in during)
            rows = await pool.fetch("SELECT number, count(*) AS times FROM work GROUP BY number")
            statistics = pool.get_statistics()
        records = log()
    times = {row["number"]: row["times"] for row in rows}
    # the one insert in flight may have been committed although nobody could say so any more
    assert all(times[number] == 1 for number in counting.acknowledged)
    assert set(times.values()) == {1}
    assert set(times) <= {*counting.acknowledged, *counting.failed}
    assert statistics.total_outages == 1
    assert statistics.recycled["connection_lost"] >= 2
    outage = check_outage_log(records)
    assert outage["outage_seconds"] == pytest.approx(back - noticed, abs=0.5)
    assert server.password not in (tmp_path / "resilience.log").read_text()


@pytest.mark.asyncio
async def test_a_request_made_during_a_short_outage_is_served_after_it(
    crashable_postgres: FaultyPostgres,
) -> None:
    """Waiting through a restart is a pause, not an error."""
    server = crashable_postgres
    config = PoolConfig(database_url=server.dsn(), min_size=2, max_size=5, outage_patience=60.0)
    async with ConnectionPoolManager(config) as pool:
        witness = Witness(pool)
        await asyncio.to_thread(server.crash)
        await witness.saw("database_connection_lost")
        asking = [asyncio.create_task(pool.fetchval("SELECT 1")) for _ in range(20)]
        await witness.saw("reconnect_attempt", 2)
        await asyncio.to_thread(server.start)
        assert await asyncio.gather(*asking) == [1] * 20


@pytest.mark.asyncio
async def test_a_request_is_refused_with_the_facts_when_the_outage_is_long(
    crashable_postgres: FaultyPostgres,
) -> None:
    """After ``outage_patience`` nobody waits for nothing, and the error says what is going on."""
    server = crashable_postgres
    config = PoolConfig(database_url=server.dsn(), min_size=2, max_size=5, outage_patience=0.2)
    async with ConnectionPoolManager(config) as pool:
        witness = Witness(pool)
        await asyncio.to_thread(server.crash)
        await witness.saw("reconnect_attempt", 2)
        with pytest.raises(ConnectionPoolError) as caught:
            await pool.fetchval("SELECT 1")
        error = caught.value
        assert type(error).__name__ == "DatabaseUnavailableError"
        assert error.outage_seconds >= 0.2
        assert isinstance(error.__cause__, OSError)
        text = str(error)
        assert "has been unreachable for" in text
        assert "was not executed" in text
        assert "Suggestion: " in text
        assert server.password not in text
