"""What PostgreSQL's catalogue and planner say of a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.sql import identifier
from poolkeeper.outcomes import is_driver_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PRIMARY_KEY: Final = """
select a.attname::text
  from pg_index i, unnest(i.indkey) with ordinality k(n, place)
  join pg_attribute a on a.attnum = k.n and a.attrelid = $1
 where i.indrelid = $1 and i.indisprimary
       -- what follows those is only INCLUDEd
   and k.place <= i.indnkeyatts
 order by k.place"""


async def find_oid(connection: Any, name: str) -> int | None:
    """The oid of a table; None if there is none.

    Args:
        connection: One of asyncpg, within a transaction or not.
        name: As SQL would have it, else exactly as it is written: ``My Table``.
    """
    for spelling in (name, ".".join(identifier(part) for part in name.split("."))):
        try:
            # a transaction around it must survive a name that is no SQL as it stands
            async with connection.transaction():
                oid: int | None = await connection.fetchval("select to_regclass($1)::oid", spelling)
        except Exception as error:
            if not is_driver_error(error) or connection.is_closed():
                raise
            continue
        if oid is not None:
            return oid
    return None


async def primary_key(connection: Any, oid: int) -> list[str]:
    """The columns of a table's primary key, in its order; none if it has no such key."""
    return [row[0] for row in await connection.fetch(_PRIMARY_KEY, oid)]


async def plan(connection: Any, query: str) -> dict[str, Any]:
    """The plan of a query, as EXPLAIN has it."""
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}")
    top: dict[str, Any] = json.loads(text)[0]["Plan"]
    return top


async def rows_sorted(connection: Any, query: str) -> float:
    """How many rows a query sorts at a time, by estimate, where no index has them in its order."""
    async with connection.transaction():
        # if there is another way at all, it is taken; and no worker's share is taken for all rows
        await connection.execute(
            "set local enable_sort = off; set local enable_seqscan = off;"
            "set local max_parallel_workers_per_gather = 0"
        )
        return _sorted(await plan(connection, query))


def _sorted(node: Mapping[str, Any]) -> float:
    own = float(node["Plan Rows"]) if node["Node Type"] == "Sort" else 0.0
    below: Sequence[Mapping[str, Any]] = node.get("Plans", ())
    return max([own, *map(_sorted, below)])
