"""What tests of backfills do again and again."""

import asyncio


async def numbered(admin, rows, *, table="t"):
    """Make a table with so many rows whose ``n`` is 0."""
    await admin.execute(
        f"CREATE TABLE {table} (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);"
        f"INSERT INTO {table} SELECT generate_series(1, {rows})"
    )


async def values(admin, table="t"):
    """Every value of ``n`` and how often it is there."""
    rows = await admin.fetch(f"SELECT n, count(*) FROM {table} GROUP BY n")
    return {row[0]: row[1] for row in rows}


async def one_chunk(operation):
    """Run a chunk or a few, and lay the operation down."""
    stop = asyncio.Event()
    await operation.run(stop=stop, report=lambda report: report.status.seq and stop.set())
