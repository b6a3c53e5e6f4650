"""Open a pool, use it, read its statistics.

Needs a database: DATABASE_URL=postgresql://user:password@localhost:5432/app python quickstart.py
"""

import asyncio
import os
import sys

import poolkeeper


async def main() -> None:
    """One table, ten tasks, four connections."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        sys.exit("set DATABASE_URL, such as postgresql://user:password@localhost:5432/app")
    async with poolkeeper.create_pool(url, max_size=4) as pool:
        await pool.execute("CREATE TABLE IF NOT EXISTS visit (name text NOT NULL)")

        async def visit(number: int) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("INSERT INTO visit VALUES ($1)", f"guest {number}")

        await asyncio.gather(*(visit(number) for number in range(10)))
        print("visits:", await pool.fetchval("SELECT count(*) FROM visit"))

        statistics = pool.get_statistics()
        print("connections:", statistics.total_connections, "of", statistics.max_size)
        print("acquisitions:", statistics.total_acquisitions)
        print("health:", (await pool.health_check()).status)


if __name__ == "__main__":
    asyncio.run(main())
