"""Check a backfill against the database, and complete it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.backfill.fragments import check_fragments, explain
from poolkeeper.operations.backfill.options import TUNABLE, check_request
from poolkeeper.operations.backfill.position import Position
from poolkeeper.operations.backfill.sql import SEMANTIC, Statements, identifier
from poolkeeper.operations.errors import OperationError
from poolkeeper.operations.kind import Prepared
from poolkeeper.outcomes import is_driver_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_SORTED_ROWS: Final = 10_000
"""Without an index in the order of the key each chunk sorts all rows that are left: that is for
small tables."""

_TABLE: Final = """
select c.oid, c.relkind::text as kind, c.relpersistence::text as persistence,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name,
       array(select a.attname::text from pg_index i, unnest(i.indkey) with ordinality k(n, place)
               join pg_attribute a on a.attnum = k.n and a.attrelid = $1
              where i.indrelid = $1 and i.indisprimary and k.place <= i.indnkeyatts
              order by k.place) as primary_key
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
    key = _key(asked, table, columns)
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
    rows = int((await _plan(connection, f"SELECT FROM {table['name']}"))["Plan Rows"])
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
    oid = None
    # as SQL, else as it is written: My Table
    for spelling in (name, ".".join(identifier(part) for part in name.split("."))):
        try:
            oid = await connection.fetchval("select to_regclass($1)::oid", spelling)
        except Exception as error:
            if not is_driver_error(error) or connection.is_closed():
                raise
        if oid is not None:
            break
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


def _key(asked: Mapping[str, Any], table: Any, columns: Mapping[str, Any]) -> Sequence[str]:
    """The columns to go along."""
    key: Sequence[str] = asked.get("key") or table["primary_key"]
    name = table["name"]
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
    return key


async def _check_order(connection: Any, statements: Statements) -> None:
    """See that rows can be read in the order of the key without sorting them, or are few."""
    columns = ", ".join(identifier(key.column) for key in statements.key)
    query = f"SELECT FROM {statements.table} ORDER BY {columns}"
    try:
        async with connection.transaction():
            # if there is another way at all, it is taken
            await connection.execute("set local enable_sort = off; set local enable_seqscan = off")
            sorted_rows = rows_sorted(await _plan(connection, query))
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


async def _plan(connection: Any, query: str) -> dict[str, Any]:
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}")
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return plan


def rows_sorted(plan: Mapping[str, Any]) -> float:
    """How many rows a plan sorts at the most, by estimate."""
    own = float(plan["Plan Rows"]) if plan["Node Type"] == "Sort" else 0.0
    below: Sequence[Mapping[str, Any]] = plan.get("Plans", ())
    return max([own, *map(rows_sorted, below)])
