"""One table, one write, and COMMITs that stay under way until they are let go."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg

COMMITS = "commit"
GATE = 4711


def psql(database, sql):
    """Run SQL past everything under test."""
    return database.server.psql(sql, database=database.name)


def table(database):
    """A table of numbers, each at most once."""
    psql(database, "CREATE TABLE write (number int PRIMARY KEY)")


def rows(database, number):
    """How often a number is there."""
    return int(psql(database, f"SELECT count(*) FROM write WHERE number = {number}"))


async def write(pool, number, **options):
    """Insert a number in a transaction."""

    async def insert(connection):
        await connection.execute(f"INSERT INTO write VALUES ({number})")
        return number

    return await pool.run_transaction(insert, **options)


class Held:
    """COMMITs that wait at a gate: an advisory lock taken by a deferred trigger."""

    def __init__(self, admin):
        self._admin = admin

    async def reached(self):
        """Return when a COMMIT stands at the gate."""
        while not await self._admin.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND objid = $1",
            GATE,
        ):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def held_commits(database):
    """Inserts into ``write`` cannot finish their COMMIT inside this block."""
    admin = await asyncpg.connect(database.url)
    try:
        await admin.execute(
            f"CREATE OR REPLACE FUNCTION stand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$;"
            " CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON write DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION stand()"
        )
        await admin.execute("SELECT pg_advisory_lock($1)", GATE)
        yield Held(admin)
    finally:
        await admin.close()
