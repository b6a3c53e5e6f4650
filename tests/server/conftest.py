"""Servers for tests."""

import pytest

from tests.server.processes import ServerProcess


@pytest.fixture
def server(postgres):
    """A running server on a fresh database."""
    with ServerProcess("--port=0", database_url=postgres.url) as process:
        yield process.start()
