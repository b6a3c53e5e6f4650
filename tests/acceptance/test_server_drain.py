"""The end of a server under load, its next start, and a database of its own that dies."""

import asyncio
import os
import signal
from collections import Counter

import psutil
import pytest

from tests.acceptance.test_server_outages import quiet
from tests.seed.witness import measured
from tests.server.load.clients import TABLE, Clients, rows_in
from tests.server.load.http import Connection, NoAnswerError, RefusedError
from tests.server.load.judge import LOST, REFUSED, counted, judge
from tests.server.processes import ServerProcess, active, barrier, sessions, until

pytestmark = pytest.mark.slow

CLIENTS = 50
MAX_SIZE = 10
DELAY_SECONDS = 1.0
OPTIONS = (f"--max-size={MAX_SIZE}", f"--drain-delay={DELAY_SECONDS:g}", "--drain-timeout=5")


class Readiness:
    """Asks ``/readyz`` again and again, on a new connection each time, as a load balancer does."""

    def __init__(self, url):
        self._url = url
        self._task = asyncio.create_task(self._watch())
        self.seen = []

    async def _watch(self):
        time = asyncio.get_running_loop().time
        while not self.seen or self.seen[-1][1] != REFUSED:
            connection = Connection(self._url)
            began = time()
            try:
                status = (await connection.ask("GET", "/readyz")).status
            except RefusedError:
                status = REFUSED
            except NoAnswerError:
                status = LOST
            await connection.close()
            self.seen.append((began, status))
            await asyncio.sleep(0.01)

    async def over(self):
        """Wait until nobody listens any more; the statuses in order, each once."""
        await self._task
        return list(dict.fromkeys(status for _, status in self.seen))

    def since(self, status):
        """When it was first seen."""
        return next(when for when, seen in self.seen if seen == status)


@pytest.mark.asyncio
async def test_sigterm_under_load_loses_no_answer_and_the_port_is_free_at_once(postgres):
    """Not ready first, then closed: who was let in is answered, and the others were refused."""
    postgres.server.psql(TABLE, database=postgres.name)
    with ServerProcess("--port=0", *OPTIONS, database_url=postgres.url) as server:
        await asyncio.to_thread(server.start)
        port = server.url.rpartition(":")[2]
        clients = Clients(server.url, CLIENTS)
        await clients.start()
        readiness = Readiness(server.url)
        while not readiness.seen:
            await asyncio.sleep(0.01)
        server.signal()
        statuses = await readiness.over()
        await clients.stop()
        code, log = await asyncio.to_thread(server.end)
        assert sessions(postgres.url) == 0
        # the same port, at once: what the old server leaves in TIME_WAIT is in nobody's way
        with ServerProcess(f"--port={port}", database_url=postgres.url) as successor:
            await asyncio.to_thread(successor.start)
            assert successor.sql("select 1").status_code == 200
    found = await rows_in(postgres.url)
    lost = [work for work in clients.works if LOST in work.statuses]
    delay = readiness.since(REFUSED) - readiness.since(503)
    measured(
        answers=counted(clients.works),
        lost_but_done=sum(work.id in found for work in lost),
        not_ready_seconds_before_the_end=round(delay, 3),
    )
    assert (code, "Traceback" in log) == (0, False)
    assert [status for status in statuses if status != LOST] == [200, 503, REFUSED]
    assert delay > DELAY_SECONDS / 2
    # refused: the request was not sent, and whoever retries elsewhere loses nothing
    assert judge(clients.works, found, tolerated=frozenset({REFUSED, LOST})) == []
    # A connection that nobody has accepted when the listener closes is cut off by the kernel. Who
    # comes as late as that has not heeded readiness, and nothing was done for them.
    closing = readiness.since(503) + DELAY_SECONDS
    assert not [a for work in lost for a in work.answers if a.status == LOST and a.began < closing]
    assert not [work.id for work in lost if work.id in found]


@pytest.mark.asyncio
async def test_a_second_signal_ends_a_loaded_server_at_once(postgres):
    """With fifty clients and a statement that would outlast the drain; the database is clean."""
    postgres.server.psql(TABLE, database=postgres.name)
    options = (*OPTIONS, "--drain-timeout=60", "--statement-timeout=0")
    with ServerProcess("--port=0", *options, database_url=postgres.url) as server:
        await asyncio.to_thread(server.start)
        with barrier(postgres.url):
            asking = asyncio.create_task(lock(server.url))
            await asyncio.to_thread(until, lambda: active(postgres.url, "pg_advisory_lock(77)"))
            clients = Clients(server.url, CLIENTS)
            await clients.start()
            server.signal()
            await asyncio.to_thread(server.wait_for, "server_draining")
            server.signal()
            code, _log = await asyncio.to_thread(server.end)
            await clients.stop()
            with pytest.raises(NoAnswerError):
                await asking
            assert code == -signal.SIGTERM
        # what it left running ends by itself: nobody is there to take the answer
        await asyncio.to_thread(until, lambda: sessions(postgres.url) == 0)
    found = await rows_in(postgres.url)
    measured(answers=counted(clients.works))
    assert judge(clients.works, found, tolerated=frozenset({REFUSED, LOST})) == []


async def lock(url):
    connection = Connection(url)
    try:
        await connection.ask("POST", "/sql", {"query": "select pg_advisory_lock(77)"})
    finally:
        await connection.close()


@pytest.mark.asyncio
async def test_a_server_with_its_own_database_survives_the_end_of_it(tmp_path):
    """``kill -9`` of its postmaster under clients: it comes back by itself, and told the truth."""
    data_dir = tmp_path / "data"
    with ServerProcess("--port=0", f"--data-dir={data_dir}", f"--max-size={MAX_SIZE}") as server:
        await asyncio.to_thread(server.start)
        server.sql(TABLE)
        clients = Clients(server.url, 20)
        await clients.start()
        os.kill(postmaster_of(data_dir), signal.SIGKILL)
        await asyncio.to_thread(server.wait_for, "embedded_postgres_restarted")
        restarted = asyncio.get_running_loop().time()
        first = await clients.successes(100, since=restarted)
        await clients.stop()
        assert server.process.poll() is None
        await asyncio.to_thread(until, lambda: quiet(server))
        rows = server.sql("select id::int, row from work").json()["rows"]
    found = {}
    for row in rows:
        found.setdefault(row["id"], Counter())[row["row"]] += 1
    measured(answers=counted(clients.works), recovery_ms=round(1000 * (first - restarted)))
    assert judge(clients.works, found) == []


def postmaster_of(data_dir):
    """The PostgreSQL of this data directory."""
    pid = int((data_dir / "pgdata" / "postmaster.pid").read_text().splitlines()[0])
    assert "postgres" in psutil.Process(pid).name()
    return pid
