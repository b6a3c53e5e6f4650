"""More callers than connections."""

import asyncio
import re

import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.exceptions import PoolTimeoutError
from poolkeeper.testing.plugin import TemporaryDatabase
from tests.seed.witness import Witness


def small(postgres: TemporaryDatabase, **options) -> ConnectionPoolManager:
    """Three connections at most."""
    options = {"min_size": 2, "max_size": 3, "timeout": 1.0} | options
    return ConnectionPoolManager(PoolConfig(database_url=postgres.url, **options))


async def queued(pool: ConnectionPoolManager, number: int) -> None:
    """Wait until that many requests wait."""
    async with asyncio.timeout(20):
        while pool.get_statistics().waiting_requests != number:
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_timeout_of_a_full_pool_says_what_holds_it_up(postgres: TemporaryDatabase) -> None:
    """Three connections out, five callers waiting: each is told so after its second."""
    async with small(postgres) as pool:
        witness = Witness(pool)
        held = [await pool.acquire() for _ in range(3)]
        waiting = [asyncio.create_task(pool.fetchval("SELECT 1")) for _ in range(5)]
        await queued(pool, 5)

        full = pool.get_statistics()
        assert (full.total_connections, full.active_connections, full.idle_connections) == (3, 3, 0)
        assert full.waiting_requests == 5
        assert (await pool.health_check()).database.pool.waiting == 5
        assert (await pool.health_check()).status == "degraded"

        errors = await asyncio.gather(*waiting, return_exceptions=True)
        for error in errors:
            assert isinstance(error, PoolTimeoutError)
            assert isinstance(error, TimeoutError)
            match = re.match(
                r"Connection acquisition timeout after 1\.0s\. "
                r"Pool state: 3 total, 3 active, 0 idle, (\d) waiting\. .*"
                r"Suggestion: increase POOL_MAX_SIZE or shorten the work done while holding a "
                r"connection\.$",
                str(error),
            )
            assert match, str(error)
            assert error.timeout == 1.0
            assert error.waited >= 1.0
            assert error.snapshot.active == 3
            assert len(error.holders) == 3
        # whoever gives up first was one of five
        assert "5 waiting" in str(errors[0])
        assert errors[0].snapshot.waiting == 5

        after = pool.get_statistics()
        assert after.waiting_requests == 0
        assert after.total_timeouts == 5
        assert len(witness.named("pool_exhausted")) == 1
        assert witness.named("pool_exhausted")[0].active == 3
        for connection in held:
            await pool.release(connection)
        assert await pool.fetchval("SELECT 1") == 1


@pytest.mark.asyncio
async def test_five_waiters_of_a_full_pool_are_served_in_order(postgres: TemporaryDatabase) -> None:
    """First come, first served, also for someone who asks while a connection comes back."""
    async with small(postgres, timeout=20.0) as pool:
        held = [await pool.acquire() for _ in range(3)]
        served: list[int] = []

        async def ask(number: int) -> None:
            async with pool.acquire():
                served.append(number)

        asking = []
        for number in range(5):
            asking.append(asyncio.create_task(ask(number)))
            await queued(pool, number + 1)
        await pool.release(held.pop())
        # asks in the very turn of the loop in which a connection was given back
        await ask(5)
        await asyncio.gather(*asking)
        assert served == [0, 1, 2, 3, 4, 5]
        for connection in held:
            await pool.release(connection)


@pytest.mark.asyncio
async def test_fifty_clients_share_three_connections(postgres: TemporaryDatabase) -> None:
    """All are served; the server never sees a fourth session."""
    async with small(postgres, timeout=30.0) as pool:
        sessions: list[int] = []

        async def client(number: int) -> list[int]:
            answers = []
            for turn in range(4):
                async with pool.acquire() as connection:
                    answers.append(await connection.fetchval("SELECT $1::int", 10 * number + turn))
                    sessions.append(
                        await connection.fetchval(
                            "SELECT count(*) FROM pg_stat_activity "
                            "WHERE datname = current_database() AND backend_type = 'client backend'"
                        )
                    )
            return answers

        answers = await asyncio.gather(*(client(number) for number in range(50)))
        assert answers == [[10 * number + turn for turn in range(4)] for number in range(50)]
        assert max(sessions) == 3
        statistics = pool.get_statistics()
        assert statistics.peak_active_connections == 3
        assert statistics.total_timeouts == 0
        assert statistics.total_acquisitions == statistics.total_releases == 200
        assert (statistics.active_connections, statistics.waiting_requests) == (0, 0)


def test_a_request_waits_thirty_seconds_unless_told_otherwise(monkeypatch) -> None:
    """Also ten for opening a connection."""
    monkeypatch.delenv("POOL_TIMEOUT", raising=False)
    config = PoolConfig(database_url="postgresql+asyncpg://test@localhost/test_db")
    assert config.timeout == 30.0
    assert config.connect_timeout == 10.0
