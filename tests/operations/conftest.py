"""A pool whose operations are done in the test's own database."""

import asyncpg
import pytest_asyncio

from poolkeeper import create_pool


@pytest_asyncio.fixture
async def pool(postgres):
    """An open pool; its events are in ``pool.seen``."""
    async with create_pool(postgres.url, min_size=1, max_size=4) as pool:
        pool.seen = []
        pool.add_event_listener(pool.seen.append)
        yield pool


@pytest_asyncio.fixture
async def admin(postgres):
    """A connection that has nothing to do with the pool."""
    connection = await asyncpg.connect(postgres.url)
    yield connection
    await connection.close()
