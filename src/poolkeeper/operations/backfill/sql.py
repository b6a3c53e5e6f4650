"""The statements of a chunk; pure.

Keys travel as texts, cast to the type of their column. Their comparison is the column's own: a
parameter has the default collation, which gives way to any other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

EXACT: Final = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}
"""What makes the text of every value one that reads back as this value, whatever the settings of
the session that reads it."""

SEMANTIC: Final = (*EXACT, "search_path")
"""What the SQL of a user means depends on these: the statements of all workers have them as the
session had that created the operation."""


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column to go along.

    Attributes:
        column: Its name.
        type: Its type as SQL: with its schema, without a length, and no domain.
    """

    column: str
    type: str


@dataclass(frozen=True, slots=True)
class Statements:
    """What is to be done to which rows.

    Attributes:
        table: Its name as SQL, with its schema.
        key: Columns to go along.
        set: Assignments of UPDATE; None: rows are deleted.
        where: Condition of the user's.
        session: Settings for SQL of the user's, by name.
    """

    table: str
    key: tuple[KeyColumn, ...]
    set: str | None
    where: str | None
    session: Mapping[str, str]

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """What a complete spec says."""
        return cls(
            table=spec["table"],
            key=tuple(KeyColumn(**key) for key in spec["key"]),
            set=spec.get("set"),
            where=spec.get("where"),
            session=spec["session"],
        )

    def read_keys(self, lock_timeout: float) -> str:
        """Settings to look for keys with; for the transaction."""
        return set_local(
            {
                **EXACT,
                "lock_timeout": f"{max(1, round(lock_timeout * 1000))}ms",
                # A plan for any range is one for a large part of the table.
                "plan_cache_mode": "force_custom_plan",
            }
        )

    def work_on_rows(self) -> str:
        """Settings for SQL of the user's; for the transaction."""
        return set_local(self.session)

    def upper(self, after: Sequence[str] | None) -> tuple[str, list[str]]:
        """The key so many rows after another one, less one, which is the last parameter.

        No row where there are fewer.
        """
        values = list(after or ())
        condition = "" if after is None else f" WHERE {self._compared('>', 1)}"
        names = [f"k{number}" for number in range(len(self.key))]
        columns = ", ".join(
            f"{column} AS {name}" for column, name in zip(self._columns(), names, strict=True)
        )
        order = ", ".join(self._columns())
        # a subquery, so that no other key is turned into text
        sql = (
            f"SELECT {', '.join(f'b.{name}::text' for name in names)} FROM (SELECT {columns} "
            f"FROM {self.table}{condition} ORDER BY {order} "
            f"OFFSET ${len(values) + 1}::bigint LIMIT 1) AS b"
        )
        return sql, values

    def work(self, after: Sequence[str] | None, to: Sequence[str] | None) -> tuple[str, list[str]]:
        """The change of the rows after one key, up to and including another one."""
        conditions: list[str] = []
        values: list[str] = []
        size = len(self.key)
        if after is not None:
            conditions.append(self._compared(">", 1))
            values += after
        if to is not None:
            conditions.append(self._compared("<=", len(values) + 1))
            values += to
        if size > 1:
            conditions += self._hints(after, to)
        if self.where is not None:
            # its own line, or a comment at its end would take the rest along
            conditions.append(f"(\n{self.where}\n)")
        if self.set is None:
            verb = f"DELETE FROM {self.table}"
        else:
            verb = f"UPDATE {self.table} SET\n{self.set}\n"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return verb + where, values

    def _hints(self, after: Sequence[str] | None, to: Sequence[str] | None) -> Iterable[str]:
        """What follows from the comparison of several columns, but is not seen by the planner.

        It takes a range of rows for a large part of the table, and would read all of it.
        """
        size = len(self.key)
        first = self._columns()
        equal = 0
        if after is not None and to is not None:
            pairs = zip(after, to, strict=True)
            equal = min(size - 1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
        for place in range(equal):
            yield f"{first[place]} = {self._value(place, 1 + place)}"
        if after is not None:
            yield f"{first[equal]} >= {self._value(equal, 1 + equal)}"
        if to is not None:
            before = 0 if after is None else size
            yield f"{first[equal]} <= {self._value(equal, before + 1 + equal)}"

    def _compared(self, operator: str, parameter: int) -> str:
        values = [self._value(place, parameter + place) for place in range(len(self.key))]
        if len(values) == 1:
            return f"{self._columns()[0]} {operator} {values[0]}"
        return f"({', '.join(self._columns())}) {operator} ({', '.join(values)})"

    def _columns(self) -> list[str]:
        # With the table's name, because UPDATE may have other tables (FROM).
        return [f"{self.table}.{identifier(key.column)}" for key in self.key]

    def _value(self, place: int, parameter: int) -> str:
        return f"${parameter}::text::{self.key[place].type}"


def set_local(settings: Mapping[str, str]) -> str:
    """Settings until the transaction ends, as one statement."""
    calls = (
        f"set_config({literal(name)}, {literal(value)}, true)" for name, value in settings.items()
    )
    return f"SELECT {', '.join(calls)}"


def identifier(name: str) -> str:
    """A name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL, whatever backslashes mean in the session."""
    quoted = text.replace("'", "''")
    if "\\" in quoted:
        return "E'" + quoted.replace("\\", "\\\\") + "'"
    return f"'{quoted}'"
