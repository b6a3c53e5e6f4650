"""What must be true of a pool after anything that happened to it."""

import asyncio


async def assert_sound(pool, world) -> None:
    """Exactly ``max_size`` connections can be had at once, nobody waits, the numbers add up."""
    size = pool.get_max_size()
    held = []
    async with asyncio.timeout(20):
        try:
            while len(held) < size:
                held.append(await pool.acquire(timeout=10))
            assert len({connection._slot.id for connection in held}) == size
            statistics = pool.get_statistics()
            assert statistics.active_connections == size, statistics
            assert statistics.total_connections == size + statistics.closing_connections, statistics
            assert statistics.waiting_requests == 0, statistics
            for connection in held:
                await connection.execute("SELECT 1")
        finally:
            for connection in held:
                await pool.release(connection)
    statistics = pool.get_statistics()
    assert statistics.total_acquisitions == statistics.total_releases
    assert statistics.active_connections == 0
    assert statistics.wait_seconds.count == statistics.total_acquisitions
    assert statistics.use_seconds.count == statistics.total_releases
    await world.emptied(size)


async def assert_no_task_left(before: set[asyncio.Task]) -> None:
    """Nothing runs that did not run before; what was cancelled gets a few turns to end."""
    for _ in range(20):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    assert not left
