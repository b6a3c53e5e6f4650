"""The table that is loaded into, as the catalog has it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.catalog import find_oid
from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.sql import identifier

if TYPE_CHECKING:
    from collections.abc import Sequence

_TABLE: Final = """
select n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
       c.relpersistence = 't' as temporary,
       has_table_privilege(c.oid, 'INSERT') as may_insert,
       row_security_active(c.oid) as row_security,
       exists (select from pg_constraint
                where conrelid = any (t.members) and condeferred) as deferred,
       -- a trigger before a row may leave it out, and COPY does not count it then
       exists (select from pg_trigger where tgrelid = any (t.members)
                  and tgtype & 7 = 7 and tgenabled <> 'D') as suppressing
  from pg_class c join pg_namespace n on n.oid = c.relnamespace,
       lateral (select array(select relid::oid from pg_partition_tree(c.oid)) || c.oid as members) t
 where c.oid = $1"""

_COLUMNS: Final = """
select a.attname::text as name, format_type(a.atttypid, -1) as type,
       format_type(a.atttypid, a.atttypmod) as exact_type,
       a.attnotnull as not_null,
       a.atthasdef or a.attidentity <> '' or t.typdefault is not null as has_default,
       a.attidentity::text as identity, a.attgenerated <> '' as generated
  from pg_attribute a join pg_type t on t.oid = a.atttypid
 where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum"""

_TABLES: Final = """
select case when pg_table_is_visible(c.oid) then c.relname::text
            else n.nspname || '.' || c.relname end
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'f') and n.nspname not like 'pg\\_%'
   and n.nspname not in ('information_schema', 'poolkeeper')
 order by 1 limit 1000"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    Attributes:
        name: Its name.
        type: Its type without a length, which a cast would cut to.
        exact_type: Its type with its length.
        required: Whether a row must have a value for it.
        has_default: Whether a row that has none gets one.
        always_identity: Whether INSERT must say that it overrides it.
        generated: Whether it is computed from others, and cannot be loaded.
    """

    name: str
    type: str
    exact_type: str
    required: bool
    has_default: bool
    always_identity: bool
    generated: bool


@dataclass(frozen=True, slots=True)
class Table:
    """The table.

    Attributes:
        schema: Its schema.
        name: Its name in there.
        columns: In order.
        row_security: Whether COPY refuses it, as policies apply to this role.
        deferred: Whether some constraints are only checked at COMMIT.
        suppressing: Whether triggers may leave rows out.
    """

    schema: str
    name: str
    columns: Sequence[Column]
    row_security: bool
    deferred: bool
    suppressing: bool

    @property
    def sql(self) -> str:
        """Its name as SQL."""
        return f"{identifier(self.schema)}.{identifier(self.name)}"

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.schema}.{self.name}"


async def find_table(connection: Any, into: str) -> Table:
    """Look a table up.

    Args:
        connection: A connection of asyncpg.
        into: Its name as SQL would have it, or exactly as it is written.

    Raises:
        OperationError: It does not exist, is no table, or may not be written to.
    """
    oid = await find_oid(connection, into)
    if oid is None:
        raise await _unknown(connection, into)
    row = await connection.fetchrow(_TABLE, oid)
    label = f"{row['schema']}.{row['name']}"
    if row["kind"] not in {"r", "p", "f"}:
        raise OperationError(
            f"{label} is no table, so COPY cannot load into it. Suggestion: name the table behind "
            "it."
        )
    if row["temporary"]:
        raise OperationError(
            f"{label} is a temporary table, which only the session that made it can see; an "
            "operation changes its session after every outage. Suggestion: make it an ordinary or "
            "an UNLOGGED table."
        )
    if not row["may_insert"]:
        raise OperationError(
            f"This role may not insert into {label}. Suggestion: GRANT INSERT ON {label} TO it."
        )
    columns = [
        Column(
            name=column["name"],
            type=column["type"],
            exact_type=column["exact_type"],
            required=column["not_null"] and not column["has_default"],
            has_default=column["has_default"],
            always_identity=column["identity"] == "a",
            generated=column["generated"],
        )
        for column in await connection.fetch(_COLUMNS, oid)
    ]
    return Table(
        row["schema"],
        row["name"],
        columns,
        row_security=row["row_security"],
        deferred=row["deferred"],
        suppressing=row["suppressing"],
    )


async def _unknown(connection: Any, into: str) -> OperationError:
    names = [row[0] for row in await connection.fetch(_TABLES)]
    close = difflib.get_close_matches(into, names, n=3)
    if close:
        advice = f"did you mean {' or '.join(close)}?"
    elif names:
        advice = f"there are {', '.join(names[:10])}{' …' if len(names) > 10 else ''}."
    else:
        advice = "create it first; this database has no tables yet."
    return OperationError(f"There is no table {into!r}. Suggestion: {advice}")
