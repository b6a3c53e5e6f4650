"""Carry out one claimed operation: chunk after chunk, through every lost connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.deadlines import bounded
from poolkeeper.drivers.base import session_of
from poolkeeper.exceptions import (
    ConnectionPoolError,
    PoolClosedError,
    PoolUsageError,
)
from poolkeeper.observability.events import OperationResumed
from poolkeeper.operations.chunk_size import ChunkSize
from poolkeeper.operations.errors import NotHereError, OperationError, OperationFailedError
from poolkeeper.operations.kind import ReadAheadRun, ThrottledRun
from poolkeeper.operations.refusals import refusal
from poolkeeper.operations.sessions import Sessions
from poolkeeper.operations.store import Claim, Store, bounds
from poolkeeper.outcomes import LOST, is_driver_error
from poolkeeper.sqlstate import (
    DEADLOCK_DETECTED,
    LOCK_NOT_AVAILABLE,
    QUERY_CANCELED,
    READ_ONLY_TRANSACTION,
    SERIALIZATION_FAILURE,
    sqlstate_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from uuid import UUID

    from poolkeeper.drivers.base import OpenTransaction, TransactionalSession
    from poolkeeper.observability.events import Event
    from poolkeeper.operations.kind import Chunk, Run
    from poolkeeper.operations.model import OperationStatus
    from poolkeeper.operations.owner import Owner
    from poolkeeper.pool import Pool

_logger = logging.getLogger("poolkeeper")

CONFLICTS: Final = frozenset(
    {SERIALIZATION_FAILURE, DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE, QUERY_CANCELED}
)
"""The chunk was undone because of what others did: it is tried again, smaller."""

MOST_FRUITLESS: Final = 20
"""So often a chunk may fail, or take its connection or its worker with it, before it is given up:
a chunk that crashes the server must not go on doing so."""

LONGEST_PAUSE: Final = 5.0
FIRST_PAUSE: Final = 0.02
QUIET_SECONDS: Final = 10.0
"""Bound of the statements between chunks: they take milliseconds on a server that is well."""


@dataclass(frozen=True, slots=True)
class Report:
    """How an operation is, for whoever watches its worker.

    Attributes:
        status: As last read or committed.
        waiting_for: Why it does not go on right now, in words; None while it does.
        elsewhere: Whether it is not this process that does it.
    """

    status: OperationStatus
    waiting_for: str | None = None
    elsewhere: bool = False


class ClaimLost(Exception):
    """The operation is somebody else's by now, or paused, cancelled, done or deleted."""


class Runner:
    """Carries out one claim.

    Args:
        pool: Connections of the worker's own.
        owner: The worker.
        claim: What it has claimed.
        start: Makes what does its chunks.
        report: Told of every change.
        emit: Takes its events.
        stop: Set when the operation is to be laid down after the present chunk.
        patience: Seconds the database may be away at a time; None: for ever.
    """

    def __init__(
        self,
        pool: Pool,
        owner: Owner,
        claim: Claim,
        start: Callable[[], Run],
        *,
        report: Callable[[Report], None],
        emit: Callable[[Event], None],
        stop: asyncio.Event,
        patience: float | None = None,
    ) -> None:
        self._pool = pool
        self._owner = owner
        self._claim = claim
        self._start = start
        self._run: Run
        self._report = report
        self._emit = emit
        self._stop = stop
        self._patience = patience
        self._status = claim.status
        self._size: ChunkSize | None = None
        self._sessions = Sessions(pool)
        self._attached = False
        self._beginning = False
        self._outages = 0
        self._failures = 0
        self._fruitless = 0
        self._in_chunk = False
        self._away_since: float | None = None
        self._last_sign = monotonic()
        self._working: asyncio.Task[Any] | None = None
        self._claim_lost = False

    async def carry_out(self) -> OperationStatus:
        """Go on until the operation is done, fails, is laid down, or is not ours any more.

        Returns what is known of it then. Cancelling it lays the operation down within a second,
        if the database answers; else its lease will end.

        Raises:
            OperationError: It has failed, or cannot be done by this process.
            DatabaseUnavailableError: The database was away for longer than ``patience``.
        """
        heartbeat = asyncio.ensure_future(self._keep_claim())
        try:
            return await self._carry_out()
        except ClaimLost:
            return await self._look()
        except NotHereError as error:
            await self._give_up(Store.leave, error)
            raise
        except OperationError as error:
            await self._give_up(Store.fail, error)
            raise
        except asyncio.CancelledError:
            self._let_go()
            with contextlib.suppress(Exception):
                await bounded(self._leave(), 1.0)
            raise
        finally:
            heartbeat.cancel()
            self._let_go()
            await asyncio.wait({heartbeat})

    async def _carry_out(self) -> OperationStatus:
        self._run = self._start()
        try:
            sizing = self._run.sizing
            self._size = None if sizing is None else ChunkSize(sizing)
            return await self._to_the_end()
        finally:
            await self._run.close()
            self._sessions.reads_no_more()

    async def _to_the_end(self) -> OperationStatus:
        if self._claim.fruitless > MOST_FRUITLESS:
            raise OperationFailedError(
                f"{self._claim.fruitless - 1} workers in a row have claimed this operation and "
                "committed nothing of it, the last one at "
                f"{self._status.owner_place}. Suggestion: look into the logs of PostgreSQL and of "
                "the workers for what ends them at this chunk, then retry the operation."
            )
        if self._claim.taken_from not in {None, self._owner.id}:
            taken_from = str(self._claim.taken_from)
            await self._between_chunks(lambda c: self._end_sessions_of(c, taken_from))
        while True:
            if self._stop.is_set():
                await self._between_chunks(
                    lambda c: Store.leave(c, self._status.id, self._status.epoch)
                )
                return await self._look()
            try:
                done = await self._interruptible(self._next_chunk())
            except (ClaimLost, OperationError):
                raise
            except Exception as error:  # noqa: BLE001 - raised again or answered there
                if isinstance(error, ConnectionPoolError) and not self._in_chunk:
                    await self._wait_for_database(error)
                else:
                    await self._after_failure(error)
                continue
            self._away_since = None
            self._report(Report(self._status))
            if done:
                return self._status

    # One chunk --------------------------------------------------------------------------------

    async def _next_chunk(self) -> bool:
        self._in_chunk = False
        if self._sessions.any_lost:
            self._let_go()
        lease = await self._sessions.for_chunks()
        if not self._attached:
            await self._attach(lease)
        if isinstance(self._run, ThrottledRun):
            await self._hold(self._run, lease)
            if self._stop.is_set():
                return False
        session: TransactionalSession = session_of(lease)
        if isinstance(self._run, ReadAheadRun):
            readers = await self._sessions.for_reading(self._run.readers)
            self._run.read_with(readers, self._bounds(session), self._sessions.cut_off)
        size = 0 if self._size is None else self._size.size
        started = monotonic()
        transaction = await session.begin(
            lease, isolation="read_committed", readonly=False, deferrable=False
        )
        try:
            await session.run_script(self._bounds(session))
            self._in_chunk = True
            chunk = await self._run.chunk(lease, size)
            after = await self._checkpoint(lease, chunk)
        except asyncio.CancelledError:
            # Whoever cancels may be about to close everything: this must not wait.
            self._sessions.cut_off(lease)
            raise
        except BaseException:
            await self._undo(session, transaction)
            raise
        await self._commit(transaction)
        self._status = after
        self._last_sign = monotonic()
        if self._size is not None:
            self._size.took(size if chunk.size is None else chunk.size, monotonic() - started)
        if chunk.progresses:
            self._failures = self._fruitless = 0
        await self._run.committed(chunk)
        return chunk.done

    async def _hold(self, run: ThrottledRun, lease: Any) -> None:
        """Wait for as long as the run is considerate; the heartbeat keeps the claim meanwhile."""
        told = False
        while not self._stop.is_set() and (hold := await run.hold(lease)) is not None:
            if hold.reason is not None:
                told = True
                self._report(Report(self._status, hold.reason))
            await self._sleep(hold.seconds)
        if told:
            self._report(Report(self._status))

    async def _attach(self, lease: Any) -> None:
        """What is remembered may be wrong: a COMMIT without an answer may have been carried out."""
        if left_behind := self._sessions.left_behind:
            await self._end_sessions_of(lease, self._owner.id, left_behind)
            left_behind.clear()
        status = await Store.attach(
            lease,
            self._status.id,
            self._status.epoch,
            lease=self._owner.lease_seconds,
            outages=self._outages,
        )
        if status is None:
            raise ClaimLost
        if self._outages:
            self._emit(
                OperationResumed(
                    pool=self._pool.name,
                    operation=status.name,
                    kind=status.kind,
                    seq=status.seq,
                    rows_done=status.rows_done,
                    elapsed_seconds=monotonic() - self._last_sign,
                )
            )
        self._outages = 0
        self._status = status
        self._last_sign = monotonic()
        # It may have to read gigabytes to get there: the claim is kept meanwhile.
        self._beginning = True
        try:
            await self._run.begin(lease, status.cursor)
        finally:
            self._beginning = False
        self._attached = True
        self._report(Report(status))

    async def _checkpoint(self, lease: Any, chunk: Chunk) -> OperationStatus:
        after = await Store.checkpoint(lease, self._status, chunk, lease=self._owner.lease_seconds)
        if after is None:
            raise ClaimLost
        return after

    def _bounds(self, session: TransactionalSession) -> str:
        major = session.server_version.partition(".")[0]
        return bounds(self._owner.lease_seconds, int(major) if major.isdecimal() else 0)

    async def _commit(self, transaction: OpenTransaction) -> None:
        """Never cancelled; what became of it is read from the checkpoint if the answer is lost."""
        # Until the answer is here, memory and database may differ.
        self._attached = False
        tag = await transaction.finish("commit", self._owner.lease_seconds)
        if tag != "COMMIT":
            raise OperationFailedError(
                f"The server answered COMMIT with {tag}: a statement of the chunk had failed and "
                "its error was swallowed, so nothing of the chunk was committed. Suggestion: let "
                "errors leave the step, or put a statement that may fail into a block of its own "
                "(`async with connection.transaction():`)."
            )
        self._attached = True

    @staticmethod
    async def _undo(session: TransactionalSession, transaction: OpenTransaction) -> None:
        if session.is_closed():
            return
        with contextlib.suppress(Exception):
            await bounded(transaction.roll_back(), QUIET_SECONDS, give_up=session.abort)

    def _let_go(self) -> None:
        self._attached = False
        self._sessions.let_go()

    # When it does not go on -------------------------------------------------------------------

    async def _after_failure(self, error: Exception) -> None:
        """Decide whether the chunk is tried again.

        Raises:
            OperationError: It is not.
        """
        lost = self._sessions.any_lost
        self._attached = False
        code = sqlstate_of(error) if is_driver_error(error) else None
        again = code in LOST or code in CONFLICTS or code == READ_ONLY_TRANSACTION
        # A step may use a pool of its own, which may be busy.
        if not (lost or again or isinstance(error, ConnectionPoolError)):
            if isinstance(error, OSError | TimeoutError) and not self._sessions.has_one_for_chunks:
                lost = True
            else:
                raise refusal(error, self._status) from error
        if code == READ_ONLY_TRANSACTION and self._sessions.has_one_for_chunks:
            # It stays so for this session, whatever becomes of the server.
            self._sessions.throw_away("read_only")
            self._let_go()
        if lost or code in LOST:
            self._outages += 1
            self._let_go()
        self._failures += 1
        if self._in_chunk and code != LOCK_NOT_AVAILABLE:
            # Before, it is the database that is unwell; a lock is waited for as long as it takes.
            self._fruitless += 1
        if self._size is not None and (self._fruitless > 1 or code in CONFLICTS):
            self._size.failed()
        reason = self._pool.reporter.describe(error)
        if self._fruitless >= MOST_FRUITLESS:
            raise OperationFailedError(
                f"The chunk at {self._status.cursor} has failed {self._fruitless} times in a row, "
                f"the last time with {reason}. What was committed before stays. Suggestion: look "
                "into PostgreSQL's log for the reason, then retry the operation: it goes on at "
                "this chunk.",
                operation=self._status.name,
            ) from error
        self._report(Report(self._status, reason))
        # The first time at once: the connection was lost, others are ready.
        pause = 0.0 if self._failures == 1 else FIRST_PAUSE * 2.0 ** min(self._failures, 10)
        await self._sleep(min(LONGEST_PAUSE, pause))

    async def _wait_for_database(self, error: ConnectionPoolError) -> None:
        """The pool has waited already, and goes on trying by itself."""
        if isinstance(error, PoolClosedError | PoolUsageError):
            raise error
        now = monotonic()
        if self._away_since is None:
            self._away_since = now - self._pool_waited(error)
        if self._patience is not None and now - self._away_since > self._patience:
            raise error
        self._report(Report(self._status, self._pool.reporter.describe(error)))
        await self._sleep(0.2)

    @staticmethod
    def _pool_waited(error: ConnectionPoolError) -> float:
        for name in ("outage_seconds", "waited"):
            seconds = getattr(error, name, None)
            if isinstance(seconds, float):
                return seconds
        return 0.0

    async def _sleep(self, seconds: float) -> None:
        """Pause, unless it is time to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # The claim --------------------------------------------------------------------------------

    async def _interruptible(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run a chunk so that the heartbeat can end it when the claim is lost."""
        ours = asyncio.current_task()
        assert ours is not None
        before = ours.cancelling()
        self._working = asyncio.ensure_future(work)
        try:
            done: bool = await self._working
        except asyncio.CancelledError:
            if self._claim_lost and ours.cancelling() == before:
                raise ClaimLost from None
            raise
        finally:
            if not self._working.done():
                self._working.cancel()
                await asyncio.wait({self._working})
            self._working = None
        return done

    async def _keep_claim(self) -> None:
        """Prolong the claim in chunks that take long, on a connection of its own."""
        interval = self._owner.heartbeat_seconds
        while True:
            await asyncio.sleep(interval)
            if monotonic() - self._last_sign < interval or not self._has_claim():
                continue
            try:
                lease = await self._pool.wait(interval)
                try:
                    holds = await bounded(
                        Store.heartbeat(
                            lease,
                            self._status.id,
                            self._status.epoch,
                            lease=self._owner.lease_seconds,
                        ),
                        interval,
                        give_up=session_of(lease).abort,
                    )
                finally:
                    self._pool.release(lease)
            except (ConnectionPoolError, OSError):
                continue
            except Exception as error:
                if is_driver_error(error):
                    continue
                raise
            self._last_sign = monotonic()
            if not holds and self._working is not None and self._has_claim():
                self._claim_lost = True
                self._working.cancel()
                return

    def _has_claim(self) -> bool:
        """Whether the claim is known to hold: not while the answer to a COMMIT is missing."""
        return self._attached or self._beginning

    @staticmethod
    async def _end_sessions_of(
        connection: Any, owner: str, backends: Collection[int] | None = None
    ) -> None:
        try:
            await Store.terminate(connection, owner, backends)
        except Exception as error:
            # Not allowed to: their locks are waited for, and end by the bounds of each chunk.
            if not is_driver_error(error) or connection.is_closed():
                raise

    async def _give_up(
        self,
        how: Callable[[Any, UUID, int, str], Coroutine[Any, Any, None]],
        error: OperationError,
    ) -> None:
        try:
            await self._between_chunks(
                lambda connection: how(connection, self._status.id, self._status.epoch, str(error))
            )
        except Exception:
            # What ended the operation is raised; that it cannot be noted must not hide it.
            _logger.exception("the end of operation %r could not be noted", self._status.name)

    async def _leave(self) -> None:
        lease = await self._pool.wait(QUIET_SECONDS)
        try:
            await Store.leave(lease, self._status.id, self._status.epoch)
        finally:
            self._pool.release(lease)

    async def _look(self) -> OperationStatus:
        """What the database says of the operation now."""
        found: list[OperationStatus | None] = []

        async def look(connection: Any) -> None:
            found.append(await Store.find(connection, str(self._status.id)))

        await self._between_chunks(look)
        if not found or found[-1] is None:
            return self._status
        self._report(Report(found[-1]))
        return found[-1]

    async def _between_chunks(self, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Run a statement that may be repeated, until the database has answered it.

        Not for longer than the pool holds callers in an outage: whoever comes next finds the lease.
        """
        self._let_go()
        for attempt in range(MOST_FRUITLESS):
            try:
                lease = await self._pool.wait(None)
            except ConnectionPoolError:
                return
            session = session_of(lease)
            try:
                await bounded(work(lease), QUIET_SECONDS, give_up=session.abort)
            except Exception as error:
                lost = session.is_closed() and (
                    is_driver_error(error) or isinstance(error, OSError)
                )
                conflict = is_driver_error(error) and sqlstate_of(error) in CONFLICTS
                if not (lost or conflict):
                    raise
                await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt))
            else:
                return
            finally:
                self._pool.release(lease)
