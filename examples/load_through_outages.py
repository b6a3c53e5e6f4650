"""Load a file while the database is killed under it, then count: every row is there once.

Needs no database, only pip install 'poolkeeper[testing]'.
"""

import asyncio
import logging
import tempfile
import time
from pathlib import Path

import poolkeeper
from poolkeeper.operations import Report
from poolkeeper.testing import FaultyPostgres

ROWS = 1_000_000
OUTAGES = 2
OUTAGE_SECONDS = 1.0

started = time.monotonic()


def say(text: str) -> None:
    """Print a line with the time since the start."""
    print(f"{time.monotonic() - started:7.3f} s  {text}", flush=True)


def write_orders(path: Path) -> None:
    """As many rows as it takes to have time for an outage."""
    with path.open("w", encoding="utf-8") as file:
        file.write("id,item\n")
        file.writelines(f"{number},{'tea' * 20}\n" for number in range(ROWS))


async def main() -> None:
    """Start a server, write the file, load it, count."""
    logging.getLogger("poolkeeper").addHandler(logging.NullHandler())  # we print reports ourselves
    with tempfile.TemporaryDirectory() as directory:
        orders = Path(directory) / "orders.csv"
        server = FaultyPostgres(Path(directory) / "postgres")
        say("starting an embedded PostgreSQL")
        await asyncio.to_thread(server.start)
        try:
            await asyncio.to_thread(write_orders, orders)
            async with poolkeeper.create_pool(server.url) as pool:
                await pool.execute("CREATE TABLE orders (id int, item text)")
                await load(pool, orders, server)
                found = await pool.fetchrow(
                    "SELECT count(*) AS rows, count(DISTINCT id) AS different FROM orders"
                )
                say(f"rows: {found['rows']:,}, different ones: {found['different']:,}")
        finally:
            await asyncio.to_thread(server.stop)


async def load(
    pool: poolkeeper.ConnectionPoolManager, orders: Path, server: FaultyPostgres
) -> None:
    """Run the load, with the killer beside it."""
    moved = asyncio.Event()
    waiting = False

    def show(report: Report) -> None:
        nonlocal waiting
        if report.waiting_for is not None:
            if not waiting:
                say(f"waits: {report.waiting_for}")
        elif waiting:
            say(f"goes on at {report.status.rows_done:,} rows")
        elif report.status.rows_done:
            moved.set()
        waiting = report.waiting_for is not None

    operation = await pool.operations.load(orders, into="orders")
    running = asyncio.ensure_future(operation.run(report=show))
    for _ in range(OUTAGES):
        moved.clear()
        await moved.wait()
        say("killing every process of PostgreSQL")
        await asyncio.to_thread(server.crash)
        await asyncio.sleep(OUTAGE_SECONDS)
        await asyncio.to_thread(server.start)
        say("PostgreSQL accepts connections")
    status = await running
    say(f"{status.state.value}: {status.rows_done:,} rows, {status.outages} outages ridden out")


if __name__ == "__main__":
    asyncio.run(main())
