"""The statements of a chunk; pure.

Keys travel as texts, cast to the type of their column. Their comparison is the column's own: a
parameter has the default collation, which gives way to any other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, Self

from poolkeeper.operations.sql import identifier, literal

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


MOST_SHOWN: Final = 60
"""Characters of a key's value in a message."""


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
        return self._find(after, "ASC", f"OFFSET ${len(after or ()) + 1}::bigint")

    def last(self, after: Sequence[str] | None) -> tuple[str, list[str]]:
        """The last key of all; no row if there is none after that one."""
        return self._find(after, "DESC", "")

    def range(self, after: Sequence[str] | None, to: Sequence[str]) -> str:
        """The rows of ``work``, for people."""
        lower = "" if after is None else f"{_shown(after)} < "
        return f"{lower}{_shown([key.column for key in self.key])} <= {_shown(to)}"

    def _find(self, after: Sequence[str] | None, order: str, offset: str) -> tuple[str, list[str]]:
        values: list[str] = []
        condition = "" if after is None else f" WHERE {self._compared('>', after, values)}"
        names = [f"k{number}" for number in range(len(self.key))]
        columns = ", ".join(
            f"{column} AS {name}" for column, name in zip(self._columns(), names, strict=True)
        )
        by = ", ".join(f"{column} {order}" for column in self._columns())
        # With a collation of its own the result keeps its type when the column is altered: sessions
        # have the plan cached. A subquery, so that no other key is turned into text.
        texts = ", ".join(f'b.{name}::text COLLATE pg_catalog."C"' for name in names)
        sql = (
            f"SELECT {texts} FROM (SELECT {columns} FROM {self.table}{condition} "
            f"ORDER BY {by} {offset} LIMIT 1) AS b"
        )
        return sql, values

    def work(
        self,
        after: Sequence[str] | None,
        to: Sequence[str] | None,
        *,
        first: Sequence[str] | None = None,
    ) -> tuple[str, list[str]]:
        """The change of the rows after one key, up to and including another one.

        Args:
            after: None: from the beginning.
            to: None: to the end, which is for looking at the statement only.
            first: Where there is no ``after``, the first key there is.
        """
        conditions: list[str] = []
        values: list[str] = []
        if after is not None:
            conditions.append(self._compared(">", after, values))
        if to is not None:
            conditions.append(self._compared("<=", to, values))
            lower = first if after is None else after
            if lower is not None:
                conditions += self._hints(lower, to, values)
        if self.where is not None:
            # its own line, or a comment at its end would take the rest along
            conditions.append(f"(\n{self.where}\n)")
        if self.set is None:
            verb = f"DELETE FROM {self.table}"
        else:
            verb = f"UPDATE {self.table} SET\n{self.set}\n"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return verb + where, values

    def _hints(self, lower: Sequence[str], to: Sequence[str], values: list[str]) -> Iterable[str]:
        """What follows from the comparison of several columns, but is not seen by the planner.

        It takes a range of rows for a large part of the table, and would read all of it.
        """
        columns = self._columns()
        last = len(columns) - 1
        if not last:
            return

        def compared(place: int, operator: str, key: Sequence[str]) -> str:
            return f"{columns[place]} {operator} {self._value(place, key, values)}"

        pairs = zip(lower, to, strict=True)
        equal = min(last, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
        for place in range(equal):
            yield compared(place, "=", to)
        if equal == last:
            yield compared(last, ">=", lower)
            yield compared(last, "<=", to)
            return
        # From the lower end to where the first column changes, what is between, and to the upper
        # end: each branch is a range of the index, and the planner can tell how small it is. Where
        # different texts are equal, the branches are more than the range, which does no harm.
        branches = [[compared(equal, ">", lower), compared(equal, "<", to)]]
        for key, inner, outer in ((lower, ">", ">="), (to, "<", "<=")):
            for place in range(equal + 1, last + 1):
                same = [compared(before, "=", key) for before in range(equal, place)]
                branches.append([*same, compared(place, outer if place == last else inner, key)])
        alternatives = " OR ".join(f"({' AND '.join(branch)})" for branch in branches)
        yield f"({alternatives})"

    def _compared(self, operator: str, key: Sequence[str], values: list[str]) -> str:
        columns = self._columns()
        parameters = [self._value(place, key, values) for place in range(len(columns))]
        if len(columns) == 1:
            return f"{columns[0]} {operator} {parameters[0]}"
        return f"({', '.join(columns)}) {operator} ({', '.join(parameters)})"

    def _columns(self) -> list[str]:
        # With the table's name, because UPDATE may have other tables (FROM).
        return [f"{self.table}.{identifier(key.column)}" for key in self.key]

    def _value(self, place: int, key: Sequence[str], values: list[str]) -> str:
        values.append(key[place])
        return f"${len(values)}::text::{self.key[place].type}"


def _shown(values: Sequence[str]) -> str:
    shown = [value if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]}…" for value in values]
    return shown[0] if len(shown) == 1 else f"({', '.join(shown)})"


def set_local(settings: Mapping[str, str]) -> str:
    """Settings until the transaction ends, as one statement."""
    calls = (
        f"set_config({literal(name)}, {literal(value)}, true)" for name, value in settings.items()
    )
    return f"SELECT {', '.join(calls)}"
