"""Fifty clients that insert rows through an outage, and the account they give of it."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.testing.embedded import FaultyPostgres
from tests.seed.witness import PATIENCE

CLIENTS = 50
MAX_SIZE = 10
ACQUIRE_SECONDS = 5.0
STATEMENT_SECONDS = 5.0
SLACK_SECONDS = 5.0
"""For a machine that is busy with something else."""

FAILURES = (ConnectionPoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


def busy_pool(url: str, **options) -> ConnectionPoolManager:
    """A pool whose calls all have a bound."""
    options = {"min_size": 5, "timeout": ACQUIRE_SECONDS} | options
    config = PoolConfig(
        database_url=url, max_size=MAX_SIZE, command_timeout=STATEMENT_SECONDS, **options
    )
    return ConnectionPoolManager(config, server_settings={"application_name": "fifty-clients"})


@dataclass(frozen=True, slots=True)
class Call:
    """One insert: which row, from when to when, and how it failed if it did."""

    row: int
    started: float
    ended: float
    error: str | None


class FiftyClients:
    """Each client inserts rows that no other inserts, one after another, until told to stop."""

    def __init__(self, pool: ConnectionPoolManager) -> None:
        self._pool = pool
        self._stop = asyncio.Event()
        self._next_row = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.calls: list[Call] = []

    async def start(self) -> None:
        """Create the table, start, and return when everybody has had a success."""
        await self._pool.execute("CREATE TABLE IF NOT EXISTS work (row int, client int)")
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        await self.successes(5 * CLIENTS)

    async def _client(self, number: int) -> None:
        time = asyncio.get_running_loop().time
        while not self._stop.is_set():
            row, self._next_row = self._next_row, self._next_row + 1
            started, error = time(), None
            try:
                await self._pool.execute("INSERT INTO work VALUES ($1, $2)", row, number)
            except FAILURES as failure:
                error = type(failure).__name__
                # as a client would; refusals come at once
                await asyncio.sleep(0.05)
            self.calls.append(Call(row, started, time(), error))

    async def successes(self, number: int, since: float = 0.0) -> list[float]:
        """Wait for that many successes after ``since``; when they came."""
        async with asyncio.timeout(PATIENCE):
            while len(found := self._success_times(since)) < number:
                await asyncio.sleep(0.02)
        return found

    def _success_times(self, since: float) -> list[float]:
        return [call.ended for call in self.calls if call.error is None and call.started >= since]

    async def stop(self) -> None:
        """Let each finish its call; a client that does not come back is a failure."""
        self._stop.set()
        bound = ACQUIRE_SECONDS + STATEMENT_SECONDS + SLACK_SECONDS
        done, hanging = await asyncio.wait(self._tasks, timeout=bound)
        assert not hanging, f"{len(hanging)} clients hang"
        for task in done:
            task.result()

    @property
    def errors(self) -> Counter[str]:
        """How often calls failed, by the error's name."""
        return Counter(call.error for call in self.calls if call.error is not None)

    def check_bounds(self) -> None:
        """No call took longer than its acquire and its statement may."""
        longest = max(call.ended - call.started for call in self.calls)
        assert longest < ACQUIRE_SECONDS + STATEMENT_SECONDS + SLACK_SECONDS

    async def check_rows(self) -> None:
        """Acknowledged rows are there once, the others at most once, and nothing else is."""
        rows = await self._pool.fetch("SELECT row, count(*) AS times FROM work GROUP BY row")
        times = {row["row"]: row["times"] for row in rows}
        acknowledged = {call.row for call in self.calls if call.error is None}
        assert acknowledged <= times.keys()
        assert set(times.values()) <= {1}
        assert times.keys() <= {call.row for call in self.calls}


async def check_capacity(pool: ConnectionPoolManager, server: FaultyPostgres) -> None:
    """Exactly ``max_size`` connections can be had at once, and the server has no more sessions."""
    async with AsyncExitStack() as stack:
        held = [
            await stack.enter_async_context(pool.acquire(timeout=20.0)) for _ in range(MAX_SIZE)
        ]
        pids = {await connection.fetchval("SELECT pg_backend_pid()") for connection in held}
        assert len(pids) == MAX_SIZE
        statistics = pool.get_statistics()
        assert statistics.total_connections == statistics.active_connections == MAX_SIZE
        assert statistics.waiting_requests == 0
        async with asyncio.timeout(PATIENCE):
            # sessions that were cut off end when their backends notice
            while True:
                sessions = await asyncio.to_thread(server.backends)
                ours = {s["pid"] for s in sessions if s["application_name"] == "fifty-clients"}
                if ours == pids:
                    break
                await asyncio.sleep(0.05)
    statistics = pool.get_statistics()
    assert (statistics.active_connections, statistics.waiting_requests) == (0, 0)
    assert statistics.total_acquisitions == statistics.total_releases
