"""Clients that do the work of workloads at the same time and record what they are told."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import asyncpg

from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.outcomes import Outcome, TransactionOutcome, outcome_of
from poolkeeper.sqlstate import chain
from poolkeeper.testing.history import Type
from poolkeeper.testing.workloads import in_transaction, plain_fetch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from poolkeeper.testing.history import History
    from poolkeeper.testing.workloads import Body, Read, Workload, Write

FAILURES: tuple[type[Exception], ...] = (
    ConnectionPoolError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What a pool on asyncpg may answer when the database fails; anything else is a mistake in the
test, and must not pass for an outage. ``TimeoutError`` is an ``OSError``."""


class Client:
    """One client: a process of the history until it does not know what became of a write."""

    def __init__(self, clients: Clients, number: int) -> None:
        self.rng = random.Random(f"{clients.seed}/{number}")
        self._clients = clients
        self._write = clients.writes[number % len(clients.writes)]
        self._process = clients.history.process()

    async def write(self, f: str, value: Any, body: Body) -> bool:
        """Run and record a write; whether it was acknowledged."""
        history = self._clients.history
        async with history.operation(
            self._process, f, value, by=_name(self._write), **self._clients.facts
        ) as op:
            try:
                await self._write(self._clients.pool, body)
            except FAILURES as error:
                if outcome_of(error) is Outcome.UNKNOWN:
                    op.info(error, **_transaction(error))
                else:
                    op.fail(error)
            else:
                op.ok()
                self._clients.count_acknowledged()
                return True
        if history.is_retired(self._process):
            self._process = history.process()
        return False

    async def read(self, f: str, value: Any, work: Callable[[], Awaitable[Any]]) -> bool:
        """Run and record a read; whether there was an answer."""
        async with self._clients.history.operation(
            self._process, f, value, **self._clients.facts
        ) as op:
            try:
                result = await work()
            except FAILURES as error:
                # a read has no effect: whatever happened, it did not happen
                op.fail(error)
            else:
                op.ok(result)
                return True
        return False

    async def fetch(self, query: str, *args: Any) -> Any:
        """Rows, read in the way the clients were told to read."""
        return await self._clients.read(self._clients.pool, query, *args)


class Clients:
    """A number of clients on one event loop, each doing one thing after another until told to stop.

    Args:
        pool: What they share.
        workloads: What they do, at random. Their tables exist.
        history: Where they record it.
        count: How many there are.
        writes: How they write; the clients are spread over these.
        read: How they read.
        reads: The fraction of operations that only read.
        deadline: Seconds one call may take at most, recorded for the checker; the pool has to keep
            to it by itself.
        pause: Seconds a client waits after a failure, at most.
        seed: Of their random choices.
    """

    def __init__(
        self,
        pool: Any,
        workloads: Sequence[Workload],
        history: History,
        *,
        count: int = 50,
        writes: Sequence[Write] = (in_transaction,),
        read: Read = plain_fetch,
        reads: float = 0.3,
        deadline: float | None = None,
        pause: float = 0.02,
        seed: int = 0,
    ) -> None:
        self.pool = pool
        self.workloads = list(workloads)
        self.history = history
        self.count = count
        self.writes = list(writes)
        self.read = read
        self.reads = reads
        self.facts = {} if deadline is None else {"deadline": deadline}
        self.seed = seed
        self._pause = pause
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._acknowledged = 0
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []

    def start(self) -> None:
        """Set them to work."""
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(self.count)]
        for task in self._tasks:
            task.add_done_callback(self._tell_of_failure)

    async def _work(self, number: int) -> None:
        client = Client(self, number)
        while not self._stopping.is_set():
            workload = client.rng.choice(self.workloads)
            reads = client.rng.random() < self.reads
            went_well = await (workload.read(client) if reads else workload.write(client))
            if not went_well:
                # refusals come at once; nobody should spin on them
                await asyncio.sleep(client.rng.uniform(0, self._pause))

    def count_acknowledged(self) -> None:
        """One more write was acknowledged."""
        self._acknowledged += 1
        while self._watchers and self._watchers[0][0] <= self._acknowledged:
            _count, watcher = self._watchers.pop(0)
            if not watcher.done():
                watcher.set_result(None)

    async def acknowledged(self, more: int) -> None:
        """Wait until that many more writes have been acknowledged.

        Raises:
            Exception: What a client failed with, if it is no answer of a pool.
        """
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append((self._acknowledged + more, watcher))
        self._watchers.sort(key=lambda entry: entry[0])
        for task in self._tasks:
            if task.done():
                self._tell_of_failure(task)
        await watcher

    def _tell_of_failure(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        for _count, watcher in self._watchers:
            if error is not None and not watcher.done():
                watcher.set_exception(error)

    async def stop(self, timeout: float = 60.0) -> int:
        """Let each finish what it does, then return how many did not within ``timeout`` seconds.

        Those are cancelled; their last operation is recorded as unknown, with the time it took.

        Raises:
            Exception: What a client failed with, if it is no answer of a pool.
        """
        self._stopping.set()
        if not self._tasks:
            return 0
        done, hanging = await asyncio.wait(self._tasks, timeout=timeout)
        for task in hanging:
            task.cancel()
        if hanging:
            await asyncio.wait(hanging)
        for task in done:
            task.result()
        return len(hanging)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        hanging = await self.stop()
        if hanging and exc is None:
            raise TimeoutError(
                f"{hanging} of {self.count} clients did not come back. Suggestion: call stop() "
                "with a longer timeout, or look at the open operations of the history."
            )


async def resolve_unknown(pool: Any, history: History) -> int:
    """Ask the pool what became of every unknown transaction, and record the verdicts.

    Returns how many there were: writes by ``run_transaction`` whose error named the transaction.
    """
    asked = 0
    for operation in history.operations():
        transaction = operation.fact("transaction")
        if operation.type is Type.INFO and transaction is not None:
            outcome = await pool.transaction_outcome(UUID(transaction))
            history.verdict(operation, committed=outcome is TransactionOutcome.COMMITTED)
            asked += 1
    return asked


def _transaction(error: BaseException) -> dict[str, str]:
    for link in chain(error):
        transaction = getattr(link, "transaction_id", None)
        if transaction is not None:
            return {"transaction": str(transaction)}
    return {}


def _name(write: Write) -> str:
    return getattr(write, "__name__", type(write).__name__)
