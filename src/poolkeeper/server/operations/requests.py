"""What clients ask for with ``POST /v1/operations``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.confinement import FILE_KINDS, place_in
from poolkeeper.operations.errors import NotHereError
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.turned_away import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from poolkeeper.operations import Operation, Operations

VERBS: Final = ("pause", "resume", "retry", "cancel")
"""What may be done to an operation."""

MOST: Final = 1000
DEFAULT_LIMIT: Final = 100
"""Of lists."""

LONGEST_NAME: Final = 200
_MOST = 2**53
_EXAMPLE: Final = '{"kind": "backfill", "table": "users", "set": "email = lower(email)"}'

TEXT: Final = {"type": "string"}
FLAG: Final = {"type": "boolean"}
SECONDS: Final = {"type": "number", "minimum": 0, "maximum": _MOST}
COUNT: Final = {"type": "integer", "minimum": 0, "maximum": _MOST}
TEXTS: Final = {"type": "array", "items": {"type": "string"}}
TEXT_BY_NAME: Final = {"type": "object", "additionalProperties": {"type": "string"}}
BY_NAME: Final = {"type": "object"}

KINDS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "load": {
        "path": TEXT,
        "into": TEXT,
        "again": FLAG,
        "format": TEXT,
        "compression": TEXT,
        "encoding": TEXT,
        "delimiter": TEXT,
        "quote": TEXT,
        "escape": TEXT,
        "null": TEXT,
        "header": FLAG,
        "columns": TEXTS,
        "map": TEXT_BY_NAME,
        "skip": TEXTS,
        "defaults": BY_NAME,
        "set": TEXT_BY_NAME,
        "column": TEXT,
        "on_conflict": TEXT,
        "on_bad_row": TEXT,
        "max_rejects": COUNT,
        "max_record_bytes": COUNT,
    },
    "backfill": {
        "table": TEXT,
        "set": TEXT,
        "delete": FLAG,
        "where": TEXT,
        "key": TEXTS,
        "sweep": FLAG,
        "batch": COUNT,
        "max_replica_lag": SECONDS,
        "lock_timeout": SECONDS,
        "pause": SECONDS,
        "again": FLAG,
    },
    "export": {
        "to": TEXT,
        "table": TEXT,
        "query": TEXT,
        "columns": TEXTS,
        "where": TEXT,
        "key": TEXTS,
        "consistent": FLAG,
        "format": TEXT,
        "compression": TEXT,
        "parts": FLAG,
        "part_bytes": COUNT,
        "header": FLAG,
        "delimiter": TEXT,
        "null": TEXT,
        "quote": TEXT,
        "overwrite": FLAG,
    },
    "custom": {"step": TEXT, "arguments": BY_NAME, "again": FLAG},
}
"""What each kind takes beside ``kind`` and ``name``, in the words of JSON Schema."""

REQUIRED: Final = {
    "load": ("path", "into"),
    "backfill": ("table",),
    "export": ("to",),
    "custom": ("step",),
}
_PATHS: Final = {"load": "path", "export": "to"}


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """An operation somebody wants.

    Attributes:
        kind: See ``KINDS``.
        name: What to call it, if that was said.
        given: Its options, each of the right type.
    """

    kind: str
    name: str | None
    given: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.name or self.given[REQUIRED[self.kind][0]]!r}"

    async def create(self, operations: Operations) -> Operation:
        """Create it, or find the one of that name.

        Raises:
            OperationError: See ``Operations.create``.
        """
        if self.kind == "custom":
            step = self.given["step"]
            spec = {"step": step, "arguments": self.given.get("arguments") or {}}
            return await operations.create(
                "custom", spec, name=self.name or step, again=self.given.get("again", False)
            )
        created: Operation = await getattr(operations, self.kind)(**self.given, name=self.name)
        return created


def parse_create_request(body: bytes, directory: Path | None) -> CreateRequest:
    """Read a request.

    Args:
        body: As it came.
        directory: Where files of operations may be; None: nowhere.

    Raises:
        BadRequestError: It is not understood.
        ForbiddenError: It is about a file that may not be touched.
    """
    document = _parse(body)
    kind = document.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadRequestError(
            f"`kind` in the request body is none of {', '.join(KINDS)}. "
            f"Suggestion: send {_EXAMPLE}."
        )
    name = document.pop("name", None)
    if name is not None and not _is_name(name):
        raise BadRequestError(
            f"`name` in the request body is not a text of 1 to {LONGEST_NAME} printable "
            "characters. Suggestion: leave it out, or call the operation what people would."
        )
    # null is what is left to the default.
    given = {key: value for key, value in document.items() if value is not None}
    _check(kind, given)
    if kind in FILE_KINDS:
        key = _PATHS[kind]
        given[key] = str(_place(kind, given[key], directory))
    return CreateRequest(kind, name, given)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode(), parse_constant=_refuse_constant)
        for text in _texts(document):
            text.encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BadRequestError(
            f"The request body is not JSON in UTF-8: {reason}. Suggestion: send {_EXAMPLE}."
        ) from error
    if not isinstance(document, dict):
        raise BadRequestError(
            f"The request body is not a JSON object. Suggestion: send {_EXAMPLE}."
        )
    return document


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def _texts(value: object) -> Iterator[str]:
    """Every text in a document, names included.

    Raises:
        ValueError: PostgreSQL could not store something in it.
    """
    match value:
        case str():
            if "\0" in value:
                raise ValueError("it holds the character NUL, which PostgreSQL cannot store")
            yield value
        case float():
            if not math.isfinite(value):
                raise ValueError("it holds a number beyond all bounds")
        case dict():
            for key, item in value.items():
                yield from _texts(key)
                yield from _texts(item)
        case list():
            for item in value:
                yield from _texts(item)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= LONGEST_NAME and name.isprintable()


def _check(kind: str, given: dict[str, Any]) -> None:
    known = KINDS[kind]
    for key, value in given.items():
        if key not in known:
            raise BadRequestError(
                f"`{key[:60]}` is no option of a {kind}. "
                f"Suggestion: use {_listed(('name', *known))}."
            )
        if not _fits(value, known[key]):
            raise BadRequestError(
                f"`{key}` of a {kind} is not {_WORDS[known[key]['type']]}. "
                "Suggestion: see /openapi.json for what each option is."
            )
    missing = [key for key in REQUIRED[kind] if not given.get(key)]
    if missing:
        raise BadRequestError(f"A {kind} needs {_listed(missing)}. Suggestion: send {_EXAMPLE}.")


_WORDS: Final = {
    "string": "a string",
    "boolean": "true or false",
    "number": "a number of seconds, 0 or more",
    "integer": "a whole number, 0 or more",
    "array": "a list of strings",
    "object": "an object with values of the right type",
}


def _fits(value: object, schema: dict[str, Any]) -> bool:
    match schema["type"]:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "number":
            return type(value) in {int, float} and 0 <= value <= _MOST  # type: ignore[operator]
        case "integer":
            return type(value) is int and 0 <= value <= _MOST
        case "array":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case _:
            items = schema.get("additionalProperties")
            return isinstance(value, dict) and (
                items is None or all(_fits(item, items) for item in value.values())
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _place(kind: str, given: str, directory: Path | None) -> Path:
    if directory is None:
        does = "reads" if kind == "load" else "writes"
        raise ForbiddenError(
            f"A {kind} {does} files of the machine the server runs on, which this server does not "
            "allow. Suggestion: start it with --operations-dir DIRECTORY, the only place it then "
            f"may use, or run `poolkeeper {kind}` where the file is."
        )
    try:
        return place_in(directory, given)
    except NotHereError as error:
        raise ForbiddenError(str(error)) from error
