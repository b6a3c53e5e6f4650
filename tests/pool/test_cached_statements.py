"""Statements prepared already give what asyncpg gives, whatever the schema does."""

import asyncpg
import pytest

pytestmark = pytest.mark.asyncio

FIRST_VALUE = {
    "fetch": lambda rows: rows[0][0],
    "fetchrow": lambda row: row[0],
    "fetchval": lambda value: value,
}
"""How to get at the first column of the first row, for each method that has a short way."""


async def ask(connection, method, query):
    return FIRST_VALUE[method](await getattr(connection, method)(query))


@pytest.mark.parametrize("method", FIRST_VALUE)
async def test_an_altered_composite_type_costs_one_error_and_no_connection(real, method):
    """asyncpg has to look the type up again; the statement after that is right."""
    await real.admin.execute("CREATE TYPE pair AS (x int, y int)")
    await real.admin.execute("CREATE TABLE pairs (p pair)")
    await real.admin.execute("INSERT INTO pairs VALUES ((1, 2))")
    query = "SELECT p FROM pairs"
    async with real.pool(max_size=1) as pool, pool.acquire() as connection:
        pid = connection.get_server_pid()
        for _ in range(2):
            await ask(connection, method, query)
        await real.admin.execute("ALTER TYPE pair ADD ATTRIBUTE z text")
        with pytest.raises(asyncpg.OutdatedSchemaCacheError):
            await ask(connection, method, query)
        assert not connection.is_closed()
        for _ in range(2):
            assert tuple(await ask(connection, method, query)) == (1, 2, None)
        assert connection.get_server_pid() == pid


@pytest.mark.parametrize("method", FIRST_VALUE)
async def test_a_column_of_another_type_is_prepared_anew(real, method):
    """Outside a transaction nobody notices."""
    await real.admin.execute("CREATE TABLE t (x int)")
    await real.admin.execute("INSERT INTO t VALUES (1)")
    async with real.pool(max_size=1) as pool, pool.acquire() as connection:
        for _ in range(2):
            assert await ask(connection, method, "SELECT x FROM t") == 1
        await real.admin.execute("ALTER TABLE t ALTER x TYPE text")
        for _ in range(2):
            assert await ask(connection, method, "SELECT x FROM t") == "1"


@pytest.mark.parametrize("method", FIRST_VALUE)
async def test_a_column_of_another_type_fails_a_transaction_as_it_does_in_asyncpg(real, method):
    """The server has aborted it; the connection is right again after it."""
    await real.admin.execute("CREATE TABLE t (x int)")
    await real.admin.execute("INSERT INTO t VALUES (1)")
    async with real.pool(max_size=1) as pool, pool.acquire() as connection:
        for _ in range(2):
            assert await ask(connection, method, "SELECT x FROM t") == 1
        await real.admin.execute("ALTER TABLE t ALTER x TYPE text")
        with pytest.raises(asyncpg.InvalidCachedStatementError):
            async with connection.transaction():
                await ask(connection, method, "SELECT x FROM t")
        assert await ask(connection, method, "SELECT x FROM t") == "1"


@pytest.mark.parametrize("column", [None, 0, 1, 2, "x", "y", "missing", True])
async def test_fetchval_takes_the_columns_asyncpg_takes(real, column):
    """The first time, and from the cache; what asyncpg refuses is refused with its error."""
    query = "SELECT 1 AS x, 2 AS y"

    async def outcome(connection):
        try:
            return await connection.fetchval(query, column=column)
        except (LookupError, TypeError) as error:
            return type(error), str(error)

    async with real.pool(max_size=1) as pool, pool.acquire() as connection:
        for _ in range(2):
            assert await outcome(connection) == await outcome(real.admin)
