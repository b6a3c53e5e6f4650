"""The endpoints of the native API: what each understands, and how it tells failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.server.answers import problem_answer
from poolkeeper.server.api.jobs import KeyedJob, OutcomeJob, QueryJob
from poolkeeper.server.api.keys import key_of, transaction_id
from poolkeeper.server.api.request import (
    TransactionRequest,
    parse_query_request,
    parse_transaction_request,
)
from poolkeeper.server.api.response import NDJSON
from poolkeeper.server.api.stream import StreamJob
from poolkeeper.server.neon.request import BadRequestError, refuse_lone_control
from poolkeeper.server.status import ReadOnlyRefusedError

if TYPE_CHECKING:
    from uuid import UUID

    from starlette.types import Receive, Scope, Send

    from poolkeeper.server.answers import Answer, Situation
    from poolkeeper.server.engine import Engine, Job, Visit


class NativeEndpoint:
    """An ASGI application; failures are problems as RFC 9457 has them."""

    route = ""
    error_type = b"application/problem+json"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._engine.serve(scope, receive, send, self)

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        raise NotImplementedError

    def failure(self, what: Situation) -> Answer:
        """See ``Dialect``."""
        return problem_answer(what)

    def _key(self, visit: Visit, *, readonly: bool) -> UUID | None:
        retention = self._engine.pool.config.ledger_retention
        key = key_of(visit.headers, visit.context.token, retention)
        if key is not None and (readonly or visit.read_only):
            raise BadRequestError(
                "A read-only transaction leaves no trace an Idempotency-Key could be found by. "
                "Suggestion: leave out the header: reading twice does no harm."
            )
        return key


class QueryEndpoint(NativeEndpoint):
    """``POST /v1/query``."""

    route = "/v1/query"

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        request = parse_query_request(body)
        query = request.query
        visit.declared_read_only = request.readonly
        key = self._key(visit, readonly=request.readonly)
        readonly = request.readonly or visit.read_only
        stream = NDJSON.decode() in visit.headers.get("accept", "").lower()
        refuse_lone_control(query)
        if stream:
            if key is not None:
                raise BadRequestError(
                    "A result cannot be streamed and its transaction have an Idempotency-Key. "
                    "Suggestion: leave out the key, or accept application/json."
                )
            return StreamJob(query, readonly=readonly)
        if key is None:
            return QueryJob(query, readonly=readonly)
        one = TransactionRequest((query,), isolation=None, readonly=False, deferrable=False)
        return KeyedJob(one, key, is_query=True)


class TransactionEndpoint(NativeEndpoint):
    """``POST /v1/transaction``."""

    route = "/v1/transaction"

    def parse(self, visit: Visit, body: bytes) -> Job:
        """See ``Dialect``."""
        request = parse_transaction_request(body)
        visit.declared_read_only = request.readonly
        return KeyedJob(request, self._key(visit, readonly=request.readonly))


class OutcomeEndpoint(NativeEndpoint):
    """``GET /v1/transactions/{id or key}``."""

    route = "/v1/transactions"

    def parse(self, visit: Visit, _body: bytes) -> Job:
        """See ``Dialect``."""
        if visit.read_only:
            raise ReadOnlyRefusedError(
                "Asking for the outcome of a transaction makes it final, which is written down"
            )
        key = visit.scope["path_params"]["key"]
        retention = self._engine.pool.config.ledger_retention
        return OutcomeJob(transaction_id(key, visit.context.token, retention))
