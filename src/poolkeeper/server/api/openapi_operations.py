"""What ``/openapi.json`` says of ``/v1/operations``."""

from __future__ import annotations

from typing import Any, Final

from poolkeeper.operations.model import OperationState
from poolkeeper.server.operations.requests import (
    DEFAULT_LIMIT,
    KINDS,
    LONGEST_NAME,
    MOST,
    REQUIRED,
    VERBS,
)

Schema = dict[str, Any]

_TEXT: Final = {"type": "string"}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}
_COUNT: Final = {"type": "integer", "minimum": 0}
_MAYBE_COUNT: Final = {"type": ["integer", "null"], "minimum": 0}
_OBJECT: Final = {"type": "object"}
_TIME: Final = {"type": "string", "format": "date-time"}
_MAYBE_TIME: Final = {"type": ["string", "null"], "format": "date-time"}
_PROPERTIES: Final[Schema] = {
    "id": {"type": "string", "format": "uuid"},
    "name": _TEXT,
    "kind": {"enum": list(KINDS)},
    "state": {"enum": [state.value for state in OperationState]},
    "spec": _OBJECT,
    "fingerprint": {"type": ["object", "null"]},
    "epoch": _COUNT,
    "seq": _COUNT,
    "cursor": _OBJECT,
    "rows_done": _COUNT,
    "rows_rejected": _COUNT,
    "rows_total": _MAYBE_COUNT,
    "bytes_done": _COUNT,
    "bytes_total": _MAYBE_COUNT,
    "fraction": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "elapsed_seconds": {"type": "number"},
    "owner": _MAYBE_TEXT,
    "owner_place": _MAYBE_TEXT,
    "lease_seconds": {"type": ["number", "null"]},
    "outages": _COUNT,
    "error": _MAYBE_TEXT,
    "waiting_for": {**_MAYBE_TEXT, "description": "Why it does not go on right now."},
    "created_at": _TIME,
    "started_at": _MAYBE_TIME,
    "updated_at": _TIME,
    "finished_at": _MAYBE_TIME,
    "at": {**_TIME, "description": "When the database was asked."},
}
_REJECT: Final[Schema] = {
    "type": "object",
    "properties": {
        "line": _MAYBE_COUNT,
        "sqlstate": _MAYBE_TEXT,
        "message": _TEXT,
        "truncated": {"type": "boolean"},
        "raw": _TEXT,
        "raw_base64": _TEXT,
    },
    "required": ["line", "sqlstate", "message", "truncated"],
}


def _create(kind: str) -> Schema:
    options: Schema = {
        name: {**schema, "type": [schema["type"], "null"]}
        if name not in REQUIRED[kind]
        else {**schema, "minLength": 1}
        for name, schema in KINDS[kind].items()
    }
    return {
        "type": "object",
        "properties": {
            "kind": {"const": kind},
            "name": {"type": ["string", "null"], "minLength": 1, "maxLength": LONGEST_NAME},
            **options,
        },
        "required": ["kind", *REQUIRED[kind]],
        "additionalProperties": False,
    }


SCHEMAS: Final[Schema] = {
    "CreateOperation": {"oneOf": [_create(kind) for kind in KINDS]},
    "Operation": {
        "type": "object",
        "properties": _PROPERTIES,
        "required": list(_PROPERTIES),
        "description": "As the database has it at the time `at`.",
    },
    "Operations": {
        "type": "object",
        "properties": {
            "operations": {"type": "array", "items": {"$ref": "#/components/schemas/Operation"}}
        },
        "required": ["operations"],
    },
    "Rejects": {
        "type": "object",
        "properties": {"rows_rejected": _COUNT, "rejects": {"type": "array", "items": _REJECT}},
        "required": ["rows_rejected", "rejects"],
    },
}

_KEY: Final[Schema] = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
    "description": "Id or name of an operation: of those called the same, the unfinished or else "
    "latest one.",
}
_LIMIT: Final[Schema] = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT_LIMIT},
}
_ALL: Final[Schema] = {
    "name": "all",
    "in": "query",
    "schema": {"type": "boolean", "default": False},
    "description": "Also those that are done or cancelled.",
}
_LAST_EVENT: Final[Schema] = {
    "name": "Last-Event-ID",
    "in": "header",
    "schema": {"type": "string", "pattern": "^[0-9]+(-end)?$"},
    "description": "That of an `end`, for an operation that has ended since, is answered with 204.",
}
_WORDS: Final = {
    "pause": "Let nobody work on it until it is resumed",
    "resume": "Let it go on after a pause",
    "retry": "Let it go on after a failure",
    "cancel": "Give it up; what was committed stays",
}


def paths(failures: Schema, timeout: Schema) -> Schema:
    """The paths.

    Args:
        failures: The responses every path may have.
        timeout: The parameter every path has.
    """
    one = "/v1/operations/{key}"

    def operation(
        id_: str, summary: str, ok: Schema, *parameters: Schema, body: Schema | None = None
    ) -> Schema:
        found: Schema = {
            "operationId": id_,
            "summary": summary,
            "parameters": [*parameters, timeout],
            "responses": {**ok, **failures},
        }
        return found if body is None else {**found, "requestBody": body}

    events = {
        "description": "Server-sent events: `progress`, `waiting` and at last `end`, each with the "
        "operation as its data.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    gone = {"description": "Nothing is left to tell."}
    created = _ok("It was created.", "Operation")
    created["headers"] = {"Location": {"schema": _TEXT}}
    found = _ok("There is one of that name, which does the same; it goes on.", "Operation")
    body = {
        "required": True,
        "content": {"application/json": {"schema": _ref("CreateOperation")}},
    }
    shown = {"200": _ok("The operation.", "Operation")}
    verbs = {
        f"{one}/{verb}": {"post": operation(f"{verb}Operation", _WORDS[verb], shown, _KEY)}
        for verb in VERBS
    }
    return {
        "/v1/operations": {
            "get": operation(
                "operations",
                "List operations, the latest first",
                {"200": _ok("Operations.", "Operations")},
                _ALL,
                _LIMIT,
            ),
            "post": operation(
                "createOperation",
                "Begin long work that resumes, or find it",
                {"201": created, "200": found},
                body=body,
            ),
        },
        one: {
            "get": operation("operation", "Say how an operation is", shown, _KEY),
            "delete": operation(
                "deleteOperation",
                "Forget an operation that is done or cancelled",
                {"204": {"description": "It is forgotten."}},
                _KEY,
            ),
        },
        f"{one}/events": {
            "get": operation(
                "operationEvents",
                "Say how an operation is, as it happens",
                {"200": events, "204": gone},
                _KEY,
                _LAST_EVENT,
            )
        },
        f"{one}/rejects": {
            "get": operation(
                "operationRejects",
                "Show the rows an operation has left out",
                {"200": _ok("Rows left out, in order.", "Rejects")},
                _KEY,
                _LIMIT,
            )
        },
        **verbs,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _ok(words: str, schema: str) -> Schema:
    return {"description": words, "content": {"application/json": {"schema": _ref(schema)}}}
