"""A database for many operations, and what makes them quick without changing what is tested."""

from __future__ import annotations

import pytest
import pytest_asyncio

from poolkeeper import PoolConfig
from tests.operations.faults.world import World


@pytest.fixture(autouse=True)
def _quick_polling(monkeypatch):
    """Workers look for work twenty times a second."""
    monkeypatch.setattr("poolkeeper.operations.worker.POLL_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def _unchecked_configurations(monkeypatch):
    """Checking the same options four times per worker takes longer than the worker."""
    monkeypatch.setattr(
        PoolConfig, "with_changes", lambda config, **changes: config.model_copy(update=changes)
    )


@pytest_asyncio.fixture
async def world(postgres, tmp_path):
    """A database of this test's own on the common server."""
    async with World(postgres.server, postgres.url, tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def fragile_world(crashable_postgres, tmp_path):
    """A server of this test's own, which may crash."""
    url = crashable_postgres.create_database("operations")
    async with World(crashable_postgres, url, tmp_path) as made:
        yield made
