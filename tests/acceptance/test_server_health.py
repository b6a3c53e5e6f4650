"""Probes while nothing else works: true, by many at once, and without a connection."""

import asyncio
import re
from contextlib import AsyncExitStack

import psycopg
import pytest

from tests.seed.witness import measured
from tests.server.load.http import Connection
from tests.server.processes import ServerProcess, until

PATHS = ("/livez", "/readyz", "/health", "/startupz")
CLIENTS = 30
EACH = 20
MAX_SIZE = 2
WAITERS = 6
SILENT = {"POOL_OUTAGE_PATIENCE": "60", "POOL_TIMEOUT": "60"}
"""Whoever waits goes on waiting, as long as the test looks."""


@pytest.mark.asyncio
async def test_probes_tell_the_truth_while_the_pool_is_exhausted_and_the_database_down(
    crashable_postgres,
):
    """A full pool is ready and healthy; one without its database is alive, and neither."""
    options = ("--port=0", f"--max-size={MAX_SIZE}", "--statement-timeout=0")
    with ServerProcess(*options, database_url=crashable_postgres.dsn(), env=SILENT) as server:
        await asyncio.to_thread(server.start)
        async with AsyncExitStack() as stack:
            holder = stack.enter_context(psycopg.connect(crashable_postgres.dsn(), autocommit=True))
            holder.execute("select pg_advisory_lock(77)")
            asking = await occupy(server)
            acquisitions = acquired(server)
            seen = await ask_all(server)
            check(seen, {"/livez": 200, "/readyz": 200, "/health": 200, "/startupz": 200})
            pools = [body["database"]["pool"] for body in seen["/health"]["bodies"]]
            assert {pool["active"] for pool in pools} == {MAX_SIZE}
            assert {pool["waiting"] for pool in pools} == {WAITERS}
            assert acquired(server) == acquisitions

            await asyncio.to_thread(crashable_postgres.crash)
            await asyncio.to_thread(until, lambda: server.get("/readyz").status_code == 503)
            acquisitions = acquired(server)
            seen = await ask_all(server)
            check(seen, {"/livez": 200, "/readyz": 503, "/health": 503, "/startupz": 200})
            reports = seen["/health"]["bodies"]
            assert {report["status"] for report in reports} == {"unhealthy"}
            assert {report["database"]["status"] for report in reports} <= {
                "disconnected",
                "connecting",
            }
            assert all(report["database"]["last_error"] for report in reports)
            assert acquired(server) == acquisitions

            await asyncio.to_thread(crashable_postgres.start)
            answers = await asyncio.gather(*asking)
            assert {answer.status for answer in answers} <= {200, 502}
        await asyncio.to_thread(until, lambda: server.get("/readyz").status_code == 200)


async def occupy(server):
    """Requests that have every connection, and others that wait for one."""
    lock = {"query": "select pg_advisory_lock_shared(77)"}

    async def ask():
        connection = Connection(server.url)
        answer = await connection.ask("POST", "/sql", lock, patience=100)
        await connection.close()
        return answer

    asking = [asyncio.create_task(ask()) for _ in range(MAX_SIZE + WAITERS)]

    def full():
        pool = server.get("/health").json()["database"]["pool"]
        return (pool["active"], pool["waiting"]) == (MAX_SIZE, WAITERS)

    await asyncio.to_thread(until, full)
    return asking


async def ask_all(server):
    """Every probe, asked by many clients at once: statuses, bodies, and how fast."""
    time = asyncio.get_running_loop().time
    seen = {}
    for path in PATHS:
        began = time()
        answers = []

        async def client(path=path, answers=answers):
            connection = Connection(server.url)
            answers += [await connection.ask("GET", path) for _ in range(EACH)]
            await connection.close()

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        seen[path] = {
            "statuses": {answer.status for answer in answers},
            "bodies": [answer.json() for answer in answers] if path == "/health" else [],
            "per_second": round(len(answers) / (time() - began)),
        }
    measured(per_second={path: found["per_second"] for path, found in seen.items()})
    return seen


def check(seen, expected):
    assert {path: found["statuses"] for path, found in seen.items()} == {
        path: {status} for path, status in expected.items()
    }


def acquired(server):
    """How many connections were ever lent out."""
    metrics = server.get("/metrics").text
    return float(re.search(r"^poolkeeper\w*acqui\w*_total\S* (\S+)$", metrics, re.MULTILINE)[1])
