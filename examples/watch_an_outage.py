"""Kill the database under 20 busy clients, bring it back, and print what the pool says.

Needs no database, only pip install 'poolkeeper[testing]'.
"""

import asyncio
import logging
import tempfile
import time
from collections import Counter

import asyncpg

from poolkeeper import ConnectionPoolError, ConnectionPoolManager, PoolConfig
from poolkeeper.observability import Event
from poolkeeper.testing import FaultyPostgres

CLIENTS = 20
OUTAGE_SECONDS = 2.0

started = time.monotonic()


def say(text: str) -> None:
    """Print a line with the time since the start."""
    print(f"{time.monotonic() - started:7.3f} s  {text}", flush=True)


def show(event: Event) -> None:
    """Print what matters of an event."""
    if event.name == "connection_recycled":
        return  # one for each connection
    facts = {name: value for name, value in event.to_dict().items() if name != "pool"}
    facts.pop("database_url", None)
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in facts.items()}
    say(f"{event.name}  " + "  ".join(f"{name}={value}" for name, value in rounded.items()))


async def client(pool: ConnectionPoolManager, stop: asyncio.Event, seen: Counter[str]) -> None:
    """Read in a loop, as a request handler would, and count how each read ends."""
    while not stop.is_set():
        try:
            await pool.fetchval("SELECT 1")
        except ConnectionPoolError as error:
            # Refused by the pool: nothing was sent to the database.
            seen[f"refused: {type(error).__name__}"] += 1
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # The database died with the statement on its way.
            seen["cut off in flight"] += 1
        else:
            seen["answered"] += 1
        await asyncio.sleep(0.005)


async def main() -> None:
    """Crash, wait, restart, watch."""
    logging.getLogger("poolkeeper").addHandler(logging.NullHandler())  # we print events ourselves
    with tempfile.TemporaryDirectory() as directory:
        server = FaultyPostgres(directory)
        say("starting an embedded PostgreSQL")
        await asyncio.to_thread(server.start)
        try:
            await watch(server)
        finally:
            await asyncio.to_thread(server.stop)


async def watch(server: FaultyPostgres) -> None:
    """Run clients on a pool while the server goes away and comes back."""
    seen: Counter[str] = Counter()
    stop = asyncio.Event()
    back = asyncio.Event()
    pool = ConnectionPoolManager(PoolConfig(database_url=server.url, min_size=2, max_size=10))
    pool.add_event_listener(show)
    pool.add_event_listener(
        lambda event: back.set() if event.name == "database_reconnected" else None
    )
    async with pool, asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client(pool, stop, seen))
        await asyncio.sleep(1)

        say("killing every process of PostgreSQL")
        await asyncio.to_thread(server.crash)
        await asyncio.sleep(OUTAGE_SECONDS)
        report = await pool.health_check()
        say(f"health: {report.status}, {report.database.pool.waiting} clients wait")
        say("starting PostgreSQL again")
        await asyncio.to_thread(server.start)
        say("PostgreSQL accepts connections")
        await back.wait()
        await asyncio.sleep(1)

        say(f"health: {(await pool.health_check()).status}")
        stop.set()
    for outcome, count in sorted(seen.items()):
        say(f"{outcome}: {count}")


if __name__ == "__main__":
    asyncio.run(main())
