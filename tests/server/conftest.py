"""Servers for tests."""

import secrets

import pytest

from tests.server.processes import ServerProcess


@pytest.fixture(scope="module")
def server(postgres_server):
    """A running server on a database of its own, for all tests of a file."""
    name = f"serving_{secrets.token_hex(6)}"
    url = postgres_server.create_database(name)
    with ServerProcess("--port=0", "--max-size=4", database_url=url) as process:
        process.database_url = url
        yield process.start()
