"""Two worker processes, many operations and a nemesis: an episode of chaos, judged at its end."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import asyncpg

from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.operations.operation import Operation
from poolkeeper.testing.checker import Finding
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.history import History
from poolkeeper.testing.proxy import FaultProxy
from tests.faults import nemesis as common
from tests.operations.faults.jobs import Backfill, Export, Job, Load
from tests.operations.faults.process import Paced, WorkerProcess
from tests.operations.faults.world import World

WORKERS = 2
LEASE = 0.5
UNFINISHED = 4
"""So many operations there are to do at any time: two for each worker."""
PATIENCE = 120.0
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionPoolError)
"""What whoever creates and controls operations may meet; workers must not."""


class Steps(Paced):
    rows = 150
    chunks = 150


class Rows(Backfill):
    rows = 1_500
    chunks = 75


class Lines(Load):
    rows = 6_000
    chunks = 20


class Files(Export):
    rows = 2_000
    chunks = 10


JOBS: Sequence[type[Job]] = (Lines, Steps, Rows, Files)


@dataclass
class Episode:
    """What became of one run.

    Attributes:
        seed: What decided the faults.
        faults: How often each was made.
        operations: How many were done.
        chunks: How many chunks they took.
        takeovers: How often a chunk was another worker's than the one before it.
        fenced: How often a worker that came back found its claim lost.
        outages: Lost connections that workers rode out.
        findings: What is wrong, and where.
    """

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    chunks: int = 0
    takeovers: int = 0
    fenced: int = 0
    outages: int = 0
    findings: list[tuple[str, Finding]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"episode {self.seed}: {self.faults.total()} faults, {self.operations} operations in "
            f"{self.chunks} chunks, {self.outages} outages ridden out, {self.takeovers} takeovers, "
            f"{self.fenced} times fenced off, {len(self.findings)} broken promises",
            *(f"  {where}: {finding}" for where, finding in self.findings),
        ]
        return "\n".join(lines)


class Chaos(common.Nemesis):
    """Chooses faults by a seed; see ``Nemesis``. These are of workers and people, too."""

    def __init__(self, run: Run, history: History, seed: int) -> None:
        super().__init__(run.world.server, run.proxy, history, seed)
        self.run = run
        self.counts: Counter[str] = Counter()

    def draw(self) -> str:
        """The next fault's name. Each comes once before any comes again."""
        if not self._deck:
            self._deck = sorted(FAULTS)
            self._order.shuffle(self._deck)
        self._drawn += 1
        self.rng.seed(f"nemesis/{self._seed}/{self._drawn}")
        return self._deck.pop()

    async def strike(self) -> None:
        """Make the next fault."""
        name = self.draw()
        if await FAULTS[name](self):
            self.counts[name] += 1


Fault = Callable[[Chaos], Awaitable[bool]]
FAULTS: dict[str, Fault] = {
    name: common.FAULTS[name]
    for name in (
        "crash",
        "stop_immediate",
        "kill_one_backend",
        "freeze_one_backend",
        "reset",
        "hang_up",
        "silence_some",
        "hold",
        "refuse",
        "lose_a_commit",
        "lose_the_answer_to_a_commit",
        "drop_the_answer_to_a_commit",
        "crash_at_a_commit",
    )
}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


@fault
async def kill_a_worker(chaos: Chaos) -> bool:
    worker = chaos.rng.choice(chaos.run.workers)
    await worker.kill()
    await worker.start()
    return True


@fault
async def freeze_a_worker(chaos: Chaos) -> bool:
    """Past its lease, in most cases."""
    worker = chaos.rng.choice(chaos.run.workers)
    worker.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(chaos.rng.uniform(0.5, 3.0) * LEASE)
    finally:
        worker.send(signal.SIGCONT)
    return True


@fault
async def freeze_both_ends(chaos: Chaos) -> bool:
    """The worker past its lease, and the network after that: it comes back to old answers."""
    worker = chaos.rng.choice(chaos.run.workers)
    links = chaos.some_links()
    chaos.proxy.hold(links)
    worker.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(chaos.rng.uniform(1.2, 2.0) * LEASE)
        worker.send(signal.SIGCONT)
        await asyncio.sleep(chaos.rng.uniform(0.0, 0.2))
    finally:
        worker.send(signal.SIGCONT)
        chaos.proxy.release()
    return True


@fault
async def pause_and_resume(chaos: Chaos) -> bool:
    """A person who changes their mind."""
    unfinished = [operation for _, operation in chaos.run.unfinished]
    if not unfinished:
        return False
    operation = chaos.rng.choice(unfinished)
    try:
        await operation.pause()
        await asyncio.sleep(chaos.rng.uniform(0.0, 0.3))
        await operation.resume()
    except AWAY:
        # it was done by then
        return False
    return True


class Run:
    """Workers, and whoever sees to it that they have something to do."""

    def __init__(self, world: World, proxy: FaultProxy, workers: list[WorkerProcess]) -> None:
        self.world = world
        self.proxy = proxy
        self.workers = workers
        self.made: list[tuple[Job, Operation]] = []
        self.unfinished: list[tuple[Job, Operation]] = []
        self._kinds = itertools.cycle(JOBS)

    async def feed(self) -> None:
        """Create another operation whenever one is done, until cancelled."""
        while True:
            with suppress(*AWAY):
                await self.look()
                while len(self.unfinished) < UNFINISHED:
                    # one that could not be created was not there: its name is not used again
                    job, operation = await self.world.new(next(self._kinds))
                    self.made.append((job, operation))
                    self.unfinished.append((job, operation))
            await asyncio.sleep(0.1)

    async def look(self) -> None:
        """See what is done by now. A failed one stays: it will be found."""
        rows = await self.world.query("SELECT id FROM poolkeeper.operations WHERE state = 'done'")
        done = {row["id"] for row in rows}
        self.unfinished = [pair for pair in self.unfinished if pair[1].status.id not in done]

    async def finish(self) -> None:
        """Wait until all is done, or something has failed."""
        sql = "SELECT count(*) FROM poolkeeper.operations WHERE state IN ('pending', 'running')"
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while (await self.world.query(sql))[0][0]:
                    await asyncio.sleep(0.05)


async def run_episode(
    server: FaultyPostgres, directory: Path, *, seed: int, seconds: float, least: int = 1
) -> Episode:
    """Break things for so many seconds, and so often; mend them, and judge what is there."""
    episode = Episode(seed)
    name = f"chaos_{seed}"
    url = server.create_database(name)
    try:
        async with World(server, url, directory) as world, FaultProxy.to(url, seed=seed) as proxy:
            async with _workers(proxy.url) as workers:
                run = Run(world, proxy, workers)
                chaos = Chaos(run, History(seed=seed), seed)
                await _break_things(run, chaos, seconds, least)
                await run.finish()
                episode.fenced = sum(worker.said.count("fenced") for worker in workers)
            episode.faults = chaos.counts
            for job, operation in run.made:
                books = await world.judge(job, job.name)
                status = await operation.refresh()
                episode.operations += 1
                episode.chunks += len(books.chunks)
                episode.outages += status.outages
                episode.takeovers += sum(
                    before["owner"] != after["owner"] for before, after in pairwise(books.chunks)
                )
            episode.findings = world.findings
    finally:
        server.thaw()
        server.start()
        server.drop_database(name)
    return episode


@asynccontextmanager
async def _workers(url: str) -> AsyncIterator[list[WorkerProcess]]:
    async with AsyncExitStack() as stack:
        workers = [WorkerProcess(url, LEASE) for _ in range(WORKERS)]
        await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
        yield workers


async def _break_things(run: Run, chaos: Chaos, seconds: float, least: int) -> None:
    feeding = asyncio.create_task(run.feed())
    time = asyncio.get_running_loop().time
    try:
        end = time() + seconds
        while time() < end or chaos.counts.total() < least:
            await chaos.rest(0.05, 0.4)
            await chaos.strike()
    finally:
        await chaos.mend()
        feeding.cancel()
        await asyncio.wait({feeding})
