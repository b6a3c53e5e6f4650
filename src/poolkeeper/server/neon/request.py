"""What a client asks for with ``POST /sql``: headers and body, whatever its content type says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from poolkeeper.server.neon.transaction_control import transaction_control
from poolkeeper.server.neon.values import NumberText, parameter_text

if TYPE_CHECKING:
    from collections.abc import Mapping

# The wire protocol counts parameters in 16 bits.
MAX_PARAMETERS = 65535

_ISOLATION_LEVELS = {
    "ReadUncommitted": "READ UNCOMMITTED",
    "ReadCommitted": "READ COMMITTED",
    "RepeatableRead": "REPEATABLE READ",
    "Serializable": "SERIALIZABLE",
}


class BadRequestError(Exception):
    """The request cannot be understood; nothing was sent to PostgreSQL.

    Attributes:
        code: SQLSTATE where PostgreSQL has one for this mistake, else empty.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Query(NamedTuple):
    """One statement with its parameters in PostgreSQL's text format."""

    sql: bytes
    params: tuple[bytes | None, ...]
    array_mode: bool


class SqlRequest(NamedTuple):
    """A single statement, or a batch that runs as one transaction."""

    queries: tuple[Query, ...]
    is_batch: bool
    raw_text: bool
    isolation_level: str | None = None
    read_only: bool = False
    deferrable: bool = False


def parse_request(body: bytes, headers: Mapping[str, str]) -> SqlRequest:
    """Read a request. ``headers`` must find names regardless of case, as Starlette's do.

    Raises:
        BadRequestError: The body is not the JSON this protocol expects, a header is wrong, or a
            statement of a batch would begin or end its transaction.
    """
    document = parse_json(body)
    array_mode = headers.get("neon-array-mode") == "true"
    raw_text = headers.get("neon-raw-text-output") == "true"
    if "query" in document:
        query = parse_query(document, array_mode=array_mode, where="the request body")
        return SqlRequest((query,), is_batch=False, raw_text=raw_text)
    entries = document.get("queries")
    if not isinstance(entries, list):
        raise BadRequestError(
            "The request body has neither `query` nor a list of `queries`. "
            'Suggestion: send {"query": "select $1::int", "params": [1]}.'
        )
    queries = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise BadRequestError(
                f"Entry {number} of `queries` is not an object. "
                'Suggestion: send each statement as {"query": "…", "params": […]}.'
            )
        query = parse_query(entry, array_mode=array_mode, where=f"entry {number} of `queries`")
        refuse_transaction_control(query, f"Entry {number} of `queries`")
        queries.append(query)
    return SqlRequest(
        tuple(queries),
        is_batch=True,
        raw_text=raw_text,
        isolation_level=_parse_isolation_level(headers),
        read_only=headers.get("neon-batch-read-only") == "true",
        deferrable=headers.get("neon-batch-deferrable") == "true",
    )


def refuse_transaction_control(query: Query, where: str) -> None:
    """A batch that ends its transaction itself could not be said to be rolled back as a whole.

    Raises:
        BadRequestError: The statement begins or ends a transaction.
    """
    words = transaction_control(query.sql.decode())
    if words is not None:
        raise BadRequestError(
            f"{where} is {words}, but the request is one transaction already: it begins before "
            "the first statement and is committed after the last. "
            "Suggestion: leave the statement out; for independent transactions send separate "
            "requests.",
            code="2D000",
        )


def refuse_lone_control(query: Query) -> None:
    """A transaction cannot span requests: its BEGIN would be undone when this one is over.

    Raises:
        BadRequestError: The statement begins or ends a transaction.
    """
    sql = query.sql
    # Nearly all statements are told by their first letters.
    if sql[:1].isalpha() and sql[:2].lower() not in _FIRST_LETTERS:
        return
    words = transaction_control(sql.decode())
    if words is not None:
        raise BadRequestError(
            f"{words} would end with this request: each request is a transaction and a session of "
            "its own. Suggestion: send the statements of the transaction together, as `statements` "
            "to /v1/transaction or as `queries` to /sql, which is sql.transaction([…]) in Neon's "
            "driver.",
            code="2D000",
        )


# Of BEGIN, START, COMMIT, END, ABORT, ROLLBACK and PREPARE.
_FIRST_LETTERS = frozenset({b"be", b"st", b"co", b"en", b"ab", b"ro", b"pr"})


def parse_json(body: bytes) -> dict[str, object]:
    """The JSON object in a body, its numbers as they were written.

    Raises:
        BadRequestError: It is something else.
    """
    try:
        document = _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BadRequestError(
            f"The request body is not JSON in UTF-8: {reason}. "
            'Suggestion: send {"query": "select 1"}.'
        ) from error
    if not isinstance(document, dict):
        raise BadRequestError(
            'The request body is not a JSON object. Suggestion: send {"query": "select 1"}.'
        )
    return document


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(
    parse_int=NumberText, parse_float=NumberText, parse_constant=_refuse_constant
)


def parse_query(entry: dict[str, object], *, array_mode: bool, where: str) -> Query:
    """The statement in an object with ``query`` and ``params``.

    Raises:
        BadRequestError: It is none, or cannot be sent to PostgreSQL.
    """
    sql = entry.get("query")
    if type(sql) is not str:
        raise BadRequestError(
            f"`query` in {where} is not a string. "
            "Suggestion: put one SQL statement there and its values in `params`."
        )
    params = entry.get("params")
    if params is None:
        params = []
    if not isinstance(params, list):
        raise BadRequestError(
            f"`params` in {where} is not a list. "
            "Suggestion: send the values of $1, $2, … as a JSON array, in this order."
        )
    if len(params) > MAX_PARAMETERS:
        raise BadRequestError(
            f"`params` in {where} has {len(params)} entries; PostgreSQL takes at most "
            f"{MAX_PARAMETERS}. Suggestion: pass many values as one array parameter.",
            code="54023",
        )
    own_mode = entry.get("arrayMode")
    try:
        texts = [parameter_text(value) for value in params]
    except RecursionError as error:
        raise BadRequestError(
            f"`params` in {where} is nested too deeply. "
            "Suggestion: send a document like that as a string of JSON.",
            code="54001",
        ) from error
    return Query(
        sql=_wire_text(sql, 0, where),
        params=tuple(
            [
                None if text is None else _wire_text(text, number, where)
                for number, text in enumerate(texts, start=1)
            ]
        ),
        array_mode=own_mode if isinstance(own_mode, bool) else array_mode,
    )


def _wire_text(text: str, number: int, where: str) -> bytes:
    """``text`` as libpq takes it; ``number`` is that of the parameter, 0 for the statement."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise BadRequestError(
            f"{_what(number)} in {where} holds half of a surrogate pair, which UTF-8 cannot "
            "express. Suggestion: send complete characters.",
            code="22021",
        ) from error
    # libpq takes C strings: everything after a zero byte would be lost without a word.
    if b"\0" in encoded:
        raise BadRequestError(
            f"{_what(number)} in {where} holds a zero character, which PostgreSQL's text types "
            "cannot store. Suggestion: remove it, or send the value as bytea in hex.",
            code="22021",
        )
    return encoded


def _what(number: int) -> str:
    return f"parameter ${number}" if number else "`query`"


def _parse_isolation_level(headers: Mapping[str, str]) -> str | None:
    name = headers.get("neon-batch-isolation-level")
    if name is None:
        return None
    level = _ISOLATION_LEVELS.get(name)
    if level is None:
        raise BadRequestError(
            f"invalid isolation level {name!r}. "
            f"Suggestion: use one of {', '.join(_ISOLATION_LEVELS)}."
        )
    return level
