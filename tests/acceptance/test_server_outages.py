"""Fifty HTTP clients on a pool of ten while their database is killed again and again."""

import asyncio
import itertools
import os
from collections import Counter
from datetime import datetime
from time import time as wall_clock

import pytest

from tests.seed.witness import measured
from tests.server.load.clients import TABLE, Clients, rows_in
from tests.server.load.judge import advices, counted, judge
from tests.server.load.memory import memory_watched
from tests.server.processes import ServerProcess, sessions, until

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("POOLKEEPER_SERVER_SECONDS", "10"))
"""At least; the outages come one after another until then. 60 for a long look."""
MAX_SIZE = 10
CALM_SECONDS = 1.5
DOWN_SECONDS = (0.0, 3.0, 0.7)
"""How long the database stays away, in turn: less and more than anybody's patience."""
REQUEST_SECONDS = 8.0
PATIENCE = REQUEST_SECONDS + 12.0
"""Of a client: a request may end by its deadline, then a cancel by its own; with slack."""
FLAT_MIB = 8.0
"""What caches and the allocator may still take after the warm-up, whatever the length of a run."""

ENV = {
    # so that waiting for the end of a short outage, and giving up in a long one, are both seen
    "POOL_OUTAGE_PATIENCE": "1",
    "POOL_TIMEOUT": "2",
}
OPTIONS = ("--port=0", f"--max-size={MAX_SIZE}", f"--request-timeout={REQUEST_SECONDS:g}")


class Outages:
    """Kills a database of its own under the clients of a server, and notes what it cost."""

    def __init__(self, postgres, server, clients) -> None:
        self._postgres = postgres
        self._server = server
        self._clients = clients
        self.detection: list[float] = []
        self.recovery: list[float] = []

    async def one(self, down: float) -> None:
        """``kill -9`` of all processes at once, a time without, a start."""
        time = asyncio.get_running_loop().time
        before = len(self._server.logged("database_connection_lost"))
        killed = wall_clock()
        await asyncio.to_thread(self._postgres.crash)
        async with asyncio.timeout(10):
            while len(lost := self._server.logged("database_connection_lost")) <= before:
                await asyncio.sleep(0.02)
        noticed = datetime.fromisoformat(lost[before]["timestamp"]).timestamp()
        self.detection.append(noticed - killed)
        # the time without a database is the fault itself, not a wait for something
        await asyncio.sleep(down)
        await asyncio.to_thread(self._postgres.start)
        accepts = time()
        first = await self._clients.successes(200, since=accepts)
        self.recovery.append(first - accepts)


@pytest.mark.asyncio
@pytest.mark.timeout(2 * SECONDS + 120)
async def test_fifty_clients_are_told_the_truth_through_kills_of_the_database(crashable_postgres):
    """200: there once. 503: not there. 502: the ledger knows. Nobody hangs, nothing leaks."""
    postgres = crashable_postgres
    url = postgres.dsn()
    postgres.psql(TABLE)
    time = asyncio.get_running_loop().time
    with ServerProcess(*OPTIONS, database_url=url, env=ENV) as server:
        await asyncio.to_thread(server.start)
        clients = Clients(server.url, patience=PATIENCE)
        async with memory_watched(server.process.pid) as memory:
            await clients.start()
            outages = Outages(postgres, server, clients)
            ends = time() + SECONDS
            for number in itertools.count():
                await outages.one(DOWN_SECONDS[number % len(DOWN_SECONDS)])
                await asyncio.sleep(CALM_SECONDS)
                if time() > ends and number >= len(DOWN_SECONDS):
                    break
            await clients.stop()
        assert server.process.poll() is None
        pool = await asyncio.to_thread(until, lambda: quiet(server))
        held = sessions(url)
        found = await rows_in(url)

    answers = clients.answers
    given, wrong = advices(answers)
    measured(
        answers=counted(clients.works),
        verdicts=dict(Counter(w.verdict for w in clients.works if w.verdict)),
        messages=Counter(a.message.split(".")[0][:90] for a in answers if a.status == 503),
        detection_ms=[round(1000 * s) for s in outages.detection],
        recovery_ms=[round(1000 * s) for s in outages.recovery],
        longest_request=round(max(a.ended - a.began for a in answers), 3),
        retry_after=dict(Counter(advice.given for advice in given)),
        longest_need=round(max((advice.needed for advice in given), default=0.0), 3),
        memory=str(memory),
        growth_mib=round(memory.growth, 2),
    )
    assert judge(clients.works, found) == []
    assert wrong == []
    assert [advice for advice in given if not advice.truthful] == []
    assert any(answer.status == 503 for answer in answers)
    assert max(outages.detection) < 5
    assert max(outages.recovery) < 10
    assert memory.growth < FLAT_MIB
    assert held <= MAX_SIZE
    assert pool["total"] <= MAX_SIZE


def quiet(server):
    """The pool as ``/health`` tells it once it is healthy, and nobody uses or wants it."""
    health = server.get("/health").json()
    pool = health["database"]["pool"]
    done = health["status"] == "healthy" and pool["active"] == pool["waiting"] == 0
    return pool if done else None
