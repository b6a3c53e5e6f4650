"""A handle on one operation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from poolkeeper.operations.errors import OperationConflictError
from poolkeeper.operations.model import OperationState, OperationStatus
from poolkeeper.operations.store import Store
from poolkeeper.operations.worker import POLL_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from poolkeeper.operations.facade import Operations
    from poolkeeper.operations.runner import Report


class Operation:
    """One operation in the database; cheap, and several may stand for the same one.

    Attributes:
        status: The operation as this object has seen it last.
        is_new: Whether the call that returned this has created it, and not found it.
    """

    def __init__(
        self, operations: Operations, status: OperationStatus, *, is_new: bool = False
    ) -> None:
        self._operations = operations
        self.status = status
        self.is_new = is_new

    def __repr__(self) -> str:
        return f"<Operation {self.name!r} {self.status.state.value}>"

    @property
    def name(self) -> str:
        """What people call it."""
        return self.status.name

    async def run(
        self,
        *,
        report: Callable[[Report], None] | None = None,
        stop: asyncio.Event | None = None,
        patience: float | None = None,
    ) -> OperationStatus:
        """Carry it out to its end, through every lost connection; returns how it ended.

        Where another worker is at it, this waits, and takes over if that worker dies. Several
        calls, in any processes, are as good as one. Cancelling it lays the operation down at its
        last checkpoint, within about a second.

        Args:
            report: Called with every change, from the event loop; must not block.
            stop: Set it to lay the operation down after the present chunk; then what is returned
                is not ``done``.
            patience: Seconds the database may be away at a time; None waits for as long as it
                takes.

        Raises:
            OperationFailedError: It has failed; what was committed stays, and ``retry`` goes on.
            OperationStoppedError: Somebody has paused or cancelled it.
            NotHereError: Its file or its step is not to be found in this process.
            ConnectionPoolError: The database was away for longer than ``patience``.
        """

        def see(what: Report) -> None:
            self.status = what.status
            if report is not None:
                report(what)

        self.status = await self._operations._employ(
            1,
            lambda worker: worker.see_through(
                self.status,
                report=see,
                stop=stop or asyncio.Event(),
                patience=patience,
            ),
        )
        return self.status

    async def refresh(self) -> OperationStatus:
        """Read it from the database.

        Raises:
            OperationNotFoundError: It has been deleted.
        """
        self.status = (await self._operations.get(str(self.status.id))).status
        return self.status

    async def watch(self, interval: float = POLL_SECONDS) -> AsyncIterator[OperationStatus]:
        """Yield its status now and after every change, until it has ended or failed.

        Args:
            interval: Seconds between two looks.
        """
        last: OperationStatus | None = None
        while True:
            status = await self.refresh()
            if last is None or _visible(last) != _visible(status):
                yield status
            last = status
            if status.finished or status.state is OperationState.FAILED:
                return
            await asyncio.sleep(interval)

    async def pause(self) -> OperationStatus:
        """Let nobody work on it until ``resume``; the chunk at hand is undone."""
        return await self._move(OperationState.PAUSED)

    async def resume(self) -> OperationStatus:
        """Let workers claim it again."""
        return await self._move(OperationState.PENDING, of=OperationState.PAUSED)

    async def retry(self) -> OperationStatus:
        """Let workers claim it again after it has failed; it goes on at its checkpoint."""
        return await self._move(OperationState.PENDING, of=OperationState.FAILED)

    async def cancel(self) -> OperationStatus:
        """Give it up for good; what was committed stays."""
        return await self._move(OperationState.CANCELLED)

    async def delete(self) -> None:
        """Forget it, with its rejects, when it is done or cancelled.

        Raises:
            OperationConflictError: It is not.
        """
        if not await self._operations._ask(lambda c: Store.delete(c, self.status.id)):
            status = await self._operations._find(str(self.status.id))
            if status is not None:
                raise OperationConflictError(
                    f"The operation {status.name!r} is {status.state.value}; only those that are "
                    "done or cancelled can be deleted. Suggestion: cancel it first.",
                    operation=status.name,
                )

    async def rejects(self, limit: int = 100) -> list[dict[str, Any]]:
        """Rows that were left out: ``line``, ``raw``, ``sqlstate`` and ``message`` of each."""
        rows: list[dict[str, Any]] = await self._operations._ask(
            lambda connection: Store.rejects(connection, self.status.id, limit)
        )
        return rows

    async def _move(
        self, state: OperationState, of: OperationState | None = None
    ) -> OperationStatus:
        if of is not None:
            status = await self.refresh()
            if status.state is not of and status.state not in {state, OperationState.RUNNING}:
                raise self._refused(status, state)
        moved: OperationStatus | None = await self._operations._ask(
            lambda connection: Store.move(connection, self.status.id, state)
        )
        if moved is not None:
            self.status = moved
            return moved
        status = await self.refresh()
        already = {state} | ({OperationState.RUNNING} if of else set())
        if status.state not in already:
            raise self._refused(status, state)
        return status

    @staticmethod
    def _refused(status: OperationStatus, wanted: OperationState) -> OperationConflictError:
        advice = {
            OperationState.FAILED: "retry it",
            OperationState.PAUSED: "resume it",
            OperationState.DONE: "begin a new operation",
            OperationState.CANCELLED: "begin a new operation",
        }.get(status.state, "wait until it ends")
        return OperationConflictError(
            f"The operation {status.name!r} is {status.state.value} and cannot become "
            f"{wanted.value}. Suggestion: {advice}.",
            operation=status.name,
        )


def _visible(status: OperationStatus) -> tuple[Any, ...]:
    return (
        status.state,
        status.epoch,
        status.seq,
        status.bytes_done,
        status.outages,
        status.error,
    )
