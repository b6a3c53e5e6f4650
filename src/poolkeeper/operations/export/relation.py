"""What is exported, as SQL: a query or a table, its key, and ranges of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from poolkeeper.operations.sql import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTINGS = (
    "set local standard_conforming_strings = on;"
    "set local timezone = 'UTC';"
    "set local datestyle = 'ISO, YMD';"
    "set local intervalstyle = 'postgres';"
    "set local bytea_output = 'hex';"
    "set local xmlbinary = 'base64';"
    "set local extra_float_digits = 1;"
    "set local client_min_messages = error;"
)
"""What values look like as text must not depend on who exports, and keys must come back exact.
Nobody would hear notices, and each takes its time between rows."""


@dataclass(frozen=True, slots=True)
class Key:
    """A column by whose order rows are exported.

    Attributes:
        column: Its name.
        type: Its type as SQL, with its schema and without a length, which a cast would cut to.
    """

    column: str
    type: str


@dataclass(frozen=True, slots=True)
class Relation:
    """The rows to export.

    Attributes:
        source: What follows FROM: a table, or a query in parentheses.
        columns: Which columns; None: all the query has.
        where: Condition of the user's.
        key: Columns to order by; none: there is no order.
    """

    source: str
    columns: tuple[str, ...] | None
    where: str | None
    key: tuple[Key, ...]

    @classmethod
    def of(cls, spec: dict[str, Any]) -> Self:
        """What a complete spec says."""
        query = spec["query"]
        return cls(
            # the line break ends a comment at the end of the query
            source=spec["table"] if query is None else f"({query}\n)",
            columns=None if spec["columns"] is None else tuple(spec["columns"]),
            where=spec["where"],
            key=tuple(Key(**key) for key in spec["key"]),
        )

    def select(self, *, after: Sequence[str] | None = None, to: Sequence[str] | None = None) -> str:
        """Rows after one key, up to and including another one, in the order of the key."""
        columns = "q.*"
        if self.columns is not None:
            columns = ", ".join(f"q.{identifier(name)}" for name in self.columns)
        order = f" ORDER BY {self._key()}" if self.key else ""
        return f"SELECT {columns} FROM {self._rows(after, to)}{order}"

    def nothing(self) -> str:
        """No rows, but their columns."""
        columns = "q.*"
        if self.columns is not None:
            columns = ", ".join(f"q.{identifier(name)}" for name in self.columns)
        return f"SELECT {columns} FROM {self.source} AS q WHERE false"

    def bound(self, *, after: Sequence[str] | None, rows: int) -> str:
        """The key of the row ``rows`` after a key, as texts; no row if there are fewer."""
        texts = ", ".join(f"b.{identifier(key.column)}::text" for key in self.key)
        # a subquery, so that only one row's key is turned into text
        return (
            f"SELECT {texts} FROM (SELECT {self._key()} FROM {self._rows(after, None)} "
            f"ORDER BY {self._key()} OFFSET {rows - 1} LIMIT 1) AS b"
        )

    def null_key(self, columns: Sequence[str]) -> str:
        """Whether there is a row without a value in one of these columns."""
        missing = " OR ".join(f"q.{identifier(name)} IS NULL" for name in columns)
        where = f"({self.where}\n) AND " if self.where else ""
        return f"SELECT EXISTS (SELECT FROM {self.source} AS q WHERE {where}({missing}))"

    def _key(self) -> str:
        return ", ".join(f"q.{identifier(key.column)}" for key in self.key)

    def _rows(self, after: Sequence[str] | None, to: Sequence[str] | None) -> str:
        conditions = []
        if self.where:
            conditions.append(f"({self.where}\n)")
        if after is not None:
            conditions.append(self._compared(">", after))
        if to is not None:
            conditions.append(self._compared("<=", to))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"{self.source} AS q{where}"

    def _compared(self, operator: str, values: Sequence[str]) -> str:
        # COPY takes no parameters
        literals = [
            f"{literal(value)}::{key.type}" for key, value in zip(self.key, values, strict=True)
        ]
        if len(literals) == 1:
            return f"{self._key()} {operator} {literals[0]}"
        return f"({self._key()}) {operator} ({', '.join(literals)})"
