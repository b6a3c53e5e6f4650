"""Check a backfill against the database, and complete it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.backfill.fragments import check_fragments, explain
from poolkeeper.operations.backfill.options import TUNABLE, check_request
from poolkeeper.operations.backfill.position import Position
from poolkeeper.operations.backfill.sql import SEMANTIC, Statements
from poolkeeper.operations.catalog import find_oid, plan, primary_key, rows_sorted
from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.kind import Prepared
from poolkeeper.operations.sql import identifier
from poolkeeper.outcomes import is_driver_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_SORTED_ROWS: Final = 10_000
"""Without an index in the order of the key each chunk sorts all rows that are left: that is for
small tables."""

_TABLE: Final = """
select c.oid, c.relkind::text as kind, c.relpersistence::text as persistence,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1"""

# A domain is compared, and cast to, as what it is made of: its constraints are no concern here.
_COLUMNS: Final = """
with recursive made_of(attnum, type) as (
    select attnum, atttypid from pg_attribute
     where attrelid = $1 and attnum > 0 and not attisdropped
    union all
    select m.attnum, t.typbasetype from made_of m join pg_type t on t.oid = m.type
     where t.typtype = 'd'
)
select a.attname::text as name, a.attnotnull as filled, a.attgenerated::text <> '' as generated,
       quote_ident(n.nspname) || '.' || quote_ident(t.typname) as type
  from pg_attribute a join made_of m using (attnum)
  join pg_type t on t.oid = m.type and t.typtype <> 'd'
  join pg_namespace n on n.oid = t.typnamespace
 where a.attrelid = $1 order by a.attnum"""

_BYTES: Final = """
with recursive tree(oid) as (
    select $1::oid union select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.oid
)
select coalesce(sum(pg_table_size(oid)), 0)::bigint from tree"""

_KINDS: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table: no checkpoint can be committed together with what is changed there",
}


async def prepare(connection: Any, asked: Mapping[str, Any]) -> Prepared:
    """See ``BackfillKind.prepare``."""
    check_request(asked)
    table = await _table(connection, asked["table"])
    columns = {row["name"]: row for row in await connection.fetch(_COLUMNS, table["oid"])}
    key = asked.get("key") or await primary_key(connection, table["oid"])
    _check_key(asked, key, table["name"], columns)
    spec: dict[str, Any] = {
        "table": table["name"],
        "set": asked.get("set"),
        "where": asked.get("where"),
        "key": [{"column": column, "type": columns[column]["type"]} for column in key],
        "sweep": bool(asked.get("sweep")),
        "session": {
            name: await connection.fetchval("select current_setting($1)", name) for name in SEMANTIC
        },
        **{name: asked[name] for name in TUNABLE if name in asked},
    }
    statements = Statements.of(spec)
    await _check_order(connection, statements)
    await check_fragments(connection, statements)
    await explain(connection, statements)
    rows = int((await plan(connection, f"SELECT FROM {table['name']}"))["Plan Rows"])
    size = await connection.fetchval(_BYTES, table["oid"])
    # the second pass of a sweep, which there always is where the first finds a row, reads as much
    passes = 2 if spec["sweep"] else 1
    spec["expected"] = {"rows": rows * passes, "bytes": size * passes}
    return Prepared(
        spec=spec,
        cursor=Position().to_cursor(),
        # of how many rows a condition holds is not known; how much is gone through is told in bytes
        rows_total=rows if size and spec["where"] is None else None,
        bytes_total=size * passes or None,
    )


async def _table(connection: Any, name: str) -> Any:
    oid = await find_oid(connection, name)
    if oid is None:
        raise OperationError(
            f"There is no table {name!r}. Suggestion: check its name, its schema and the "
            "search_path; as in SQL, capital letters need quotes."
        )
    table = await connection.fetchrow(_TABLE, oid)
    if table["kind"] not in {"r", "p"}:
        what = _KINDS.get(table["kind"], "no table")
        raise OperationError(
            f"{table['name']} is {what}. Suggestion: backfill the table that holds the rows."
        )
    if table["persistence"] == "t":
        raise OperationError(
            f"{table['name']} is a temporary table, which other sessions cannot see. Suggestion: "
            "change it with one statement."
        )
    return table


def _check_key(
    asked: Mapping[str, Any], key: Sequence[str], name: str, columns: Mapping[str, Any]
) -> None:
    """See that one can go along these columns."""
    if not key:
        raise OperationError(
            f"{name} has no primary key to go along. Suggestion: give key=, columns that are never "
            "NULL and have an index; they need not be unique."
        )
    for column in key:
        if column not in columns:
            raise OperationError(
                f"{name} has no column {column!r} for the key. Suggestion: use "
                f"{', '.join(map(repr, columns))}."
            )
        if not columns[column]["filled"]:
            raise OperationError(
                f"The column {column!r} of {name} may be NULL, and rows without a key would be "
                f"left out. Suggestion: ALTER TABLE {name} ALTER {identifier(column)} SET NOT "
                "NULL, or choose another key."
            )
        if columns[column]["generated"] and asked.get("set") is not None:
            raise OperationError(
                f"The column {column!r} of {name} is generated: what set= changes may change it, "
                "and rows would move past the cursor. Suggestion: choose another key."
            )


async def _check_order(connection: Any, statements: Statements) -> None:
    """See that rows can be read in the order of the key without sorting them, or are few."""
    columns = ", ".join(identifier(key.column) for key in statements.key)
    query = f"SELECT FROM {statements.table} ORDER BY {columns}"
    try:
        sorted_rows = await rows_sorted(connection, query)
    except Exception as error:
        if not is_driver_error(error) or connection.is_closed():
            raise
        raise OperationError(
            f"{statements.table} cannot be read in the order of ({columns}): {error}. Suggestion: "
            "choose a key whose columns can be compared."
        ) from error
    if sorted_rows > MOST_SORTED_ROWS:
        raise OperationError(
            f"{statements.table} has about {sorted_rows:,.0f} rows and no index in the order of "
            f"({columns}): every chunk would have to sort them. Suggestion: CREATE INDEX "
            f"CONCURRENTLY ON {statements.table} ({columns}), or choose a key that has one."
        )
