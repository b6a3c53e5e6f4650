"""A database for each file, emptied after each test, and a connection beside the pool's."""

import secrets

import asyncpg
import pytest
import pytest_asyncio

from poolkeeper.testing.plugin import TemporaryDatabase

EMPTY = "drop schema if exists poolkeeper cascade; drop schema public cascade; create schema public"


@pytest.fixture(scope="module")
def database(postgres_server):
    """Creating one takes longer than most tests here."""
    name = f"asgi_{secrets.token_hex(6)}"
    yield TemporaryDatabase(postgres_server.create_database(name), name, postgres_server)
    postgres_server.drop_database(name)


@pytest_asyncio.fixture
async def postgres(database):
    """As everywhere else: an empty database."""
    yield database
    conn = await asyncpg.connect(database.url)
    await conn.execute(EMPTY)
    await conn.close()


@pytest_asyncio.fixture
async def admin(postgres):
    """Sees and breaks what the pool does."""
    conn = await asyncpg.connect(postgres.url)
    yield conn
    await conn.close()
