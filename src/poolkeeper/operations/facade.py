"""``pool.operations``: create, carry out, watch and control operations."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from poolkeeper.operations.confinement import confined
from poolkeeper.operations.custom import Steps
from poolkeeper.operations.errors import (
    OperationConflictError,
    OperationNotFoundError,
    OperationsUnavailableError,
)
from poolkeeper.operations.kinds import kinds
from poolkeeper.operations.model import OperationState, OperationStatus
from poolkeeper.operations.operation import Operation
from poolkeeper.operations.owner import Owner
from poolkeeper.operations.store import SESSION_NAME, Store
from poolkeeper.operations.verbs import Verbs
from poolkeeper.operations.worker import Worker, ask
from poolkeeper.outcomes import is_driver_error
from poolkeeper.transactions.ids import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
    from pathlib import Path

    from poolkeeper.observability.events import Event
    from poolkeeper.operations.kind import Json, Kind
    from poolkeeper.operations.runner import Report
    from poolkeeper.pool import Pool

CONNECTIONS_PER_OPERATION = 2
"""One for its chunks, one for its heartbeat."""
SPARE_CONNECTIONS = 2
"""For whoever asks and controls."""


class Connections(Protocol):
    """A pool of asyncpg connections that belongs to the operations of one process."""

    @property
    def _pool(self) -> Pool: ...

    async def close(self, timeout: float | None = None) -> None:
        """See ``ConnectionPoolManager``."""

    def terminate(self) -> None:
        """See ``ConnectionPoolManager``."""

    def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """See ``ConnectionPoolManager``."""


class Operations(Verbs):
    """The operations of one database.

    They have connections of their own, whatever the pool they belong to is busy with.

    Args:
        connect: Opens those connections; gets their ``application_name`` and their number.
        database: How to call the database in messages.
        emit: Takes events.
    """

    def __init__(
        self,
        connect: Callable[[str, int], Awaitable[Connections]],
        *,
        database: Callable[[], str],
        emit: Callable[[Event], None],
    ) -> None:
        self._connect = connect
        self._database = database
        self._emit = emit
        self._owner = Owner()
        self._connections: Connections | None = None
        self._opening = asyncio.Lock()
        self._ready = False
        self._working = 0
        self._tasks: Counter[asyncio.Task[Any]] = Counter()
        self._steps = Steps()
        self._kinds: dict[str, Kind] = kinds(self._steps)

    # Creating ---------------------------------------------------------------------------------

    async def create(self, kind: str, spec: Json, *, name: str, again: bool = False) -> Operation:
        """Create an operation, or find the one of that name.

        An unfinished one goes on: if it was paused or has failed, it may be claimed again.

        Args:
            kind: ``load``, ``backfill``, ``export`` or ``custom``.
            spec: What is to be done; see ``load``, ``backfill``, ``export`` and ``custom``.
            name: What to call it.
            again: Whether to do again what a finished operation has done already.

        Raises:
            OperationConflictError: An unfinished one of that name does something else.
            OperationError: It cannot be done.
            OperationsUnavailableError: The tables are missing and cannot be made.
        """
        doing = self._kind(kind)
        known = await self._find(name)
        if known is not None and not known.finished:
            return Operation(self, await self._take_up(known, doing, spec))
        if (
            known is not None
            and known.state is OperationState.DONE
            and not again
            and known.kind == kind
            and known.spec.get("asked") == _essential(doing, spec)
            and await asyncio.to_thread(doing.already_done, known.spec, known.fingerprint)
        ):
            return Operation(self, known)
        prepared = await self._ask(lambda connection: doing.prepare(connection, spec))
        prepared.spec["asked"] = _essential(doing, spec)
        id_ = new_id()
        created = await self._ask(lambda c: Store.create(c, id_, name, kind, prepared))
        if created is not None:
            return Operation(self, created, is_new=True)
        # Somebody was quicker; or our own answer was lost.
        known = await self._find(name)
        if known is None or known.finished:
            return await self.create(kind, spec, name=name, again=again)
        if known.id == id_:
            return Operation(self, known, is_new=True)
        return Operation(self, await self._take_up(known, doing, spec))

    async def _take_up(self, known: OperationStatus, kind: Kind, spec: Json) -> OperationStatus:
        """Go on with what is unfinished, if it is the same thing."""
        asked = _essential(kind, spec)
        before = known.spec.get("asked") or {}
        if known.kind != kind.name or asked != before:
            different = sorted(
                key for key in {*asked, *before} if asked.get(key) != before.get(key)
            )
            raise OperationConflictError(
                f"An unfinished {known.kind} named {known.name!r} ({known.state.value}, "
                f"{known.rows_done:,} rows) does something else"
                + (f": it differs in {', '.join(different)}" if different else "")
                + ". Suggestion: go on with it as it was given, cancel it "
                f"(`poolkeeper operations cancel {known.name!r}`), or choose another name.",
                operation=known.name,
            )
        changes = {key: spec[key] for key in kind.tunable if key in spec}
        if known.state in {OperationState.PAUSED, OperationState.FAILED}:
            moved = await self._ask(
                lambda c: Store.move(c, known.id, OperationState.PENDING, changes)
            )
            return moved or (await self.get(str(known.id))).status
        return known

    # Finding ----------------------------------------------------------------------------------

    async def get(self, name: str) -> Operation:
        """The operation with that name or id: the unfinished or else latest one.

        Raises:
            OperationNotFoundError: There is none.
        """
        status = await self._find(name)
        if status is None:
            raise OperationNotFoundError(
                f"There is no operation {name!r} at {self._database()}. Suggestion: "
                "`poolkeeper operations list` shows them all.",
                operation=name,
            )
        return Operation(self, status)

    async def list(self, *, finished: bool = True, limit: int = 100) -> Sequence[OperationStatus]:
        """Operations, the latest first; empty where there never was one.

        Args:
            finished: Whether those that are done or cancelled are wanted, too.
            limit: How many at the most.
        """
        if not await self._there():
            return []
        found: Sequence[OperationStatus] = await self._ask(
            lambda connection: Store.recent(connection, finished=finished, limit=limit)
        )
        return found

    # Working ----------------------------------------------------------------------------------

    async def work(
        self,
        *,
        concurrency: int = 1,
        report: Callable[[Report], None] | None = None,
        stop: asyncio.Event | None = None,
        until_idle: bool = False,
    ) -> None:
        """Claim and do operations, of this and of dead processes, until ``stop`` is set.

        The same call on several machines shares the work: the database is all they need.
        Cancelling it lays what is at hand down within about a second.

        Args:
            concurrency: How many at a time.
            report: Called with every change, from the event loop; must not block.
            stop: Set it to end after the present chunks.
            until_idle: Return when nothing is left to claim.

        Raises:
            OperationsUnavailableError: The tables are missing and cannot be made.
        """
        async with self._worker(concurrency) as worker:
            await worker.work(
                concurrency=concurrency,
                report=report or _ignore,
                stop=stop or asyncio.Event(),
                until_idle=until_idle,
            )

    @property
    def lease_seconds(self) -> float:
        """How long a claim of this process holds without a sign of life; may be set before work."""
        return self._owner.lease_seconds

    @lease_seconds.setter
    def lease_seconds(self, seconds: float) -> None:
        self._owner = replace(self._owner, lease_seconds=seconds)

    def confine_files(self, directory: Path | None) -> None:
        """Let operations of this process touch files below ``directory`` only; before any work.

        Whoever may write to ``poolkeeper.operations`` can put an operation there, so this holds for
        what is claimed as for what is created. Others are left to other processes.

        Args:
            directory: Where files may be; None: operations that touch files are not done at all.
        """
        self._kinds = confined(self._kinds, directory)

    async def close(self) -> None:
        """Lay down what is being worked on and close the connections."""
        working = set(self._tasks) - {asyncio.current_task()}
        for task in working:
            task.cancel()
        if working:
            await asyncio.wait(working)
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    def terminate(self) -> None:
        """Cut the connections off at once."""
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.terminate()

    # Inside -----------------------------------------------------------------------------------

    def _kind(self, name: str) -> Kind:
        kind = self._kinds.get(name)
        if kind is None:
            raise OperationConflictError(
                f"There is no kind of operation {name!r}. Suggestion: one of "
                f"{', '.join(sorted(self._kinds))}."
            )
        return kind

    async def _pool(self) -> Pool:
        async with self._opening:
            if self._connections is None:
                self._connections = await self._connect(
                    SESSION_NAME + self._owner.id, SPARE_CONNECTIONS
                )
        return self._connections._pool

    @asynccontextmanager
    async def _worker(self, operations: int) -> AsyncIterator[Worker]:
        """A worker with connections for so many operations, until the block ends."""
        await self._prepare()
        pool = await self._pool()
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] += 1
        self._working += operations
        self._resize()
        try:
            yield Worker(pool, self._owner, self._kinds, self._emit)
        finally:
            self._working -= operations
            self._resize()
            self._tasks[task] -= 1
            if not self._tasks[task]:
                del self._tasks[task]

    def _resize(self) -> None:
        if self._connections is not None:
            self._connections.resize(
                max_size=SPARE_CONNECTIONS + CONNECTIONS_PER_OPERATION * self._working
            )

    async def _there(self) -> bool:
        if not self._ready:
            self._ready = await ask(await self._pool(), Store.is_there)
        return self._ready

    async def _prepare(self) -> None:
        """Make the tables if they are not there."""
        if await self._there():
            return
        try:
            await ask(await self._pool(), Store.install)
        except Exception as error:
            if not is_driver_error(error):
                raise
            raise OperationsUnavailableError(
                f"The tables of operations cannot be created at {self._database()}: {error}. "
                "Nothing was changed. Suggestion: run `poolkeeper init-db URL --grant-to ROLE` "
                "once, as a role that may create schemas in this database."
            ) from error
        self._ready = True

    async def _ask(self, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        await self._prepare()
        return await ask(await self._pool(), work)

    async def _find(self, key: str) -> OperationStatus | None:
        if not await self._there():
            return None
        found: OperationStatus | None = await self._ask(lambda c: Store.find(c, key))
        return found


def _essential(kind: Kind, spec: Json) -> Json:
    """What makes it the same operation."""
    return {
        key: value for key, value in spec.items() if key not in kind.tunable and value is not None
    }


def _ignore(_report: Report) -> None:
    pass
