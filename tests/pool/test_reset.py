"""What a borrower leaves in a session never reaches the next one, in each mode of the reset."""

import asyncio

import asyncpg
import pytest

from poolkeeper.testing.contracts import eventually
from tests.pool.soundness import assert_sound

pytestmark = pytest.mark.asyncio

SETTING = "SELECT current_setting('search_path')"


async def used_by_two(pool, *statements, then=SETTING):
    """Run statements as one borrower, ask as the next one; the pool has one connection."""
    async with pool.acquire() as connection:
        for statement in statements:
            await connection.execute(statement)
    async with pool.acquire() as connection:
        return await connection.fetchval(then)


def cleanings(world, pool):
    """How many sessions were cleaned; in memory each comes by a gate."""
    return world.database.gates["clean"].arrivals


@pytest.mark.parametrize("mode", ["auto", "always"])
async def test_settings_do_not_outlive_their_borrower(real, mode):
    """SET is undone before the next borrower."""
    async with real.pool(max_size=1, reset=mode) as pool:
        new = await pool.fetchval(SETTING)
        assert await used_by_two(pool, "SET search_path = pg_catalog") == new


@pytest.mark.parametrize("mode", ["auto", "always", "transaction"])
async def test_a_transaction_does_not_outlive_its_borrower(real, mode):
    """It is rolled back in every mode."""
    async with real.pool(max_size=1, reset=mode) as pool:
        count = await used_by_two(
            pool, "BEGIN", "CREATE TABLE t (x int)", then="SELECT to_regclass('t')::text"
        )
        assert count is None


async def test_transaction_mode_keeps_the_session(real):
    """It promises a rollback and nothing else."""
    async with real.pool(max_size=1, reset="transaction") as pool:
        assert await used_by_two(pool, "SET search_path = pg_catalog") == "pg_catalog"


async def test_a_function_resets_instead(real):
    """It gets the driver's connection, after the rollback."""
    seen = []

    async def reset(connection):
        seen.append((type(connection), connection.is_in_transaction()))
        await connection.execute("SET search_path = 'from_hook'")

    async with real.pool(max_size=1, reset=reset) as pool:
        assert await used_by_two(pool, "BEGIN") == "from_hook"
    assert seen[0] == (asyncpg.Connection, False)


async def test_a_failing_reset_function_costs_the_connection(real):
    """Nobody gets a session of unknown state."""

    async def reset(connection):
        raise LookupError("cannot")

    async with real.pool(max_size=1, reset=reset) as pool:
        await pool.fetchval("SELECT 1")
        await pool.fetchval("SELECT 1")
        assert dict(pool.get_statistics().recycled)["reset_failed"] >= 1


@pytest.mark.parametrize(
    ("mode", "statements", "expected"),
    [
        ("auto", ["SELECT 1", "INSERT INTO t VALUES (1)"], 0),
        ("auto", ["BEGIN", "SELECT 1", "COMMIT"], 0),
        ("auto", ["SET a.b = 1"], 1),
        ("auto", ["BEGIN"], 1),
        ("always", ["SELECT 1"], 1),
        ("transaction", ["SET a.b = 1"], 0),
        ("transaction", ["BEGIN"], 1),
    ],
)
async def test_only_what_needs_it_is_cleaned(memory, mode, statements, expected):
    """In auto mode a harmless use costs nothing."""
    async with memory.pool(max_size=1, reset=mode) as pool:
        await used_by_two(pool, *statements, then="SELECT 2")
        at_least = 2 if mode == "always" else expected
        assert at_least - 1 <= cleanings(memory, pool) <= at_least


async def test_cleaning_takes_none_of_the_borrowers_time(memory):
    """The release returns while the session has yet to be cleaned."""
    async with memory.pool(max_size=1) as pool:
        with memory.database.gates.closed("clean") as gate:
            async with pool.acquire() as connection:
                await connection.execute("SET a.b = 1")
            assert pool.get_statistics().active_connections == 0
            assert pool.get_statistics().resetting_connections == 1
            await gate.reached()
        await assert_sound(pool, memory)


async def test_a_connection_somebody_still_works_on_is_not_lent_again(world):
    """It was released while another task's statement ran: it is dropped."""
    async with world.pool(max_size=1) as pool:
        connection = await pool.acquire()
        other = asyncio.create_task(connection.execute(world.slow))
        await asyncio.sleep(0)
        await pool.release(connection)
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await other
        assert dict(pool.get_statistics().recycled) == {"released_while_busy": 1}
        assert pool.get_statistics().total_outages == 0
        await eventually(lambda: only_one(world))
        await assert_sound(pool, world)


async def only_one(world):
    return await world.sessions() <= 1


async def test_a_cancelled_statement_costs_no_connection(real):
    """The server is asked to stop it, and the session is used again."""
    async with real.pool(max_size=1) as pool:
        async with pool.acquire() as connection:
            pid = connection.get_server_pid()
            with pytest.raises(TimeoutError):
                await connection.fetchval("SELECT pg_sleep(60)", timeout=0.05)
        assert await pool.fetchval("SELECT pg_backend_pid()") == pid
        assert dict(pool.get_statistics().recycled) == {}
