"""Two servers on two databases: whatever befalls one, the clients of the other see nothing."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

import pytest

from poolkeeper.testing.proxy import FaultProxy
from tests.seed.witness import measured
from tests.server.load.clients import BATCH, SELECT, SINGLE, TABLE, Clients
from tests.server.load.http import Connection
from tests.server.load.steady import Steady
from tests.server.processes import ServerProcess

pytestmark = pytest.mark.slow

WINDOW_SECONDS = 1.2
VICTIMS = 10
MAX_SIZE = 5
RATIO = 5.0
NOISE_SECONDS = 0.02
"""On two cores shared by both servers, both databases and all clients, a p99 below this says
nothing: it is the turn of another process. A server that waited for its neighbour would be ten
times slower at least: the shortest wait in an outage is longer than 200 ms."""


@asynccontextmanager
async def killed(_server, postgres, _proxy):
    """``kill -9`` of every process of the database."""
    await asyncio.to_thread(postgres.crash)
    yield
    await asyncio.to_thread(postgres.start)


@asynccontextmanager
async def frozen(_server, postgres, _proxy):
    """SIGSTOP: sockets open, nobody answers."""
    await asyncio.to_thread(postgres.freeze)
    yield
    await asyncio.to_thread(postgres.thaw)


@asynccontextmanager
async def unreachable(_server, _postgres, proxy):
    """The network swallows everything."""
    proxy.silence()
    yield
    await proxy.heal(links=True)


@asynccontextmanager
async def exhausted(server, _postgres, _proxy):
    """Statements that take long have all connections, and more of them wait."""
    sleep = {"query": f"select pg_sleep({WINDOW_SECONDS})"}
    connections = [Connection(server.url) for _ in range(2 * MAX_SIZE)]
    asking = [asyncio.create_task(c.ask("POST", "/sql", sleep)) for c in connections]
    yield
    await asyncio.gather(*asking)
    for connection in connections:
        await connection.close()


FAULTS = (killed, frozen, unreachable, exhausted)


@pytest.mark.asyncio
async def test_no_fault_of_one_server_reaches_the_other(crashable_postgres, postgres):
    """Killed, frozen, unreachable, exhausted, one after another: no error, no wait, no event."""
    crashable_postgres.psql(TABLE)
    time = asyncio.get_running_loop().time
    options = ("--port=0", f"--max-size={MAX_SIZE}", "--request-timeout=5")
    env = {"POOL_TIMEOUT": "1", "POOL_OUTAGE_PATIENCE": "0.5"}
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy.to(crashable_postgres.dsn()))
        struck, spared = [
            stack.enter_context(ServerProcess(*options, database_url=url, env=env))
            for url in (proxy.url, proxy.url)
        ]
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in (struck, spared)))
        victims = Clients(struck.url, VICTIMS, (SELECT, SINGLE, BATCH), patience=15)
        await victims.start()
        select = {"query": "select $1::int as one", "params": ["1"]}
        others = await stack.enter_async_context(Steady(spared.url, 2, 0.005, body=select))
        figures, waiting = {}, []
        await others.answers(200)
        for fault in FAULTS:
            before = time()
            await asyncio.sleep(WINDOW_SECONDS)
            async with fault(struck, crashable_postgres, proxy):
                during = time()
                await asyncio.sleep(WINDOW_SECONDS)
                waiting.append(await asyncio.to_thread(waiting_at, spared))
                over = time()
            await victims.successes(VICTIMS, since=time())
            figures[fault.__name__] = (
                others.window(before, during),
                others.window(during, over),
            )
        everything = others.window(0)
        await victims.stop()
        events = spared.logged("database_connection_lost", "reconnect_attempt")
        assert struck.logged("database_connection_lost")

    ratios = {name: round(b.p99 / a.p99, 2) for name, (a, b) in figures.items()}
    measured(
        requests=everything.requests,
        p99_before_ms={n: round(1000 * a.p99, 1) for n, (a, _) in figures.items()},
        p99_during_ms={n: round(1000 * b.p99, 1) for n, (_, b) in figures.items()},
        ratios=ratios,
        victims={s: [a.status for a in victims.answers].count(s) for s in (200, 502, 503)},
    )
    assert everything.failures == []
    assert waiting == [0] * len(FAULTS)
    assert events == []
    assert any(answer.status == 503 for answer in victims.answers)
    before = median(a.p99 for a, _ in figures.values())
    for name, (_, window) in figures.items():
        assert window.p99 < RATIO * max(before, NOISE_SECONDS), name


def waiting_at(server):
    """How many requests wait for a connection there."""
    return server.get("/health").json()["database"]["pool"]["waiting"]
