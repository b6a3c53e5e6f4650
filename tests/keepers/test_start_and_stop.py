"""Every keeper is started and stopped in the same way."""

import pytest
import pytest_asyncio

from poolkeeper.keepers import LeakKeeper, LivenessKeeper, ReconnectKeeper, RetirementKeeper
from poolkeeper.testing.contracts import KeeperContract
from poolkeeper.testing.memory import MemoryDatabase, memory_pool

INTERVAL = 0.01


def leaks(pool):
    return LeakKeeper(pool, 0.04, lambda event: None)


def liveness(pool):
    return LivenessKeeper(pool, INTERVAL, 1.0)


def reconnect(pool):
    return ReconnectKeeper(pool, list)


def retirement(pool):
    return RetirementKeeper(pool, INTERVAL)


class TestKeeper(KeeperContract):
    @pytest_asyncio.fixture(
        params=[leaks, liveness, reconnect, retirement], ids=lambda make: make.__name__
    )
    async def keeper(self, request):
        async with memory_pool(MemoryDatabase(), min_size=1, probe_interval=60) as pool:
            made = request.param(pool._pool)
            made.interval = INTERVAL
            yield made
            await made.stop()


@pytest.mark.asyncio
async def test_a_probe_under_way_is_given_up_by_stop():
    """stop() does not wait for a database that does not answer."""
    database = MemoryDatabase()
    async with memory_pool(database, min_size=1, probe_interval=60) as pool:
        keeper = LivenessKeeper(pool._pool, INTERVAL, 3600.0)
        with database.gates.closed("probe") as gate:
            keeper.start()
            await gate.reached()
            await keeper.stop()
            assert not keeper.running
        assert await pool.fetchval("SELECT 1") == 1


@pytest.mark.asyncio
async def test_a_duty_that_fails_is_reported_and_taken_up_again(caplog, monkeypatch):
    """A bug in one duty must not end the pool's self-healing."""
    monkeypatch.setattr("poolkeeper.keepers.service.RESTART_SECONDS", 0.0)
    async with memory_pool(MemoryDatabase(), min_size=1) as pool:
        keeper = retirement(pool._pool)
        gate = MemoryDatabase().gates["performed"]
        gate.close()

        async def perform():
            if gate.arrivals < 1:
                gate.arrivals += 1
                raise LookupError("a bug")
            await gate.enter()

        keeper.perform = perform
        keeper.start()
        await gate.reached()
        await keeper.stop()
    assert "RetirementKeeper failed and goes on" in caplog.text
    assert "a bug" in caplog.text
