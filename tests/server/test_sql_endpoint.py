"""The endpoint on connections the test chooses."""

from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from poolkeeper.server.access import Access
from poolkeeper.server.activity import Activity
from poolkeeper.server.engine import Engine
from poolkeeper.server.frame import Frame
from poolkeeper.server.lifecycle import Lifecycle
from poolkeeper.server.limits import Limits
from poolkeeper.server.metrics import ServerMetrics
from poolkeeper.server.neon.identity import Identity, Served
from poolkeeper.server.operations.watch import Watches
from poolkeeper.server.operations.work import OperationsWork
from poolkeeper.server.outages import OutageHistory
from poolkeeper.server.parts import Parts
from poolkeeper.server.settings import ServerSettings
from poolkeeper.server.sql import SqlEndpoint
from tests.server.sessions import connect, terminate


class Hand:
    """Gives out real connections in the order they were put in, and keeps what comes back."""

    name = "hand"
    config = SimpleNamespace(timeout=1.0)

    def __init__(self, *connections):
        self.left = list(connections)
        self.returned = []

    async def acquire(self, *, timeout):
        return self.left.pop(0)

    async def release(self, conn):
        self.returned.append(conn)


async def post(pool, query):
    lifecycle = Lifecycle()
    metrics = ServerMetrics(pool, lifecycle)
    access = Access()
    parts = Parts(
        pool,
        ServerSettings(),
        lifecycle,
        access,
        metrics,
        Activity(),
        OutageHistory(),
        Identity(access, Served(None, None)),
        Limits(pool, access),
        OperationsWork(pool, lifecycle, concurrency=None, directory=None),
        Watches(),
    )
    app = Starlette(
        routes=[Route("/sql", SqlEndpoint(Engine(parts)), methods=["POST"])],
        middleware=[Middleware(Frame, metrics=metrics)],
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/sql", json={"query": query})


@pytest.mark.asyncio
async def test_a_connection_that_proves_dead_before_sending_is_replaced_once(postgres):
    """Nothing was sent, so trying again is safe; the client never hears of it."""
    dead, alive = await connect(postgres.url), await connect(postgres.url)
    await terminate(dead, postgres.url)
    pool = Hand(dead, alive)
    async with alive:
        answer = await post(pool, "select 1 as one")
    assert answer.json()["rows"] == [{"one": 1}]
    assert pool.returned == [dead, alive]


@pytest.mark.asyncio
async def test_two_dead_connections_in_a_row_are_503(postgres):
    """Once is bad luck, twice is for the client to decide; nothing was executed."""
    dead = [await connect(postgres.url) for _ in range(3)]
    for conn in dead:
        await terminate(conn, postgres.url)
    pool = Hand(*dead)
    answer = await post(pool, "select 1")
    assert (answer.status_code, answer.json()["code"]) == (503, "08006")
    assert answer.json()["outcome"] == "not_executed"
    assert pool.returned == dead[:2]
    for conn in dead:
        await conn.close()


@pytest.mark.asyncio
async def test_a_bug_is_answered_and_the_connection_given_back(postgres, caplog):
    """The answer names the request, the log has the rest."""
    pool = Hand()
    answer = await post(pool, "select 1")
    assert (answer.status_code, answer.json()["code"]) == (500, "XX000")
    [record] = [record for record in caplog.records if record.message == "request_failed"]
    assert record.request_id == answer.headers["x-request-id"]
    assert record.exc_info[0] is IndexError
