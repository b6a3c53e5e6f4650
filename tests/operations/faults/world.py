"""Fault points of operations: one run, one segment of what its worker says, one fault."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import asyncpg

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.operations import OperationState
from poolkeeper.operations.operation import Operation
from poolkeeper.testing.checker import Finding
from poolkeeper.testing.checker.operations import Books
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.proxy import FaultProxy, Segment
from tests.faults.points import CRASH, FAULTS, SILENCE, Step, Strike
from tests.operations.faults.jobs import Job

OPTIONS: dict[str, Any] = {
    "min_size": 0,
    "max_size": 2,
    "connect_timeout": 2.0,
    "stall_after": 0.1,
    "reset_timeout": 0.5,
    "close_timeout": 1.0,
    "validation_timeout": 0.5,
    # Nothing is said but what the work needs: which segment is which must not depend on the time.
    "validation_bypass": 60.0,
    "probe_interval": 60.0,
}
RUN_SECONDS = 60.0
"""A run that has not come to its end by then hangs."""
AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
)
"""What a connection says to a server that is down."""
NEVER = 3600.0
"""A lease whose end no test waits for."""


@functools.cache
def _configuration() -> PoolConfig:
    # Reading environment and files takes longer than opening a pool.
    return PoolConfig(**OPTIONS)


def manager_on(url: str, **options: Any) -> ConnectionPoolManager:
    """A pool, not open yet, whose operations are what is tested."""
    connect_kwargs = options.pop("connect_kwargs", {})
    config = _configuration().with_changes(database_url=url, **options)
    return ConnectionPoolManager(config, **connect_kwargs)


@dataclass(frozen=True)
class Point:
    """One fault at one segment of the run of one kind."""

    kind: type[Job]
    place: int
    step: Step
    fault: str

    def __str__(self) -> str:
        return f"{self.kind.kind}, segment {self.place}, {self.step}: {self.fault}"


class World:
    """A database, whoever creates operations in it, and what was found there."""

    def __init__(self, server: FaultyPostgres, url: str, directory: Path) -> None:
        self.server = server
        self.url = url
        self.directory = directory
        self.findings: list[tuple[str, Finding]] = []
        self._admin: asyncpg.Connection | None = None
        self._admin_lock = asyncio.Lock()
        self._maker = manager_on(url)

    async def __aenter__(self) -> Self:
        await self._maker.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._maker.close()
        if self._admin is not None:
            await self._admin.close()

    @asynccontextmanager
    async def admin(self):
        """A connection past every proxy, one user at a time."""
        async with self._admin_lock:
            if self._admin is None or self._admin.is_closed():
                self._admin = await asyncpg.connect(self.url)
            yield self._admin

    @property
    def maker(self) -> Any:
        """The operations of whoever creates them."""
        return self._maker.operations

    async def query(self, sql: str, *args: Any) -> list[Any]:
        """Ask the server past every proxy; again if it is just being crashed by somebody else."""
        async with asyncio.timeout(RUN_SECONDS):
            while True:
                try:
                    async with self.admin() as admin:
                        return await admin.fetch(sql, *args)
                except AWAY:
                    await asyncio.sleep(0.01)

    async def new(self, kind: type[Job]) -> tuple[Job, Operation]:
        """Another job, and its operation."""
        job = kind(self.directory)
        async with self.admin() as admin:
            await job.make(admin)
        job.register(self.maker)
        return job, await job.create(self.maker)

    async def judge(self, job: Job, where: str, state: str = "done") -> Books:
        """Look at what a job has left."""
        async with self.admin() as admin:
            books, findings = await job.judge(admin, state)
        self.findings += [(where, finding) for finding in findings]
        return books

    @asynccontextmanager
    async def worker(
        self, job: Job, url: str | None = None, *, lease: float | None = None, **options: Any
    ):
        """The operations of another process, as it were; none of its sessions is left after."""
        manager = manager_on(url or self.url, **options)
        await manager.initialize()
        operations = manager.operations
        if lease is not None:
            operations.lease_seconds = lease
        job.register(operations)
        try:
            yield operations
        finally:
            await manager.close()
        await self.gone(operations)

    async def gone(self, operations: Any) -> None:
        """Wait until the server has no session of a worker any more."""
        name = f"poolkeeper worker {operations._owner.id}"
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
        async with asyncio.timeout(RUN_SECONDS):
            while (await self.query(sql, name))[0][0]:
                await asyncio.sleep(0.01)

    async def dry_run(self, kind: type[Job]) -> list[Step]:
        """What a worker says on the wire when nothing goes wrong."""
        steps: list[Step] = []

        def note(segment: Segment) -> None:
            known = segment.link.backend_pid is not None
            steps.append(Step(segment.direction, segment.types, segment.text, known))

        job, operation = await self.new(kind)
        async with FaultProxy.to(self.url) as proxy:
            proxy.policy = note
            async with self.worker(job, proxy.url) as operations:
                await (await operations.get(str(operation.status.id))).run()
                proxy.policy = None
        await self.judge(job, "nothing goes wrong")
        return steps

    async def run(self, point: Point, fault: Callable[[Segment], Any], bound: float) -> None:
        """Do a job, strike, and see that it is done exactly once, by itself."""
        job, operation = await self.new(point.kind)
        strike = Strike(point.place, fault)
        # Points that share a crash wait for each other; a worker must not take that for a silence.
        options = {"stall_after": 0.0} if point.fault == CRASH else {}
        try:
            async with (
                FaultProxy.to(self.url) as proxy,
                self.worker(job, proxy.url, lease=NEVER, **options) as operations,
            ):
                proxy.policy = strike
                async with asyncio.timeout(bound):
                    status = await (await operations.get(str(operation.status.id))).run()
                assert status.state is OperationState.DONE
                assert strike.segment is not None, "no such segment came"
                await strike.felt(by_the_client=point.fault != SILENCE)
                await proxy.heal(links=True)
                await self.sound(operations)
            await self.judge(job, str(point))
        except BaseException as error:
            error.add_note(str(point))
            raise

    @staticmethod
    async def sound(operations: Any) -> None:
        """Nothing the worker borrowed is still borrowed."""
        pool = await operations._pool()
        async with asyncio.timeout(RUN_SECONDS):
            while pool.snapshot().active:
                await asyncio.sleep(0.005)

    def fault(self, name: str) -> Callable[[Segment], Any]:
        """A fault, ready to strike."""

        async def strike(segment: Segment) -> Any:
            verdict = FAULTS[name].strike(segment, self)
            return await verdict if inspect.isawaitable(verdict) else verdict

        return strike

    def verdict(self) -> str:
        """Everything that was wrong; empty if nothing was."""
        return "\n".join(f"{where}: {finding}" for where, finding in self.findings)
