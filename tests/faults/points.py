"""Fault points: one call, one segment of what it says on the wire, one fault; and the judge."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from poolkeeper import (
    ConnectionPoolManager,
    PoolConfig,
    TransactionOutcome,
    TransactionOutcomeUnknownError,
)
from poolkeeper.outcomes import Outcome, outcome_of
from poolkeeper.schema import install_script
from poolkeeper.testing.checker import Bounds, FinalRead, Report, check
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.history import History, describe
from poolkeeper.testing.proxy import Direction, FaultProxy, Link, Segment, Verdict
from tests.faults.calls import COMMITTED_BEFORE, Call, settled
from tests.faults.rig import EVERY_CALL_SECONDS, FAILURES, SLACK_SECONDS
from tests.pool.soundness import assert_sound

OPTIONS: dict[str, Any] = {
    "min_size": 1,
    "max_size": 2,
    "timeout": 10.0,
    "connect_timeout": 1.0,
    "stall_after": 0.1,
    "reset_timeout": 0.5,
    "close_timeout": 1.0,
    "validation_timeout": 0.5,
    # Nothing is said but what the call says: which segment is which must not depend on the time.
    "validation_bypass": 60.0,
    "probe_interval": 60.0,
}
AT_ONCE = 8
"""Points under way at the same time; most of them wait for a silence to be noticed."""

TABLES = """
CREATE TABLE work (id bigint NOT NULL, row int NOT NULL);
CREATE TABLE work_once (id bigint PRIMARY KEY);
CREATE TABLE constants (n int NOT NULL);
INSERT INTO constants VALUES (1), (2), (3);
"""
NO_TABLES = "DROP TABLE work, work_once, constants; DROP SCHEMA IF EXISTS poolkeeper CASCADE"


@functools.cache
def _configuration(options: tuple[tuple[str, Any], ...]) -> PoolConfig:
    # Reading environment and files takes longer than opening a pool.
    return PoolConfig(**OPTIONS | dict(options))


def config_for(url: str, driver: str, **options: Any) -> PoolConfig:
    """The options of a pool with this driver."""
    url = url.replace("postgresql://", f"postgresql+{driver}://", 1)
    return _configuration(tuple(options.items())).with_changes(database_url=url)


_works = itertools.count(1)
_applications = itertools.count(1)


@dataclass(frozen=True)
class Step:
    """A segment of a call in which nothing went wrong."""

    direction: Direction
    types: str
    text: str | None
    backend: bool
    """Whether the server process was known by then."""

    def __str__(self) -> str:
        way = "request" if self.direction is Direction.TO_SERVER else "answer"
        return f"{way} {self.types}" + (f" ({self.text[:40]})" if self.text else "")


@dataclass(frozen=True)
class Fault:
    """What happens to one segment.

    Attributes:
        strike: Gets the segment and the world, returns its verdict.
        fits: Whether it can happen to a step.
    """

    name: str
    strike: Callable[[Segment, World], Any]
    fits: Callable[[Step], bool] = lambda step: True


def _runs_something(step: Step) -> bool:
    request = step.direction is Direction.TO_SERVER
    return request and step.backend and step.types != "X"


async def _terminate_after_delivery(segment: Segment, world: World) -> Verdict:
    pid = segment.link.backend_pid
    await segment.link.deliver(segment)
    await world.query("SELECT pg_terminate_backend($1, 5000)", pid)
    return Verdict.PASS


SILENCE = "swallowed, then silence"
TERMINATED = "delivered, then terminated"
CRASH = "crash after delivery"
FAULTS = {
    fault.name: fault
    for fault in (
        Fault("lost", lambda segment, world: Verdict.LOSE),
        Fault(SILENCE, lambda segment, world: Verdict.DROP),
        Fault(TERMINATED, _terminate_after_delivery, _runs_something),
    )
}


@dataclass(frozen=True)
class Point:
    """One fault at one segment of one call."""

    driver: str
    call: Call
    place: int
    step: Step
    fault: str

    def __str__(self) -> str:
        return f"{self.driver} {self.call.name}, segment {self.place}, {self.step}: {self.fault}"


class Strike:
    """A policy: the fault when the segment of that number comes, otherwise nothing."""

    def __init__(self, place: int, fault: Callable[[Segment], Any]) -> None:
        self._place = place
        self._fault = fault
        self.segment: Segment | None = None
        self._over = asyncio.Event()

    async def __call__(self, segment: Segment) -> Verdict:
        if segment.index != self._place or self.segment is not None:
            return Verdict.PASS
        self.segment = segment
        try:
            verdict = self._fault(segment)
            return await verdict if inspect.isawaitable(verdict) else verdict
        finally:
            self._over.set()

    async def felt(self, *, by_the_client: bool) -> None:
        """Wait until the fault is over, and its link with it if the client is to notice."""
        await self._over.wait()
        assert self.segment is not None
        if by_the_client:
            await gone(self.segment.link)


async def gone(link: Link) -> None:
    """Wait until a link has ended, and its client has had the time to hear of it."""
    while link.is_open:
        await asyncio.sleep(0.002)
    for _ in range(5):
        await asyncio.sleep(0)


class World:
    """A server, a database on it, and what was done to it."""

    def __init__(self, server: FaultyPostgres, url: str) -> None:
        self.server = server
        self.url = url
        self.history = History()
        self.outcomes: Counter[str] = Counter()
        self._rows: dict[int, Counter[int]] = defaultdict(Counter)
        self._expected: dict[int, int] = {}
        self._databases: list[str] = []
        self._free: list[str] = []
        self._admin: asyncpg.Connection | None = None
        self._admin_lock = asyncio.Lock()

    async def query(self, sql: str, *args: Any) -> list[Any]:
        """Ask the server on a connection past every proxy."""
        async with self._admin_lock:
            if self._admin is None or self._admin.is_closed():
                self._admin = await asyncpg.connect(self.url)
            return await self._admin.fetch(sql, *args)

    async def close(self) -> None:
        """Hang up."""
        for name in self._databases:
            await self.query(f"DROP DATABASE {name} WITH (FORCE)")
        if self._admin is not None:
            await self._admin.close()

    @asynccontextmanager
    async def place_for(self, call: Call):
        """A database for a call: the common one, or one where no pool has been."""
        if not call.new_database:
            yield self.url
            return
        if self._free:
            name = self._free.pop()
        else:
            name = f"new_{next(_applications)}"
            self._databases.append(name)
            await self.query(f"CREATE DATABASE {name}")
        url = self.server.dsn(name)
        async with _connected(url) as connection:
            await connection.execute(TABLES)
        yield url
        async with _connected(url) as connection:
            await self._read(connection)
            await connection.execute(NO_TABLES)
        self._free.append(name)

    async def dry_run(self, driver: str, call: Call) -> list[Step]:
        """What a call says on the wire when nothing goes wrong."""
        steps: list[Step] = []

        def note(segment: Segment) -> None:
            known = segment.link.backend_pid is not None
            steps.append(Step(segment.direction, segment.types, segment.text, known))

        async with self._site(driver, call) as (pool, proxy, _):
            proxy.policy = note
            work = self.new_work(call.rows)
            async with asyncio.timeout(EVERY_CALL_SECONDS):
                await call.work(pool, work)
            proxy.policy = None
        assert steps, call.name
        return steps

    async def run(self, point: Point, fault: Callable[[Segment], Any], bound: float) -> None:
        """Make the call, strike, and see that the pool is sound afterwards."""
        call = point.call
        async with self._site(point.driver, call) as (pool, proxy, application):
            strike = Strike(point.place, fault)
            proxy.policy = strike
            work = self.new_work(call.rows)
            doing = asyncio.ensure_future(call.work(pool, work))
            error = await self.record(str(point), point.fault, work, doing, bound)
            assert strike.segment is not None, f"{point}: no such segment came"
            assert not (call.insists and error), f"{point}: {error!r}"
            # A silent link is noticed when it is used; all others by themselves.
            await strike.felt(by_the_client=point.fault != SILENCE)
            await proxy.heal(links=True)
            await self.ask(pool, error)
            if call.closes or (call.opens and error):
                return
            try:
                await assert_sound(pool, Sessions(self, application))
            except BaseException as failure:
                failure.add_note(str(point))
                raise

    @asynccontextmanager
    async def _site(self, driver: str, call: Call):
        application = f"point-{next(_applications)}"
        async with self.place_for(call) as url, FaultProxy.to(url) as proxy:
            pool = ConnectionPoolManager(
                config_for(proxy.url, driver, **call.options),
                server_settings={"application_name": application},
            )
            if not call.opens:
                await pool.initialize()
                await settled(pool)
                if not call.new_database:
                    # Whether the ledger is there is asked once per pool.
                    await pool.run_transaction(_nothing)
            proxy.restart_count()
            try:
                yield pool, proxy, application
            finally:
                await pool.close()
                await proxy.heal(links=True)
            await self.emptied(application, 0)

    def new_work(self, rows: int) -> int:
        """The id of a work that leaves so many rows, all or none."""
        work = next(_works)
        self._expected[work] = rows
        return work

    async def record(
        self, name: str, fault: str, work: int, doing: asyncio.Future[Any], bound: float
    ) -> BaseException | None:
        """Wait for a call, at most for its bound, and write down what its caller was told."""
        history, writes = self.history, self._expected[work] > 0
        async with history.operation(
            history.process(), "insert" if writes else "call", work, point=name, deadline=bound
        ) as op:
            history.fault(fault)
            await asyncio.wait({doing}, timeout=bound + SLACK_SECONDS)
            if not doing.done():
                doing.cancel()
                raise AssertionError(f"{name}: not back after {bound + SLACK_SECONDS} s")
            if doing.cancelled():
                op.info("cancelled")
                self.outcomes["cancelled"] += 1
                return asyncio.CancelledError()
            error = doing.exception()
            if error is None:
                op.ok()
                self.outcomes["ok"] += 1
                return None
            assert isinstance(error, FAILURES), f"{name}: {error!r}"
            outcome = outcome_of(error)
            self.outcomes[outcome.value] += 1
            if outcome is Outcome.UNKNOWN and writes:
                op.info(error)
            else:
                op.fail(error)
        return error

    async def ask(self, pool: Any, error: BaseException | None) -> None:
        """Let the pool find out about a transaction it could not at first; note its answer."""
        if isinstance(error, TransactionOutcomeUnknownError):
            assert error.transaction_id is not None
            outcome = await pool.transaction_outcome(error.transaction_id)
            operation = next(
                op for op in reversed(self.history.operations())
                if op.completion is not None and op.completion.error == describe(error)
            )  # fmt: skip
            self.history.verdict(operation, committed=outcome is TransactionOutcome.COMMITTED)

    async def emptied(self, application: str, most: int) -> None:
        """Wait until a pool has no more server sessions than that."""
        async with asyncio.timeout(20):
            while await self.sessions(application) > most:
                await asyncio.sleep(0.01)

    async def sessions(self, application: str) -> int:
        """How many server sessions a pool has, whatever side they are closed on."""
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
        return (await self.query(sql, application))[0][0]

    async def _read(self, connection) -> None:
        everything = "SELECT id, row FROM work UNION ALL SELECT id, 1 FROM work_once"
        for work, row in await connection.fetch(everything):
            self._rows[work][row] += 1

    async def report(self) -> Report:
        """The verdict on everything so far; nothing of it may be under way any more."""
        await self.query("SELECT 1")
        assert self._admin is not None
        await self._read(self._admin)
        inserts = []
        for work, rows in self._rows.items():
            if work not in self._expected:
                continue  # of another test
            times = set(rows.values())
            assert set(rows) == set(range(1, self._expected[work] + 1)), f"torn: {work} {rows}"
            assert len(times) == 1, f"torn: {work} {rows}"
            inserts += [work] * times.pop()
        known = {op.value for op in self.history.operations()}
        final = FinalRead(inserts=[work for work in inserts if work in known])
        return check(self.history, final, bounds=Bounds(overtime=SLACK_SECONDS))


@dataclass
class Sessions:
    """What ``assert_sound`` asks about the server."""

    world: World
    application: str

    async def emptied(self, most: int) -> None:
        await self.world.emptied(self.application, most)


@asynccontextmanager
async def _connected(url: str):
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _nothing(connection: Any) -> None:
    await connection.execute("SELECT 1")


def prepare_database(server: FaultyPostgres, name: str) -> str:
    """A database with the tables and a ledger; its URL."""
    url = server.create_database(name)
    server.psql(TABLES, database=name)
    server.psql(install_script(), database=name)
    server.psql(f"INSERT INTO poolkeeper.ledger VALUES ('{COMMITTED_BEFORE}')", database=name)
    return url


async def at_once(works: Iterable[Any], limit: int = AT_ONCE) -> None:
    """Run coroutines, a few at a time; all of them, then raise what failed."""
    turns = asyncio.Semaphore(limit)

    async def one(work):
        async with turns:
            await work

    results = await asyncio.gather(*(one(work) for work in works), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(results)} points", errors)


def points_of(driver: str, call: Call, steps: list[Step]) -> list[Point]:
    """Every fault at every step it fits, but for crashes, which many points share."""
    return [
        Point(driver, call, place, step, fault.name)
        for place, step in enumerate(steps)
        for fault in FAULTS.values()
        if fault.fits(step) and not (fault.name == TERMINATED and crashes(call))
    ]


def crashes(call: Call) -> bool:
    """Whether the whole server has to crash during a call: it commits, or insists.

    For others the end of their server process tells as much, and costs less.
    """
    return call.insists or call.rows > 0


def said(report: Report) -> str:
    """The words of a report, for a failed assertion."""
    return f"\n{report}"
