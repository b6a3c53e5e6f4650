"""Pieces of SQL that must be what they are given as, and nothing more.

PostgreSQL itself is asked, with statements that are not run. A condition that stands by itself, and
within parentheses too, is one condition: ``a) OR (b`` and ``a LIMIT 1`` each fail one of the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.sql import identifier
from poolkeeper.outcomes import is_driver_error
from poolkeeper.sqlstate import INSUFFICIENT_PRIVILEGE, SYNTAX_ERROR, sqlstate_of

if TYPE_CHECKING:
    from poolkeeper.operations.backfill.sql import Statements

CONTEXT: Final = 40
"""So many characters of the user's SQL are shown from where the server finds fault."""


async def check_fragments(connection: Any, statements: Statements) -> None:
    """Check ``set`` and ``where``.

    Args:
        connection: Settings and schemas are those of its session.
        statements: What they are to be used in.

    Raises:
        OperationError: PostgreSQL refuses one of them, or one is more than it should be.
    """
    table, assignments, where = statements.table, statements.set, statements.where
    verb = f"DELETE FROM {table}"
    if assignments is not None:
        verb = f"UPDATE {table} SET\n{assignments}\n"
        _refuse_parameters(await _try(connection, verb, {"set": assignments}))
    fragments = {"set": assignments, "where": where}
    if where is not None:
        _refuse_parameters(await _try(connection, f"{verb} WHERE\n{where}\n", fragments))
    key = ["x"] * len(statements.key)
    complete, _ = statements.work(key, key)
    await _try(connection, complete, fragments, incomplete=True)
    if assignments is not None:
        for column in statements.key:
            await _refuse_assignment(connection, table, assignments, column.column)


async def explain(connection: Any, statements: Statements) -> None:
    """See that the whole statement can be planned, and that this role may run it.

    Raises:
        OperationError: It cannot, or may not.
    """
    sql, _ = statements.work(None, None)
    try:
        await connection.fetch(f"EXPLAIN {sql}")
    except Exception as error:
        if not _is_answer(error):
            raise
        advice = "see that psql runs what you want to be done"
        if sqlstate_of(error) == INSUFFICIENT_PRIVILEGE:
            advice = f"let this role do it: GRANT SELECT, UPDATE, DELETE ON {statements.table} TO …"
        raise OperationError(
            f"PostgreSQL refuses the backfill of {statements.table}: {_said(error)}. "
            f"Suggestion: {advice}."
        ) from error


async def _try(
    connection: Any,
    sql: str,
    fragments: dict[str, str | None],
    *,
    incomplete: bool = False,
) -> int:
    """Have a statement parsed and analysed; returns how many parameters it has."""
    try:
        prepared = await connection.prepare(sql)
    except Exception as error:
        if not _is_answer(error):
            raise
        raise _fault(error, sql, fragments, incomplete=incomplete) from error
    return len(prepared.get_parameters())


async def _refuse_assignment(connection: Any, table: str, assignments: str, column: str) -> None:
    """Refuse an assignment to a column that keys are made of: PostgreSQL takes no second one."""
    try:
        await connection.prepare(
            f"UPDATE {table} SET {identifier(column)} = DEFAULT,\n{assignments}\n"
        )
    except Exception as error:
        if not _is_answer(error):
            raise
        if sqlstate_of(error) != SYNTAX_ERROR:
            raise _fault(error, "", {"set": assignments}) from error
        raise OperationError(
            f"set changes {column!r}, a column of the key the backfill goes along: rows would move "
            "past the cursor, and be changed twice or never. Suggestion: give key=, other columns "
            "that have an index and stay as they are."
        ) from error


def _fault(
    error: BaseException,
    sql: str,
    fragments: dict[str, str | None],
    *,
    incomplete: bool = False,
) -> OperationError:
    """Say where in which fragment PostgreSQL finds fault."""
    given = {name: text for name, text in fragments.items() if text is not None}
    name, place = " or ".join(given), ""
    position = int(getattr(error, "position", None) or 0) - 1
    for one, text in given.items():
        start = sql.rfind(f"\n{text}\n") + 1
        at = position - start
        if start > 0 and 0 <= at <= len(text) + 1:
            name = one
            place = f" at character {at + 1}, {text[at : at + CONTEXT]!r}"
            if at >= len(text):
                place = " at its end"
    advice = "see that psql takes it as it is"
    if hint := getattr(error, "hint", None):
        advice = hint.rstrip(".")
    if incomplete:
        advice = (
            "set= holds assignments (and FROM, if need be), where= one condition; each has to be "
            "complete by itself"
        )
    return OperationError(
        f"PostgreSQL does not take {name}{place}: {_said(error)}. Suggestion: {advice}."
    )


def _refuse_parameters(number: int) -> None:
    if number:
        raise OperationError(
            "set and where cannot have parameters ($1). Suggestion: write the values into the SQL."
        )


def _said(error: BaseException) -> str:
    """What the server said, without its hint, which comes as advice."""
    message = getattr(error, "message", None) or str(error)
    detail = getattr(error, "detail", None)
    said = message if not detail else f"{message} ({detail.rstrip('.')})"
    return f"{said} ({sqlstate_of(error)})"


def _is_answer(error: BaseException) -> bool:
    """Whether the server has said no; not whether it was lost."""
    return is_driver_error(error) and getattr(error, "sqlstate", None) is not None
