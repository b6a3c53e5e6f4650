"""The process that finds out when a database is back."""

import asyncio
import socket
import time

import pytest

from poolkeeper.drill.engine import Prober
from poolkeeper.drill.prober import accepts
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.proxy import SilentServer


def test_a_running_server_accepts(postgres):
    """It asks for authentication."""
    assert accepts(postgres.server.host, postgres.server.port)


def test_a_closed_port_does_not():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert not accepts(*bound.getsockname())


@pytest.mark.asyncio
async def test_a_peer_that_only_accepts_connections_does_not():
    """Neither before nor after the connection is made is anything said."""
    async with SilentServer() as silent:
        assert not await asyncio.to_thread(accepts, silent.host, silent.port)
        assert silent.accepted == 1


@pytest.mark.asyncio
async def test_the_prober_waits_until_a_stopped_server_is_back(
    crashable_postgres: FaultyPostgres,
):
    """On the same clock as everybody else, and again for the next time."""
    server = crashable_postgres
    async with Prober() as prober:
        for _ in range(2):
            await asyncio.to_thread(server.crash)
            dialling = prober.dial(server.host, server.port)
            before = time.monotonic()
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(20):
                accepted = await dialling
            assert before < accepted < time.monotonic()
