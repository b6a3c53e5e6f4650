"""Carries operations out beside the requests, and lays them down when the server goes down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.exceptions import ConnectionPoolError, PoolClosedError
from poolkeeper.observability.events import OperationEnded
from poolkeeper.operations.errors import OperationsUnavailableError
from poolkeeper.outcomes import is_driver_error
from poolkeeper.server.channel import ChannelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.observability.events import Event
    from poolkeeper.operations import Operations
    from poolkeeper.operations.runner import Report
    from poolkeeper.server.lifecycle import Lifecycle

_log = logging.getLogger("poolkeeper.server")

_SOON: Final = 1.0
_LATER: Final = 60.0
"""Until somebody may have mended what keeps this process from working."""

_LAST_CHUNK: Final = 2.0
"""Seconds a chunk gets to be committed when the server goes down; then it is undone, and whoever
goes on does it again."""

DEFAULT_CONCURRENCY: Final = 1


class OperationsWork:
    """The operations of one server process.

    Nothing of it exists, and nothing is asked of the database, before the first request that needs
    it, unless the operator wants operations carried out from the start.

    Args:
        pool: Whose ``operations`` they are.
        lifecycle: Of the server.
        concurrency: How many to carry out at a time; None: one, from the first request on that
            creates or resumes one.
        directory: Where they may read and write files; None: nowhere.

    Attributes:
        concurrency: How many this process carries out at a time.
        from_the_start: Whether it does so before anybody asks.
        known: Whether anybody has seen an operation here: then pages may ask for all of them.
    """

    def __init__(
        self,
        pool: ConnectionPoolManager,
        lifecycle: Lifecycle,
        *,
        concurrency: int | None = None,
        directory: Path | None = None,
    ) -> None:
        self._pool = pool
        self._lifecycle = lifecycle
        self._directory = directory
        self.concurrency = DEFAULT_CONCURRENCY if concurrency is None else concurrency
        self.from_the_start = bool(concurrency)
        self.known = self.from_the_start
        self._operations: Operations | None = None
        self._stop = asyncio.Event()
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reports: dict[UUID, Report] = {}
        self._listeners: list[Callable[[Report], object]] = []
        self._said: str | None = None

    @property
    def operations(self) -> Operations:
        """Those of the pool, kept to the files they may touch."""
        if self._operations is None:
            operations = self._pool.operations
            operations.confine_files(self._directory)
            self._operations = operations
            self._pool.add_event_listener(self._hear)
        return self._operations

    @property
    def working(self) -> bool:
        """Whether it looks for operations to carry out."""
        return self._task is not None and not self._stop.is_set()

    def add_listener(self, listener: Callable[[Report], object]) -> None:
        """Call ``listener`` with what becomes of operations this process works on."""
        self._listeners.append(listener)

    def running(self) -> list[Report]:
        """What this process works on."""
        return list(self._reports.values())

    def waiting_for(self, id_: UUID) -> str | None:
        """Why an operation does not go on right now, if this process works on it."""
        report = self._reports.get(id_)
        return None if report is None else report.waiting_for

    # Its life ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """The server serves: go on with what a dead one has left, if that is wanted."""
        siblings = self._lifecycle.siblings
        if self.from_the_start and (siblings is None or siblings.number == 0):
            self.start()

    async def wake(self) -> None:
        """There may be something to do. Of several processes behind one port one does it."""
        if not self.concurrency:
            return
        await self.wake_here()
        siblings = self._lifecycle.siblings
        if siblings is not None:
            # Not only the one that works: the supervisor remembers, for whoever takes its place.
            with contextlib.suppress(ChannelError):
                await siblings.everyone("work")

    async def wake_here(self) -> None:
        """One of the processes has been asked for something; does nothing in all but one."""
        siblings = self._lifecycle.siblings
        if siblings is None or siblings.number == 0:
            self.start()

    def start(self) -> None:
        """Look for work from now on."""
        self._again.set()
        if self.concurrency and self._task is None and not self._stop.is_set():
            self._task = asyncio.create_task(self._work())

    def stop(self) -> None:
        """Take up nothing more, and lay down what is at hand after its present chunk."""
        self._stop.set()

    async def end(self, timeout: float) -> None:
        """Return when everything is laid down and closed, after ``timeout`` seconds at the most."""
        self.stop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=min(_LAST_CHUNK, timeout))
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=max(0.0, deadline - loop.time()))
        if self._operations is None:
            return
        closing = asyncio.ensure_future(self._operations.close())
        await asyncio.wait({closing}, timeout=max(0.0, deadline - loop.time()))
        if not closing.done():
            # Whoever goes on finds the lease of what could not be laid down.
            self._operations.terminate()
            closing.cancel()
            await asyncio.wait({closing})

    async def _work(self) -> None:
        _log.info("operations_worker_started", extra={"concurrency": self.concurrency})
        while not self._stop.is_set():
            pause = _SOON
            self._again.clear()
            try:
                await self.operations.work(
                    concurrency=self.concurrency, report=self._report, stop=self._stop
                )
            except PoolClosedError:
                return
            except OperationsUnavailableError as error:
                pause = self._complain(error)
            except ConnectionPoolError as error:
                _log.debug("operations cannot be looked for: %s", error)
            except Exception as error:  # noqa: BLE001 - nobody else would start it again
                if is_driver_error(error):
                    pause = self._complain(error)
                else:
                    _log.error("operations_worker_failed", exc_info=error)
                    pause = _LATER
            self._reports.clear()
            if not self._stop.is_set():
                await self._pause(pause)

    def _complain(self, error: Exception) -> float:
        """Say once what somebody has to mend."""
        text = str(error)
        if text != self._said:
            self._said = text
            _log.warning("operations_unavailable", extra={"error": text})
        return _LATER

    async def _pause(self, seconds: float) -> None:
        """Less if the server goes down, or if somebody wants something done."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._stop, self._again)]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    # What is going on -------------------------------------------------------------------------

    def _report(self, report: Report) -> None:
        self._reports[report.status.id] = report
        for listener in self._listeners:
            listener(report)

    def _hear(self, event: Event) -> None:
        if isinstance(event, OperationEnded):
            over = [
                id_
                for id_, report in self._reports.items()
                if report.status.name == event.operation
            ]
            for id_ in over:
                del self._reports[id_]

    def to_dict(self) -> dict[str, Any]:
        """For ``/status``."""
        return {
            "concurrency": self.concurrency,
            "working": self.working,
            "running": [report.status.name for report in self._reports.values()],
        }
