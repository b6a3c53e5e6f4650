"""What clients ask for with ``/v1/query`` and ``/v1/transaction``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from poolkeeper.server.neon.request import (
    BadRequestError,
    parse_json,
    parse_query,
    refuse_transaction_control,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poolkeeper.server.neon.request import Query

ISOLATION_LEVELS = ("read uncommitted", "read committed", "repeatable read", "serializable")


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """One statement; ``query.array_mode`` says how its rows are wanted."""

    query: Query
    readonly: bool


@dataclass(frozen=True, slots=True)
class TransactionRequest:
    """Several statements that take effect together; ``isolation`` in PostgreSQL's words."""

    queries: tuple[Query, ...]
    isolation: str | None
    readonly: bool
    deferrable: bool


def parse_query_request(body: bytes) -> QueryRequest:
    """Read a request of ``/v1/query``.

    Raises:
        BadRequestError: It is not understood.
    """
    document = parse_json(body)
    _refuse_strangers(document, ("query", "params", "rows", "readonly"), "the request body")
    query = parse_query(document, array_mode=_rows(document), where="the request body")
    return QueryRequest(query, readonly=_flag(document, "readonly"))


def parse_transaction_request(body: bytes) -> TransactionRequest:
    """Read a request of ``/v1/transaction``.

    Raises:
        BadRequestError: It is not understood, or one of its statements would begin or end a
            transaction.
    """
    document = parse_json(body)
    known = ("statements", "isolation", "readonly", "deferrable", "rows")
    _refuse_strangers(document, known, "the request body")
    entries = document.get("statements")
    if not isinstance(entries, list):
        raise BadRequestError(
            "`statements` in the request body is not a list. "
            'Suggestion: send {"statements": [{"query": "select $1::int", "params": [1]}]}.'
        )
    arrays = _rows(document)
    queries = []
    for number, entry in enumerate(entries, start=1):
        where = f"entry {number} of `statements`"
        if not isinstance(entry, dict):
            raise BadRequestError(
                f"Entry {number} of `statements` is not an object. "
                'Suggestion: send each statement as {"query": "…", "params": […]}.'
            )
        _refuse_strangers(entry, ("query", "params"), where)
        query = parse_query(entry, array_mode=arrays, where=where)
        refuse_transaction_control(query, where[0].upper() + where[1:])
        queries.append(query)
    return TransactionRequest(
        tuple(queries),
        isolation=_isolation(document),
        readonly=_flag(document, "readonly"),
        deferrable=_flag(document, "deferrable"),
    )


def _refuse_strangers(given: dict[str, object], known: Iterable[str], where: str) -> None:
    """A misspelt `readonly` must not be a transaction that writes."""
    strangers = [name for name in given if name not in known]
    if strangers:
        raise BadRequestError(
            f"`{strangers[0][:60]}` in {where} is not known. "
            f"Suggestion: use {', '.join(f'`{name}`' for name in known)}."
        )


def _flag(document: dict[str, object], name: str) -> bool:
    value = document.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise BadRequestError(
        f"`{name}` in the request body is neither true nor false. "
        f'Suggestion: send "{name}": true, or leave it out.'
    )


def _rows(document: dict[str, object]) -> bool:
    value = document.get("rows")
    if value is None or value in ("objects", "arrays"):
        return value == "arrays"
    raise BadRequestError(
        '`rows` in the request body is neither "objects" nor "arrays". '
        'Suggestion: leave it out for objects, or send "rows": "arrays".'
    )


def _isolation(document: dict[str, object]) -> str | None:
    value = document.get("isolation")
    if value is None:
        return None
    level = " ".join(value.lower().replace("_", " ").split()) if type(value) is str else ""
    if level not in ISOLATION_LEVELS:
        raise BadRequestError(
            "`isolation` in the request body is not an isolation level. "
            f"Suggestion: send one of {', '.join(ISOLATION_LEVELS)}."
        )
    return level
