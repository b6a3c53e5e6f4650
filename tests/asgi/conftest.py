"""A connection beside the pool's."""

import asyncpg
import pytest_asyncio


@pytest_asyncio.fixture
async def admin(postgres):
    """Sees and breaks what the pool does."""
    conn = await asyncpg.connect(postgres.url)
    yield conn
    await conn.close()
