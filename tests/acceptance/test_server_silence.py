"""A server whose database says nothing, and one whose database moves to another machine."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

from poolkeeper.testing.proxy import FaultProxy
from tests.acceptance.test_server_outages import quiet
from tests.seed.witness import measured
from tests.server.load.clients import TABLE, Clients, ask, rows_in
from tests.server.load.http import Connection
from tests.server.load.judge import counted, judge
from tests.server.processes import ServerProcess, until

pytestmark = pytest.mark.slow

CLIENTS = 20
REQUEST_SECONDS = 2.0
SILENT_SECONDS = 6.0
CANCEL_SECONDS = 4.0
"""From the deadline on a silent database has as long to answer a cancel request."""
SLACK_SECONDS = 3.0
"""For a machine that is busy with something else."""
LONGEST = REQUEST_SECONDS + CANCEL_SECONDS + SLACK_SECONDS

AT_THE_DEADLINE = frozenset({400, 504})
"""At ``/sql`` and elsewhere, for a transaction that was not to be committed any more by then."""
AT_WORK = (
    "select count(*) from pg_stat_activity"
    " where state = 'active' and query like '%''caught''%' and pid <> pg_backend_pid()"
)
OPTIONS = ("--port=0", "--max-size=5", f"--request-timeout={REQUEST_SECONDS:g}")
ENV = {"POOL_TIMEOUT": "1", "POOL_OUTAGE_PATIENCE": "1"}


@asynccontextmanager
async def frozen(postgres):
    """The server's database is stopped by SIGSTOP; gives the URL to use, and fault and cure."""
    yield (
        postgres.dsn(),
        lambda: asyncio.to_thread(postgres.freeze),
        lambda: asyncio.to_thread(postgres.thaw),
    )


@asynccontextmanager
async def unreachable(postgres):
    """The network between them swallows everything."""
    async with FaultProxy.to(postgres.dsn()) as proxy:

        async def silence():
            proxy.silence()

        yield proxy.url, silence, proxy.heal


@asynccontextmanager
async def caught(server, postgres):
    """A request whose statement is at work for the whole block; gives the task of its answer."""
    statement = {"query": "select 'caught' from pg_advisory_lock(77)"}
    holder = await asyncpg.connect(postgres.dsn())
    await holder.execute("select pg_advisory_lock(77)")
    connection = Connection(server.url)
    asking = asyncio.create_task(ask(connection, "/sql", statement, patience=LONGEST))
    while not await holder.fetchval(AT_WORK):
        await asyncio.sleep(0.01)
    yield asking
    await asking
    await connection.close()
    await holder.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("silent", [frozen, unreachable])
async def test_a_silent_database_costs_no_request_more_than_its_deadline(
    crashable_postgres, silent
):
    """Every request is answered in time and truly; then all goes on without a restart."""
    crashable_postgres.psql(TABLE)
    time = asyncio.get_running_loop().time
    async with silent(crashable_postgres) as (url, fall_silent, recover):
        with ServerProcess(*OPTIONS, database_url=url, env=ENV) as server:
            await asyncio.to_thread(server.start)
            clients = Clients(server.url, CLIENTS, patience=LONGEST)
            await clients.start()
            async with caught(server, crashable_postgres) as waiting:
                struck = time()
                await fall_silent()
                # the silence lasts that long: that is the fault itself, not a wait for something
                await asyncio.sleep(SILENT_SECONDS)
                silence_ends = time()
                await recover()
            first = await clients.successes(100, since=silence_ends)
            await clients.stop()
            assert server.process.poll() is None
            await asyncio.to_thread(until, lambda: quiet(server))
            lost = server.logged("database_connection_lost")
    found = await rows_in(crashable_postgres.dsn())
    longest = max(answer.ended - answer.began for answer in clients.answers)
    measured(
        answers=counted(clients.works),
        longest=round(longest, 3),
        caught=round(waiting.result().ended - struck, 3),
        noticed=[round(record["detection_time_seconds"], 3) for record in lost],
        recovery_ms=round(1000 * (first - silence_ends)),
    )
    assert judge(clients.works, found, tolerated=AT_THE_DEADLINE) == []
    assert longest < LONGEST
    told = waiting.result()
    assert (told.status, told.outcome) == (502, "unknown")
    assert told.ended < silence_ends
    refused = [a for a in clients.answers if a.status == 503 and struck < a.ended < silence_ends]
    assert len(refused) >= CLIENTS
    assert first - silence_ends < 10


@pytest.mark.asyncio
async def test_a_failover_under_clients_is_told_truly(replicated_postgres):
    """The primary dies, its synchronous standby takes over: 200 means there, 503 means not."""
    cluster = replicated_postgres
    await asyncio.to_thread(cluster.replicate_synchronously)
    cluster.primary.psql(TABLE)
    time = asyncio.get_running_loop().time
    with ServerProcess(*OPTIONS, database_url=cluster.url, env=ENV) as server:
        await asyncio.to_thread(server.start)
        clients = Clients(server.url, CLIENTS, patience=LONGEST)
        await clients.start()
        await asyncio.to_thread(cluster.primary.crash)
        await asyncio.to_thread(cluster.promote)
        promoted = time()
        first = await clients.successes(100, since=promoted)
        await clients.stop()
        assert server.process.poll() is None
        await asyncio.to_thread(until, lambda: quiet(server))
    found = await rows_in(cluster.primary.dsn())
    measured(answers=counted(clients.works), recovery_ms=round(1000 * (first - promoted)))
    assert judge(clients.works, found) == []
    assert first - promoted < 10
