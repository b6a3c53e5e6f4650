"""The endpoints of ``/v1/operations``: what each understands, and who may."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from poolkeeper.server.api.endpoints import NativeEndpoint
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.operations.jobs import (
    ControlJob,
    CreateJob,
    DeleteJob,
    EventsJob,
    ListJob,
    RejectsJob,
    ShowJob,
)
from poolkeeper.server.operations.requests import DEFAULT_LIMIT, MOST, parse_create_request
from poolkeeper.server.status import ReadOnlyRefusedError

if TYPE_CHECKING:
    from poolkeeper.server.engine import Engine, Job, Visit
    from poolkeeper.server.parts import Parts


class OperationsEndpoint(NativeEndpoint):
    """An endpoint of this part."""

    route = "/v1/operations"

    def __init__(self, engine: Engine, parts: Parts) -> None:
        super().__init__(engine)
        self._parts = parts

    @staticmethod
    def _must_write(visit: Visit, what: str) -> None:
        if visit.read_only:
            raise ReadOnlyRefusedError(f"Only reading is allowed here, and {what} is more")

    @staticmethod
    def _key_in(visit: Visit) -> str:
        key: str = visit.scope["path_params"]["key"]
        if "\0" in key:
            raise BadRequestError(
                "The name of an operation holds no character NUL. Suggestion: leave out %00."
            )
        return key


class ListEndpoint(OperationsEndpoint):
    """``GET /v1/operations``."""

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        del body
        query = _query(visit, "all", "limit")
        return ListJob(self._parts, finished=_flag(query, "all"), limit=_limit(query))


class CreateEndpoint(OperationsEndpoint):
    """``POST /v1/operations``."""

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        self._must_write(visit, "beginning an operation")
        request = parse_create_request(body, self._parts.settings.operations_dir)
        return CreateJob(self._parts, request)


class ShowEndpoint(OperationsEndpoint):
    """``GET /v1/operations/{key}``."""

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        del body
        key = self._key_in(visit)
        return ShowJob(self._parts, key, statement=f"operation {key}")


class DeleteEndpoint(OperationsEndpoint):
    """``DELETE /v1/operations/{key}``."""

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        del body
        self._must_write(visit, "deleting an operation")
        key = self._key_in(visit)
        return DeleteJob(self._parts, key, statement=f"delete {key}")


class ControlEndpoint(OperationsEndpoint):
    """``POST /v1/operations/{key}/pause`` and the other verbs."""

    def __init__(self, engine: Engine, parts: Parts, *, verb: str) -> None:
        super().__init__(engine, parts)
        self._verb = verb

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        del body
        self._must_write(visit, "steering an operation")
        return ControlJob(self._parts, self._key_in(visit), verb=self._verb)


class RejectsEndpoint(OperationsEndpoint):
    """``GET /v1/operations/{key}/rejects``."""

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        del body
        return RejectsJob(self._parts, self._key_in(visit), limit=_limit(_query(visit, "limit")))


class EventsEndpoint(OperationsEndpoint):
    """``GET /v1/operations/{key}/events``."""

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        del body
        key = self._key_in(visit)
        return EventsJob(self._parts, key, statement=f"events of {key}")


def _query(visit: Visit, *known: str) -> dict[str, str]:
    text = visit.scope.get("query_string", b"").decode("latin-1")
    query = dict(parse_qsl(text, keep_blank_values=True))
    strangers = [name for name in query if name not in known]
    if strangers:
        raise BadRequestError(
            f"`{strangers[0][:60]}` is no parameter of this path. "
            f"Suggestion: use {', '.join(f'`{name}`' for name in known)}."
        )
    return query


def _flag(query: dict[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in {"true", "false"}:
        raise BadRequestError(
            f"`{name}` is neither true nor false. Suggestion: ?{name}=true, or leave it out."
        )
    return value == "true"


def _limit(query: dict[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST and len(text) <= 9):
        raise BadRequestError(
            f"`limit` is not a number from 1 to {MOST}. Suggestion: ?limit={DEFAULT_LIMIT}"
        )
    return int(text)
