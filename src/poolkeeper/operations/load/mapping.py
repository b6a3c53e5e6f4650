"""Which column of the file goes into which column of the table; pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.sql import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poolkeeper.operations.load.table import Column, Table


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user said of columns; see ``Verbs.load``."""

    map: Mapping[str, str]
    skip: Sequence[str]
    defaults: Mapping[str, Any]
    set: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Match:
    """What was found.

    Attributes:
        targets: For every column of the file the column of the table it goes into; None for one
            that is left out or only used in expressions.
        assigned: Columns of the table and the expressions they get instead.
    """

    targets: Mapping[str, Column | None]
    assigned: Mapping[str, str]


def match(names: Sequence[str], table: Table, asked: Asked, path: str) -> Match:
    """Match the columns of a file with those of a table.

    Args:
        names: Columns of the file.
        table: The table.
        asked: What the user said.
        path: The file, for errors.

    Raises:
        OperationError: Something has no match, or two.
    """
    _check_names(names, path)
    skip = {_in_file(name, names, "skip", path) for name in asked.skip}
    renamed = {_in_file(name, names, "map", path): target for name, target in asked.map.items()}
    assigned = _assigned(table, asked)
    targets: dict[str, Column | None] = {}
    for name in names:
        if name in skip:
            targets[name] = None
            continue
        column = _find(renamed.get(name, name), table)
        if column is None and name not in renamed and _is_used(name, asked.set):
            targets[name] = None
            continue
        if column is None:
            raise _unknown(name, renamed.get(name), table, path)
        if column.name in asked.defaults:
            raise OperationError(
                f"Column {column.name} of {table.label} gets a default value for all rows, but "
                f"{path} has values for it, too. Suggestion: leave those out with --skip {name}."
            )
        if column.name in assigned:
            targets[name] = None
            continue
        if column.generated:
            raise OperationError(
                f"Column {column.name} of {table.label} is generated from others and cannot be "
                f"loaded. Suggestion: leave it out with --skip {name}."
            )
        targets[name] = column
    _check_twice(targets, table)
    _check_required(targets, assigned, table, path)
    return Match(targets, assigned)


def _check_names(names: Sequence[str], path: str) -> None:
    for number, name in enumerate(names, 1):
        if not name:
            raise OperationError(
                f"Column {number} of {path} has no name in its first line. Suggestion: give it "
                "one, or name all columns of the file with --columns."
            )
        if names.index(name) != number - 1:
            raise OperationError(
                f"{path} has two columns {name!r}. Suggestion: name all columns of the file with "
                "--columns."
            )
        if len(name.encode()) > 63:
            raise OperationError(
                f"Column {number} of {path} has a name of more than 63 bytes, {name[:30]!r}…, "
                "which PostgreSQL cannot take. Suggestion: name all columns with --columns."
            )


def _in_file(name: str, names: Sequence[str], option: str, path: str) -> str:
    if name in names:
        return name
    folded = [known for known in names if known.lower() == name.lower()]
    if len(folded) == 1:
        return folded[0]
    close = difflib.get_close_matches(name, names, n=1)
    advice = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}."
    raise OperationError(
        f"--{option} names a column {name!r}, which {path} does not have. Suggestion: {advice}"
    )


def _find(name: str, table: Table) -> Column | None:
    for column in table.columns:
        if column.name == name:
            return column
    folded = [column for column in table.columns if column.name.lower() == name.lower()]
    return folded[0] if len(folded) == 1 else None


def _assigned(table: Table, asked: Asked) -> dict[str, str]:
    assigned: dict[str, str] = {}
    for option, values in (("default", asked.defaults), ("set", asked.set)):
        for name, value in values.items():
            column = _find(name, table)
            if column is None:
                raise OperationError(
                    f"--{option} names a column {name!r}, which {table.label} does not have. "
                    f"Suggestion: {_advice(name, table)}"
                )
            if column.generated:
                raise OperationError(
                    f"Column {column.name} of {table.label} is generated from others and cannot "
                    f"be given a value. Suggestion: leave out --{option} {name}."
                )
            if column.name in assigned:
                raise OperationError(
                    f"Column {column.name} of {table.label} gets two values. Suggestion: give it "
                    "one."
                )
            assigned[column.name] = f"({value})" if option == "set" else _constant(column, value)
    return assigned


def _constant(column: Column, value: Any) -> str:
    try:
        return f"{literal(value)}::{column.type}"
    except ValueError as error:
        raise OperationError(
            f"The default of column {column.name} cannot be a text: {error}."
        ) from error


def _is_used(name: str, expressions: Mapping[str, str]) -> bool:
    """Whether an expression may mean this column: SQL is not parsed, its words are looked at."""
    quoted = identifier(name)
    word = re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])", re.IGNORECASE)
    return any(quoted in text or word.search(text) for text in expressions.values())


def _unknown(name: str, renamed: str | None, table: Table, path: str) -> OperationError:
    if renamed is not None:
        return OperationError(
            f"{path} has a column {name!r} that is mapped to {renamed!r}, which {table.label} does "
            f"not have. Suggestion: {_advice(renamed, table)}"
        )
    close = _close(name, table)
    hint = f"--map {name}={close or 'COLUMN'}, or leave it out with --skip {name}"
    columns = ", ".join(column.name for column in table.columns if not column.generated)
    return OperationError(
        f"{path} has a column {name!r}, but {table.label} has none of that name: it has {columns}. "
        f"Suggestion: {hint}."
    )


def _close(name: str, table: Table) -> str | None:
    names = {column.name.lower(): column.name for column in table.columns}
    close = difflib.get_close_matches(name.lower(), names, n=1)
    return names[close[0]] if close else None


def _advice(name: str, table: Table) -> str:
    close = _close(name, table)
    if close is not None:
        return f"did you mean {close}?"
    return f"it has {', '.join(column.name for column in table.columns)}."


def _check_twice(targets: Mapping[str, Column | None], table: Table) -> None:
    taken: dict[str, str] = {}
    for name, column in targets.items():
        if column is None:
            continue
        if column.name in taken:
            raise OperationError(
                f"The columns {taken[column.name]!r} and {name!r} of the file both go into "
                f"{column.name} of {table.label}. Suggestion: --map one of them to another column, "
                "or --skip it."
            )
        taken[column.name] = name


def _check_required(
    targets: Mapping[str, Column | None], assigned: Mapping[str, str], table: Table, path: str
) -> None:
    given = {column.name for column in targets.values() if column is not None} | set(assigned)
    missing = [
        column.name
        for column in table.columns
        if column.required and not column.generated and column.name not in given
    ]
    if missing:
        raise OperationError(
            f"{table.label} needs a value for {', '.join(missing)}, which {path} does not have. "
            f"Suggestion: --default {missing[0]}=VALUE, or --set {missing[0]}=EXPRESSION."
        )
