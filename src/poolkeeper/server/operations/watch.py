"""What those who watch an operation are told: looked up once for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.exceptions import ConnectionPoolError, PoolClosedError
from poolkeeper.operations.errors import OperationNotFoundError
from poolkeeper.operations.model import OperationState
from poolkeeper.outcomes import is_driver_error
from poolkeeper.server.operations.documents import encoded, operation_document
from poolkeeper.server.telling import told

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from uuid import UUID

    from poolkeeper.operations.model import OperationStatus
    from poolkeeper.operations.runner import Report
    from poolkeeper.server.parts import Parts

_INTERVAL: Final = 0.5
_SLOW: Final = 1.0
"""A look that takes longer is worth telling: usually it takes a millisecond."""

HEARTBEAT: Final = 10.0
"""Proxies and clients give up on connections that say nothing for long."""

_BEAT: Final = b": still there\n\n"
_RETRY: Final = b"retry: 1000\n\n"
END_MARK: Final = "-end"
"""What the id of the last event ends with."""

ENDED: Final = frozenset({OperationState.DONE, OperationState.FAILED, OperationState.CANCELLED})
"""Nothing happens any more, unless a person wants it."""


class Watches:
    """The operations that somebody watches right now.

    Args:
        parts: Of the server; read later, because this is one of them.
    """

    def __init__(self) -> None:
        self.parts: Parts
        self._watches: dict[UUID, _Watch] = {}

    def hear(self, report: Report) -> None:
        """Take what a worker of this process says of an operation."""
        watch = self._watches.get(report.status.id)
        if watch is not None:
            watch.hear(report)

    async def follow(self, status: OperationStatus) -> AsyncGenerator[bytes]:
        """Server-sent events about an operation, from how it is now to its end.

        They end without an ``end`` when the server goes down.

        Args:
            status: The operation as just read.
        """
        yield _RETRY
        watch = self._watches.get(status.id)
        if watch is None:
            watch = self._watches[status.id] = _Watch(self.parts, status)
        watch.watchers += 1
        try:
            seen = 0
            while True:
                news = watch.news
                for version, frame in watch.frames(seen):
                    seen = version
                    yield frame
                if watch.over:
                    return
                while not news.is_set():
                    try:
                        async with asyncio.timeout(HEARTBEAT):
                            await news.wait()
                    except TimeoutError:
                        yield _BEAT
        finally:
            watch.watchers -= 1
            if not watch.watchers:
                watch.close()
                self._watches.pop(status.id, None)


class _Watch:
    """One operation; each watcher learns the latest, not everything."""

    def __init__(self, parts: Parts, status: OperationStatus) -> None:
        self._parts = parts
        self._status = status
        self._version = 0
        self._frames: dict[str, tuple[int, bytes]] = {}
        self._reason: str | None = None
        self.watchers = 0
        self.over = False
        self.news = asyncio.Event()
        self._show(status)
        self._looking: asyncio.Task[None] | None = None
        if not self.over:
            self._looking = asyncio.create_task(self._look_on())

    def frames(self, seen: int) -> list[tuple[int, bytes]]:
        """The events newer than ``seen``, with their versions, in their order."""
        return sorted(frame for frame in self._frames.values() if frame[0] > seen)

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    def hear(self, report: Report) -> None:
        """Why it waits; how far it is, the next look tells."""
        if report.waiting_for is not None:
            self._wait(report.waiting_for)
        elif self._reason is not None:
            self._go_on(report.status)

    # Looking ----------------------------------------------------------------------------------

    async def _look_on(self) -> None:
        try:
            while not self.over:
                await asyncio.sleep(_INTERVAL)
                if self._parts.lifecycle.draining:
                    self._wait("The server is shutting down. Suggestion: connect again")
                    self._finish()
                else:
                    await self._look()
        finally:
            # Also when this fails: nobody must wait for what never comes.
            self._finish()

    async def _look(self) -> None:
        operations = self._parts.operations.operations
        look = asyncio.ensure_future(operations.get(str(self._status.id)))
        try:
            await asyncio.wait({look}, timeout=_SLOW)
            if not (look.done() or self._reason_here()):
                self._wait("The database does not answer")
            found = await look
        except OperationNotFoundError:
            self._end(self._status)
        except PoolClosedError:
            self._finish()
        except Exception as error:
            if not (isinstance(error, ConnectionPoolError | OSError) or is_driver_error(error)):
                raise
            # The worker says it better, if it is one of ours.
            if not self._reason_here():
                self._wait(told(error))
        else:
            reason = self._reason_here()
            if reason is None or found.status.state in ENDED:
                self._go_on(found.status)
            elif _seen(found.status) != _seen(self._status):
                # A chunk was committed whose answer the worker has lost: it waits all the same.
                self._status = found.status
                self._reason = None
                self._wait(reason)
        finally:
            look.cancel()

    def _reason_here(self) -> str | None:
        """Why the worker of this process waits, if it is the one."""
        return self._parts.operations.waiting_for(self._status.id)

    # Telling ----------------------------------------------------------------------------------

    def _go_on(self, status: OperationStatus) -> None:
        if self._reason is not None or _seen(status) != _seen(self._status):
            self._reason = None
            self._frames.pop("waiting", None)
            self._show(status)

    def _show(self, status: OperationStatus) -> None:
        self._status = status
        if status.state in ENDED:
            self._end(status)
        else:
            self._tell("progress", str(status.seq), self._document(status))

    def _wait(self, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            # What it waits for is not in the table.
            document = {**self._document(self._status), "waiting_for": reason}
            self._tell("waiting", str(self._status.seq), document)

    def _end(self, status: OperationStatus) -> None:
        if not self.over:
            self.over = True
            self._frames.clear()
            self._tell("end", f"{status.seq}{END_MARK}", self._document(status))

    def _finish(self) -> None:
        self.over = True
        self.news.set()

    def _document(self, status: OperationStatus) -> dict[str, Any]:
        return operation_document(self._parts, status)

    def _tell(self, name: str, id_: str, document: dict[str, Any]) -> None:
        self._version += 1
        frame = b"event: %s\nid: %s\ndata: %s\n\n" % (
            name.encode(),
            id_.encode(),
            encoded(document),
        )
        self._frames[name] = (self._version, frame)
        news, self.news = self.news, asyncio.Event()
        news.set()


def _seen(status: OperationStatus) -> tuple[Any, ...]:
    """What a change of is worth telling."""
    return (
        status.state,
        status.epoch,
        status.seq,
        status.bytes_done,
        status.outages,
        status.error,
        status.owner,
    )
