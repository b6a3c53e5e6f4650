"""``pool.operations``: create, carry out, watch and control operations."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from poolkeeper.exceptions import PoolClosedError
from poolkeeper.operations.confinement import confined
from poolkeeper.operations.custom import Steps
from poolkeeper.operations.errors import (
    OperationConflictError,
    OperationError,
    OperationNotFoundError,
    OperationsUnavailableError,
)
from poolkeeper.operations.kinds import kinds
from poolkeeper.operations.model import OperationState, OperationStatus
from poolkeeper.operations.operation import Operation
from poolkeeper.operations.owner import Owner
from poolkeeper.operations.store import SESSION_NAME, Store
from poolkeeper.operations.verbs import Verbs
from poolkeeper.operations.worker import ChunksOf, Worker, ask
from poolkeeper.outcomes import is_driver_error
from poolkeeper.transactions.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from pathlib import Path

    from poolkeeper.observability.events import Event
    from poolkeeper.operations.kind import Json, Kind
    from poolkeeper.operations.runner import Report
    from poolkeeper.pool import Pool

T = TypeVar("T")

CONNECTIONS_PER_OPERATION = 4
"""One for its chunks, one for its heartbeat; two to read ahead, which only an export needs."""
SPARE_CONNECTIONS = 2
"""For whoever asks and controls."""
PRUNED_AT_A_TIME = 20
"""Each may have many thousands of chunks and rejects, which are deleted in one transaction."""


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
        self._tasks: set[asyncio.Future[Any]] = set()
        self._steps = Steps()
        self._kinds: dict[str, Kind] = kinds(self._steps)

    # Creating ---------------------------------------------------------------------------------

    async def create(self, kind: str, spec: Json, *, name: str, again: bool = False) -> Operation:
        """Create an operation, or find the one of that name.

        An unfinished one goes on: if it was paused or has failed, it may be claimed again. One that
        has failed before it committed anything gives way to what is asked for now, and is cancelled
        if that is something else.

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
        spec = _as_stored(spec, name)
        doing.check(spec)
        known = await self._find(name)
        failed = known if known is not None and _gives_way(known, doing, spec) else None
        if known is not None and not known.finished and failed is None:
            return Operation(self, await self._take_up(known, doing, spec))
        done = None if again else await self._find_done(name, doing, spec)
        if done is not None:
            return Operation(self, done)
        prepared = await self._ask(lambda connection: doing.prepare(connection, spec))
        prepared.spec["asked"] = _essential(doing, spec)
        if failed is not None:
            # Only now: what cannot be done replaces nothing.
            await self._ask(lambda c: Store.replace(c, failed))
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
        tunable = sorted(kind.tunable)
        changes = {key: spec[key] for key in tunable if key in spec}
        if known.state in {OperationState.PAUSED, OperationState.FAILED}:
            changed = await self._ask(
                lambda c: Store.move(c, known.id, OperationState.PENDING, changes, tunable)
            )
        elif changes != {key: known.spec[key] for key in tunable if key in known.spec}:
            changed = await self._ask(lambda c: Store.tune(c, known.id, changes, tunable))
        else:
            return known
        return changed or (await self.get(str(known.id))).status

    async def _find_done(self, name: str, kind: Kind, spec: Json) -> OperationStatus | None:
        """An operation that has done just this, if doing it again would double it."""
        if not await self._there():
            return None
        asked = _essential(kind, spec)

        async def look(connection: Any) -> OperationStatus | None:
            done = await Store.find_done(connection, name, kind.name, asked)
            if done is None or not await kind.already_done(connection, done, ChunksOf(done.id)):
                return None
            return done

        found: OperationStatus | None = await self._ask(look)
        return found

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
                "`poolkeeper operations list --all` shows them all.",
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

    async def prune(self, *, older_than: float) -> int:
        """Forget operations that were done or cancelled long ago, with their rejects.

        What they did stays; only that they did it is forgotten, so a file loaded by one of them
        is loaded once more if somebody asks for it. Some are forgotten at a time: what a
        cancellation interrupts may be done in part, and of those a connection is lost at some may
        not be counted.

        Args:
            older_than: Seconds since they ended.

        Returns:
            How many.
        """
        if not await self._there():
            return 0
        forgotten = 0
        while True:
            some: int = await self._ask(lambda c: Store.prune(c, older_than, PRUNED_AT_A_TIME))
            forgotten += some
            if some < PRUNED_AT_A_TIME:
                return forgotten

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
        await self._employ(
            concurrency,
            lambda worker: worker.work(
                concurrency=concurrency,
                report=report or _ignore,
                stop=stop or asyncio.Event(),
                until_idle=until_idle,
            ),
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
        working = set(self._tasks)
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

    async def _employ(self, operations: int, work: Callable[[Worker], Coroutine[Any, Any, T]]) -> T:
        """Do some work with connections for so many operations.

        It has a task of its own: closing the pool ends that, and not whatever called.

        Raises:
            PoolClosedError: The pool was closed meanwhile.
        """
        await self._prepare()
        pool = await self._pool()
        task = asyncio.ensure_future(work(Worker(pool, self._owner, self._kinds, self._emit)))
        self._tasks.add(task)
        self._working += operations
        self._resize()
        caller = asyncio.current_task()
        assert caller is not None
        cancelled_before = caller.cancelling()
        try:
            return await task
        except asyncio.CancelledError:
            if caller.cancelling() > cancelled_before:
                raise
            raise PoolClosedError(
                "The pool was closed while it carried out operations; they are laid down at their "
                "checkpoints. Suggestion: ask for them again, they go on there."
            ) from None
        finally:
            self._tasks.discard(task)
            self._working -= operations
            self._resize()

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


def _as_stored(spec: Json, name: str) -> Json:
    """The spec as the database will give it back.

    Raises:
        OperationError: It does not fit into JSON, or not into PostgreSQL's.
    """
    try:
        text = json.dumps(spec, allow_nan=False, ensure_ascii=False)
        f"{text}{name}".encode()
    except (TypeError, ValueError) as error:
        raise OperationError(
            f"The options of {name!a} do not fit into JSON: {error}. Suggestion: give texts, "
            "numbers and lists of them, such as dates in ISO format; names of files in UTF-8."
        ) from error
    if "\\u0000" in text or "\0" in name:
        raise OperationError(
            f"An option of {name!a} has a NUL character, which PostgreSQL cannot store. "
            "Suggestion: leave it out."
        )
    stored: Json = json.loads(text)
    return stored


def _essential(kind: Kind, spec: Json) -> Json:
    """What makes it the same operation."""
    return {
        key: value for key, value in spec.items() if key not in kind.tunable and value is not None
    }


def _gives_way(known: OperationStatus, kind: Kind, spec: Json) -> bool:
    """Whether it has failed with nothing done, and something else is asked for now."""
    if known.state is not OperationState.FAILED:
        return False
    # Chunks of a user's step may do more than they count as rows.
    counted = known.kind != "custom" and known.rows_done == known.rows_rejected == 0
    if known.seq and not counted:
        return False
    return known.kind != kind.name or _essential(kind, spec) != (known.spec.get("asked") or {})


def _ignore(_report: Report) -> None:
    pass
