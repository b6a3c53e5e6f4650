"""``GET /openapi.json``: what programs, and those who generate them, need to know."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

import poolkeeper
from poolkeeper.server.api import openapi_operations
from poolkeeper.server.api.keys import LONGEST
from poolkeeper.server.api.request import ISOLATION_LEVELS
from poolkeeper.server.neon.request import MAX_PARAMETERS
from poolkeeper.server.status import OUR_BUG, RULES, SQL_RULES

if TYPE_CHECKING:
    from starlette.requests import Request

Schema = dict[str, Any]


async def serve_openapi(_request: Request) -> Response:
    """Send the document."""
    return Response(encoded(), media_type="application/json")


@cache
def encoded() -> bytes:
    """The document as JSON."""
    return json.dumps(document(), ensure_ascii=False).encode()


def document() -> Schema:
    """The API as OpenAPI 3.1 describes it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "poolkeeper",
            "version": poolkeeper.__version__,
            "description": "A PostgreSQL database over HTTP. 503: nothing was executed or all of "
            "it was rolled back, and sending the request again is safe. 502: the outcome is "
            "unknown.",
        },
        "paths": {
            "/v1/query": {"post": _query()},
            "/v1/transaction": {"post": _transaction()},
            "/v1/transactions/{key}": {"get": _outcome()},
            "/sql": {"post": _sql()},
            **openapi_operations.paths(_failures(_OF_OPERATIONS), _TIMEOUT),
        },
        "components": {
            "schemas": {**SCHEMAS, **openapi_operations.SCHEMAS},
            "headers": HEADERS,
            "responses": _responses(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # Without a token set, none is asked for.
        "security": [{"token": []}, {}],
    }


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(properties: Schema, *required: str, closed: bool = True, **more: Any) -> Schema:
    schema = {"type": "object", "properties": properties, "required": list(required), **more}
    return {**schema, "additionalProperties": False} if closed else schema


_PARAMS = {
    "type": ["array", "null"],
    "maxItems": MAX_PARAMETERS,
    "items": {},
    "description": "Values of $1, $2 …: strings pass as they are, arrays become array literals, "
    "other values their JSON text; null is NULL.",
}
_STATEMENT = {"type": "string", "description": "One SQL statement.", "examples": ["select 1"]}
_ROWS = {"enum": ["objects", "arrays", None], "description": "What a row is; objects by default."}
_FLAG = {"type": ["boolean", "null"]}
_COUNT = {"type": ["integer", "null"], "minimum": 0}
_RESULT = {
    "columns": {"type": ["array", "null"], "items": _ref("schemas", "Column")},
    "rows": {"type": ["array", "null"], "items": {"type": ["object", "array"]}},
    "row_count": _COUNT,
    "command": {"type": ["string", "null"], "examples": ["INSERT"]},
}
_COMMITTED = {
    "transaction_id": {"type": ["string", "null"], "format": "uuid"},
    "outcome": {"const": "committed"},
}
_KINDS = sorted({rule.kind for rule in (*RULES.values(), *SQL_RULES.values(), OUR_BUG)})

SCHEMAS: Schema = {
    "Query": _object(
        {"query": _STATEMENT, "params": _PARAMS, "rows": _ROWS, "readonly": _FLAG}, "query"
    ),
    "Transaction": _object(
        {
            "statements": {
                "type": "array",
                "items": _object({"query": _STATEMENT, "params": _PARAMS}, "query"),
            },
            "isolation": {"enum": [*ISOLATION_LEVELS, None]},
            "readonly": _FLAG,
            "deferrable": _FLAG,
            "rows": _ROWS,
        },
        "statements",
    ),
    "Column": _object(
        {
            "name": {"type": "string"},
            "type_oid": {"type": "integer"},
            "type": {"type": ["string", "null"], "description": "Null for types of the database."},
        },
        "name",
        "type_oid",
        "type",
    ),
    "Result": _object(_RESULT, *_RESULT),
    "QueryResult": _object(
        {**_RESULT, **_COMMITTED},
        *_RESULT,
        description="With an Idempotency-Key: the id of its transaction, too. If that was "
        "committed before, its result is null.",
    ),
    "TransactionResult": _object(
        {
            **_COMMITTED,
            "results": {
                "type": ["array", "null"],
                "items": _ref("schemas", "Result"),
                "description": "Null if the transaction was committed before: results are not "
                "kept.",
            },
        },
        *_COMMITTED,
        "results",
    ),
    "Outcome": _object(
        {
            "transaction_id": {"type": "string", "format": "uuid"},
            "outcome": {"enum": ["committed", "aborted"]},
        },
        "transaction_id",
        "outcome",
    ),
    "Problem": _object(
        {
            "type": {"type": "string", "examples": [f"urn:poolkeeper:problem:{_KINDS[0]}"]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "instance": {"type": "string"},
            "code": {"type": ["string", "null"], "description": "SQLSTATE."},
            "outcome": {"enum": ["not_executed", "rolled_back", "executed", "unknown"]},
            "retryable": {"type": "boolean"},
            "retry_after": {"type": "integer", "minimum": 1},
            "request_id": {"type": "string"},
            "transaction_id": {"type": "string", "format": "uuid"},
            "postgres": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "What PostgreSQL said: message, detail, hint, constraint …",
            },
        },
        "type",
        "title",
        "status",
        "detail",
        closed=False,
        description=f"RFC 9457. Kinds: {', '.join(_KINDS)}.",
    ),
    "SqlRequest": {
        "anyOf": [
            _object({"query": _STATEMENT, "params": _PARAMS}, "query", closed=False),
            _object(
                {
                    "queries": {
                        "type": "array",
                        "items": _object(
                            {"query": _STATEMENT, "params": _PARAMS, "arrayMode": _FLAG},
                            "query",
                            closed=False,
                        ),
                    }
                },
                "queries",
                closed=False,
            ),
        ]
    },
    "SqlResult": _object(
        {
            "fields": {"type": "array", "items": {"type": "object"}},
            "rows": {"type": "array", "items": {"type": ["object", "array"]}},
            "command": {"type": "string"},
            "rowCount": _COUNT,
            "rowAsArray": {"type": "boolean"},
        },
        "fields",
        "rows",
        "command",
        "rowCount",
        "rowAsArray",
    ),
    "SqlResults": _object(
        {"results": {"type": "array", "items": _ref("schemas", "SqlResult")}}, "results"
    ),
    "SqlError": _object(
        {"message": {"type": "string"}, "code": {"type": "string"}},
        "message",
        "code",
        closed=False,
        description="Neon's fields and those of a problem.",
    ),
}

HEADERS: Schema = {
    "Retry-After": {
        "description": "Seconds after which sending the request again makes sense.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Idempotent-Replayed": {
        "description": "The transaction with this key was committed by an earlier request.",
        "schema": {"const": "true"},
    },
    "WWW-Authenticate": {"schema": {"type": "string"}},
}

_OF_OPERATIONS = {404: "No operation has that name or id", 422: "It cannot be done as asked for"}
_STATUSES = {
    400: "It cannot be understood, or PostgreSQL refused a statement",
    401: "No token, or a wrong one",
    403: "Not allowed to this client or role",
    408: "The body did not arrive in time",
    409: "In conflict with other data, other transactions, or another use of the key",
    413: "The request is too large",
    429: "The token's limits",
    500: "A bug",
    501: "No table for it, and no right to make one: nothing was executed",
    502: "The outcome is unknown",
    503: "It had no effect; sending it again is safe",
    504: "The deadline: rolled back",
    507: "The result is too large",
}


def _responses() -> Schema:
    problem = {"application/problem+json": {"schema": _ref("schemas", "Problem")}}
    responses: Schema = {}
    for status, words in sorted((_STATUSES | _OF_OPERATIONS).items()):
        headers: Schema = {}
        if status in {409, 429, 503}:
            headers = {"Retry-After": _ref("headers", "Retry-After")}
        if status == 401:
            headers = {"WWW-Authenticate": _ref("headers", "WWW-Authenticate")}
        responses[str(status)] = {"description": words, "content": problem, "headers": headers}
    return responses


def _failures(more: dict[int, str] | None = None) -> Schema:
    statuses = sorted(_STATUSES | (more or {}))
    return {str(status): _ref("responses", str(status)) for status in statuses}


def _header(name: str, schema: Schema, words: str) -> Schema:
    return {"name": name, "in": "header", "schema": schema, "description": words}


_TIMEOUT = _header(
    "X-Timeout-Ms",
    {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
    "Milliseconds the request may take; bounded by the server's limit.",
)
_KEY = _header(
    "Idempotency-Key",
    {"type": "string", "pattern": f"^[!-~]{{1,{LONGEST}}}$"},
    "Of all transactions with the same key one at most takes effect. A UUID is the id of the "
    "transaction itself.",
)


def _body(schema: str) -> Schema:
    content = {"application/json": {"schema": _ref("schemas", schema)}}
    return {"required": True, "content": content}


def _ok(words: str, content: Schema) -> Schema:
    return {"description": words, "content": content}


def _query() -> Schema:
    lines = {
        "type": "string",
        "description": 'Lines of JSON: {"columns": …}, {"row": …} …, and as the last one '
        '{"end": {"row_count": …, "command": …}} or {"error": <problem>}. Without either the '
        "stream is cut off.",
    }
    ok = _ok(
        "The result.",
        {
            "application/json": {"schema": _ref("schemas", "QueryResult")},
            "application/x-ndjson": {"schema": lines},
        },
    )
    ok["headers"] = {"Idempotent-Replayed": _ref("headers", "Idempotent-Replayed")}
    return {
        "operationId": "query",
        "summary": "Run one statement",
        "parameters": [_TIMEOUT, _KEY],
        "requestBody": _body("Query"),
        "responses": {"200": ok, **_failures()},
    }


def _transaction() -> Schema:
    ok = _ok("Committed.", {"application/json": {"schema": _ref("schemas", "TransactionResult")}})
    ok["headers"] = {"Idempotent-Replayed": _ref("headers", "Idempotent-Replayed")}
    return {
        "operationId": "transaction",
        "summary": "Run statements that take effect together, once",
        "parameters": [_TIMEOUT, _KEY],
        "requestBody": _body("Transaction"),
        "responses": {"200": ok, **_failures()},
    }


def _outcome() -> Schema:
    key = {
        "name": "key",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "description": "A transaction_id, or an Idempotency-Key of the same token.",
    }
    ok = _ok("The outcome.", {"application/json": {"schema": _ref("schemas", "Outcome")}})
    return {
        "operationId": "transactionOutcome",
        "summary": "Say what became of a transaction, and make it final",
        "description": "After `aborted` it can never commit, even if it is still running.",
        "parameters": [key, _TIMEOUT],
        "responses": {"200": ok, **_failures()},
    }


def _sql() -> Schema:
    true = {"enum": ["true", "false"]}
    levels = ["ReadUncommitted", "ReadCommitted", "RepeatableRead", "Serializable"]
    either = {"anyOf": [_ref("schemas", "SqlResult"), _ref("schemas", "SqlResults")]}
    failure = {"application/json": {"schema": _ref("schemas", "SqlError")}}
    told = [status for status in _STATUSES if status not in {401, 403, 501, 504}]
    return {
        "operationId": "sql",
        "summary": "Neon's SQL-over-HTTP protocol",
        "parameters": [
            _TIMEOUT,
            _header("Neon-Raw-Text-Output", true, "Every value as PostgreSQL's text."),
            _header("Neon-Array-Mode", true, "Rows as arrays."),
            _header("Neon-Batch-Isolation-Level", {"enum": levels}, "Of a batch."),
            _header("Neon-Batch-Read-Only", true, "Of a batch."),
            _header("Neon-Batch-Deferrable", true, "Of a batch."),
        ],
        "requestBody": _body("SqlRequest"),
        "responses": {
            "200": _ok("The result.", {"application/json": {"schema": either}}),
            **{
                str(status): {"description": _STATUSES[status], "content": failure}
                for status in told
            },
        },
    }
