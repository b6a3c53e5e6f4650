"""Find operations to do, and do them: one of them to its end, or all of them for ever."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from poolkeeper.drivers.base import is_lost, session_of
from poolkeeper.exceptions import (
    ConnectionPoolError,
    InvariantViolated,
    PoolClosedError,
    PoolUsageError,
)
from poolkeeper.observability.events import OperationClaimed, OperationEnded
from poolkeeper.operations.errors import (
    NotHereError,
    OperationError,
    OperationFailedError,
    OperationNotFoundError,
    OperationStoppedError,
)
from poolkeeper.operations.model import OperationState, OperationStatus
from poolkeeper.operations.runner import (
    CONFLICTS,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MOST_FRUITLESS,
    Report,
    Runner,
)
from poolkeeper.operations.store import Claim, Store
from poolkeeper.outcomes import LOST, is_driver_error
from poolkeeper.sqlstate import (
    DEADLOCK_DETECTED,
    READ_ONLY_TRANSACTION,
    SERIALIZATION_FAILURE,
    sqlstate_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from typing import Any
    from uuid import UUID

    from poolkeeper.observability.events import Event
    from poolkeeper.operations.kind import Kind
    from poolkeeper.operations.owner import Owner
    from poolkeeper.pool import Pool

_logger = logging.getLogger("poolkeeper")

POLL_SECONDS: Final = 0.5
"""How often the database is asked for work, or how work of others is going."""

INSUFFICIENT_RESOURCES: Final = "53"
"""Class of SQLSTATEs: no memory, no space, no connection, for now."""

NOT_HERE_SECONDS: Final = 60.0
"""For so long an operation that cannot be done here is left to others."""


class Worker:
    """Does operations on connections of its own.

    Args:
        pool: Those connections; their ``application_name`` tells the owner.
        owner: Who claims.
        kinds: What it can do, by name.
        emit: Takes its events.
    """

    def __init__(
        self,
        pool: Pool,
        owner: Owner,
        kinds: Mapping[str, Kind],
        emit: Callable[[Event], None],
    ) -> None:
        self._pool = pool
        self._owner = owner
        self._kinds = kinds
        self._emit = emit
        self._not_here: dict[UUID, float] = {}

    async def see_through(
        self,
        status: OperationStatus,
        *,
        report: Callable[[Report], None],
        stop: asyncio.Event,
        patience: float | None,
    ) -> OperationStatus:
        """Do one operation, or watch another worker do it and take over when that one fails.

        Returns when it is done, or laid down because of ``stop``.

        Args:
            status: As it is known so far: that it waits is told also where it waits from the start.
            report: Told of every change.
            stop: Set when it is to be laid down after the present chunk.
            patience: Seconds the database may be away at a time; None: for ever.

        Raises:
            OperationFailedError: It has failed.
            OperationStoppedError: Somebody has paused or cancelled it.
            OperationError: It cannot be done here.
            ConnectionPoolError: The database was away for longer than ``patience``.
        """
        id_ = status.id
        away_since: float | None = None
        while True:
            try:
                claim = None if stop.is_set() else await self._claim(only=id_)
                if claim is not None:
                    status = await self._carry_out(claim, report, stop, patience)
                else:
                    status = await self._look(id_)
                    self._require_known(status)
                    owner = status.owner_place
                    free = status.state is OperationState.PENDING or owner is None
                    reason = "a worker" if free else f"{owner} works on it"
                    report(Report(status, reason, elsewhere=True))
            except Exception as error:
                if not _is_away(error):
                    raise
                away_since = away_since or monotonic()
                if patience is not None and monotonic() - away_since > patience:
                    raise
                if stop.is_set():
                    return status
                report(Report(status, self._pool.reporter.describe(error)))
            else:
                away_since = None
                if status.state is OperationState.DONE or stop.is_set():
                    return status
                _raise_if_stopped(status)
            await _pause(stop)

    async def work(
        self,
        *,
        concurrency: int,
        report: Callable[[Report], None],
        stop: asyncio.Event,
        until_idle: bool = False,
    ) -> None:
        """Do whatever there is, ``concurrency`` operations at a time, until ``stop`` is set.

        Outages are waited out. An operation that fails keeps its error and does not end this.

        Args:
            concurrency: How many operations at a time.
            report: Told of every change of each.
            stop: Lays them all down after their present chunk.
            until_idle: Return when nothing is left that could be claimed.
        """
        running: set[asyncio.Task[None]] = set()
        try:
            while not stop.is_set():
                claim = None
                if len(running) < concurrency:
                    try:
                        claim = await self._claim()
                    except Exception as error:
                        if not _is_away(error):
                            raise
                        _logger.debug("no work can be looked for: %s", error)
                    else:
                        if claim is None and not running and until_idle:
                            return
                if claim is not None:
                    task = asyncio.ensure_future(self._unattended(claim, report, stop))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    task.add_done_callback(partial(self._let_go_of, claim))
                    continue
                await _pause(stop, *running)
            if running:
                await asyncio.wait(running)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def _unattended(
        self, claim: Claim, report: Callable[[Report], None], stop: asyncio.Event
    ) -> None:
        try:
            await self._carry_out(claim, report, stop, None)
        except OperationError as error:
            # It is in the table, for whoever asks.
            _logger.debug("an operation has ended: %s", error)
        except Exception as error:
            # Then it is somebody else's, or will be found again when the database is back.
            if not isinstance(error, PoolClosedError) and not _is_away(error):
                _logger.exception("the operation %r was left", claim.status.name)

    async def _claim(self, only: UUID | None = None) -> Claim | None:
        now = monotonic()
        self._not_here = {id_: at for id_, at in self._not_here.items() if at > now}

        async def claim(connection: Any) -> Claim | None:
            session = session_of(connection)
            await session.identify()
            return await Store.claim(
                connection,
                self._owner,
                direct=session.identity is not None,
                kinds=list(self._kinds),
                only=only,
                but=[] if only else list(self._not_here),
            )

        claimed: Claim | None = await ask(self._pool, claim)
        if claimed is not None:
            self._owner.begins(claimed.status.id, claimed.status.epoch)
        return claimed

    def _let_go_of(self, claim: Claim, _task: object = None) -> None:
        self._owner.ends(claim.status.id, claim.status.epoch)

    async def _carry_out(
        self,
        claim: Claim,
        report: Callable[[Report], None],
        stop: asyncio.Event,
        patience: float | None,
    ) -> OperationStatus:
        status = claim.status
        kind = self._kinds[status.kind]
        self._emit(
            OperationClaimed(
                pool=self._pool.name,
                operation=status.name,
                kind=status.kind,
                epoch=status.epoch,
                rows_done=status.rows_done,
                taken_from=claim.taken_from,
            )
        )
        report(Report(status))
        try:
            runner = Runner(
                self._pool,
                self._owner,
                claim,
                partial(kind.start, status.spec, status.fingerprint, ChunksOf(status.id)),
                report=report,
                emit=self._emit,
                stop=stop,
                patience=patience,
            )
            try:
                status = await runner.carry_out()
            finally:
                self._let_go_of(claim)
        except NotHereError as error:
            self._not_here[status.id] = monotonic() + NOT_HERE_SECONDS
            self._ended(status, OperationState.PENDING, str(error))
            raise
        except OperationError as error:
            error.operation = error.operation or status.name
            self._ended(status, OperationState.FAILED, str(error))
            raise
        self._ended(status, status.state, status.error)
        return status

    def _ended(self, status: OperationStatus, state: OperationState, error: str | None) -> None:
        self._emit(
            OperationEnded(
                pool=self._pool.name,
                operation=status.name,
                kind=status.kind,
                state=state.value,
                rows_done=status.rows_done,
                rows_rejected=status.rows_rejected,
                elapsed_seconds=status.elapsed_seconds,
                error=error,
            )
        )

    def _require_known(self, status: OperationStatus) -> None:
        """Do not wait for what this process may never do, and nobody else is doing."""
        if status.state is OperationState.PENDING and status.kind not in self._kinds:
            raise NotHereError(
                f"This process may not do a {status.kind}, and no other one is doing "
                f"{status.name!r}. Suggestion: run `poolkeeper worker` where it may.",
                operation=status.name,
            )

    async def _look(self, id_: UUID) -> OperationStatus:
        status: OperationStatus | None = await ask(
            self._pool, lambda connection: Store.find(connection, str(id_))
        )
        if status is None:
            raise OperationNotFoundError(
                f"The operation {id_} has been deleted. Suggestion: create it again."
            )
        return status


QUICK_ATTEMPTS: Final = 3
RETRIED: Final = frozenset({SERIALIZATION_FAILURE, DEADLOCK_DETECTED})

SENT_BEFORE: Final = "A statement was sent before, and its answer lost."
"""A note on an error of `ask`: what was asked for may have been done."""


async def ask(pool: Pool, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run statements that bear repetition; again when their connection was lost.

    Raises:
        ConnectionPoolError: No connection could be had.
    """
    sent = False
    for attempt in range(1, MOST_FRUITLESS + 1):
        if attempt > QUICK_ATTEMPTS:
            await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (attempt - QUICK_ATTEMPTS)))
        try:
            lease = await pool.wait(None)
        except ConnectionPoolError as error:
            if sent:
                error.add_note(SENT_BEFORE)
            raise
        sent = True
        try:
            return await work(lease)
        except Exception as error:
            # A new connection is waited for as long as the pool waits in an outage.
            lost = is_lost(lease) and (is_driver_error(error) or isinstance(error, OSError))
            # Where the role's default isolation is higher, others may be in the way.
            conflict = is_driver_error(error) and sqlstate_of(error) in RETRIED
            if is_driver_error(error) and sqlstate_of(error) == READ_ONLY_TRANSACTION:
                # It stays so for this session, whatever becomes of the server.
                pool.throw_away(lease, "read_only")
            if attempt == MOST_FRUITLESS or not (lost or conflict):
                raise
        finally:
            pool.release(lease)
    raise InvariantViolated("the last attempt neither returned nor raised")


def _is_away(error: Exception) -> bool:
    """Whether the database cannot be used now, such as in a failover, and may be later."""
    if isinstance(error, ConnectionPoolError):
        return not isinstance(error, PoolClosedError | PoolUsageError | OperationError)
    if not is_driver_error(error):
        return isinstance(error, OSError)
    code = sqlstate_of(error) or ""
    return (
        code in LOST
        or code in CONFLICTS
        or code == READ_ONLY_TRANSACTION
        or code.startswith(INSUFFICIENT_RESOURCES)
    )


class ChunksOf:
    """The committed chunks of one operation."""

    def __init__(self, id_: UUID) -> None:
        self._id = id_

    async def committed(self, connection: Any) -> Sequence[Any]:
        """See ``Chunks``."""
        return await Store.chunks(connection, self._id)


def _raise_if_stopped(status: OperationStatus) -> None:
    name, state = status.name, status.state
    if state is OperationState.FAILED:
        raise OperationFailedError(
            status.error
            or f"The operation {name!r} has failed. Suggestion: `poolkeeper operations show`.",
            operation=name,
        )
    if state is OperationState.PAUSED:
        text = (
            f"Somebody has paused the operation {name!r} after {status.rows_done:,} rows. "
            f"Suggestion: `poolkeeper operations resume {name!r}` when it may go on."
        )
    elif state is OperationState.CANCELLED:
        text = (
            f"Somebody has cancelled the operation {name!r} after {status.rows_done:,} rows, which "
            "stay. Suggestion: begin it again with the same command if that was a mistake."
        )
    else:
        return
    raise OperationStoppedError(text, operation=name, state=state.value)


async def _pause(stop: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait a little; less if it is time to stop, or if a task ends."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait(
            {stopped, *tasks}, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        stopped.cancel()
