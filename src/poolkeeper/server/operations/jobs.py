"""What requests about operations do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.operations.worker import SENT_BEFORE
from poolkeeper.server.departure import ClientGoneError, WhileWanted
from poolkeeper.server.interrupt import DeadlineExceededError
from poolkeeper.server.operations.documents import (
    encoded,
    operation_document,
    operation_documents,
    reject_document,
)
from poolkeeper.server.operations.watch import END_MARK, ENDED
from poolkeeper.server.status import OperationInDoubtError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from poolkeeper.operations import Operation, Operations
    from poolkeeper.server.engine import Engine, Visit
    from poolkeeper.server.operations.requests import CreateRequest
    from poolkeeper.server.parts import Parts

T = TypeVar("T")

_JSON: Final = b"application/json"
_EVENTS: Final = b"text/event-stream"
_FRESH: Final = (b"cache-control", b"no-store")
_UNBUFFERED: Final = (b"x-accel-buffering", b"no")


class OperationJob:
    """One request; see ``Job``.

    Args:
        parts: Of the server.
        key: Name or id of an operation; empty where it is about none.
        statement: What it is about, for people.
    """

    writes = False

    def __init__(self, parts: Parts, key: str = "", *, statement: str) -> None:
        self._parts = parts
        self._key = key
        self.statement = statement

    @property
    def operations(self) -> Operations:
        """Those of the server."""
        return self._parts.operations.operations

    async def run(self, engine: Engine, visit: Visit) -> bytes | None:
        """See ``Job``."""
        visit.response_headers.append(_FRESH)
        return await self.answer(engine, visit)

    async def answer(self, engine: Engine, visit: Visit) -> bytes | None:
        """Do it; see ``Job.run``."""
        raise NotImplementedError

    async def within(self, visit: Visit, work: Awaitable[T]) -> T:
        """Await ``work`` for as long as the request may take and its client waits.

        Raises:
            DeadlineExceededError: It took longer.
            OperationInDoubtError: What it was to change may be changed, or not.
        """
        try:
            with WhileWanted(visit.leaving):
                async with asyncio.timeout_at(visit.deadline):
                    return await work
        except TimeoutError as error:
            if self.writes:
                raise OperationInDoubtError(
                    f"The request took longer than {visit.seconds:g} s"
                ) from error
            raise DeadlineExceededError from error
        except ConnectionPoolError as error:
            if self.writes and SENT_BEFORE in getattr(error, "__notes__", ()):
                raise OperationInDoubtError(
                    "The connection to the database was lost, and it has been away since"
                ) from error
            raise

    async def find(self, visit: Visit) -> Operation:
        """The operation the request is about."""
        return await self.within(visit, self.operations.get(self._key))

    def document(self, operation: Operation) -> dict[str, Any]:
        """It as JSON."""
        return operation_document(self._parts, operation.status)

    @staticmethod
    async def reply(
        engine: Engine, visit: Visit, status: int, body: bytes, content_type: bytes = _JSON
    ) -> None:
        """Answer with another status than 200."""
        engine.note_end(visit, status, None)
        await engine.reply(visit, status, body, content_type)


class ListJob(OperationJob):
    """All operations, or those that are not finished."""

    def __init__(self, parts: Parts, *, finished: bool, limit: int) -> None:
        super().__init__(parts, statement="operations")
        self._finished = finished
        self._limit = limit

    async def answer(self, _engine: Engine, visit: Visit) -> bytes:
        """See ``OperationJob``."""
        looked = self.operations.list(finished=self._finished, limit=self._limit)
        found = await self.within(visit, looked)
        return encoded({"operations": operation_documents(self._parts, found)})


class ShowJob(OperationJob):
    """One operation."""

    async def answer(self, _engine: Engine, visit: Visit) -> bytes:
        """See ``OperationJob``."""
        return encoded(self.document(await self.find(visit)))


class CreateJob(OperationJob):
    """A new operation, or the one of that name."""

    writes = True

    def __init__(self, parts: Parts, request: CreateRequest) -> None:
        super().__init__(parts, statement=str(request))
        self._request = request

    async def answer(self, engine: Engine, visit: Visit) -> None:
        """See ``OperationJob``."""
        operation = await self.within(visit, self._request.create(self.operations))
        if operation.status.state not in ENDED:
            await self._parts.operations.wake()
        place = f"/v1/operations/{quote(str(operation.status.id))}"
        visit.response_headers.append((b"location", place.encode()))
        status = 201 if operation.is_new else 200
        await self.reply(engine, visit, status, encoded(self.document(operation)))


class ControlJob(OperationJob):
    """Pause, resume, retry or cancel."""

    writes = True

    def __init__(self, parts: Parts, key: str, *, verb: str) -> None:
        super().__init__(parts, key, statement=f"{verb} {key}")
        self._verb = verb

    async def answer(self, _engine: Engine, visit: Visit) -> bytes:
        """See ``OperationJob``."""
        operation = await self.find(visit)
        await self.within(visit, getattr(operation, self._verb)())
        if self._verb in {"resume", "retry"}:
            await self._parts.operations.wake()
        return encoded(self.document(operation))


class DeleteJob(OperationJob):
    """Forget a finished operation."""

    writes = True

    async def answer(self, engine: Engine, visit: Visit) -> None:
        """See ``OperationJob``."""
        operation = await self.find(visit)
        await self.within(visit, operation.delete())
        await self.reply(engine, visit, 204, b"")


class RejectsJob(OperationJob):
    """The rows an operation has left out."""

    def __init__(self, parts: Parts, key: str, *, limit: int) -> None:
        super().__init__(parts, key, statement=f"rejects of {key}")
        self._limit = limit

    async def answer(self, _engine: Engine, visit: Visit) -> bytes:
        """See ``OperationJob``."""
        operation = await self.find(visit)
        rejects = await self.within(visit, operation.rejects(self._limit))
        return encoded(
            {
                "rows_rejected": operation.status.rows_rejected,
                "rejects": [reject_document(reject) for reject in rejects],
            }
        )


class EventsJob(OperationJob):
    """What becomes of an operation, as it happens."""

    async def answer(self, engine: Engine, visit: Visit) -> None:
        """See ``OperationJob``."""
        operation = await self.find(visit)
        seen = visit.headers.get("last-event-id", "")
        if seen.endswith(END_MARK) and operation.status.state in ENDED:
            # This alone keeps a browser's EventSource from coming back for ever.
            await self.reply(engine, visit, 204, b"")
            return
        # It holds no connection, and must not keep its token from sending other requests.
        engine.note_end(visit, 200, None)
        if visit.stay is not None:
            visit.stay.end()
            visit.stay = None
        visit.response_headers.append(_UNBUFFERED)
        await engine.start_reply(visit, 200, _EVENTS)
        if visit.scope["method"] == "HEAD":
            await visit.send({"type": "http.response.body", "body": b""})
            return
        following = self._parts.watches.follow(operation.status)
        # That its watcher leaves is how most streams end.
        with contextlib.suppress(ClientGoneError):
            async with contextlib.aclosing(following):
                with WhileWanted(visit.leaving):
                    async for frame in following:
                        await visit.send(
                            {"type": "http.response.body", "body": frame, "more_body": True}
                        )
        await visit.send({"type": "http.response.body", "body": b""})
