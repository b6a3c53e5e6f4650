"""After cleaning, nothing of the last borrower is left, and the driver's statements still work."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import psycopg
import pytest

from poolkeeper.session_reset import CLEANING_SQL, classify, cleaning_sql

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def connected(url, **settings):
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


# what a borrower leaves, how to see it, and what a fresh session answers
RESIDUE = {
    "role": (
        ["CREATE ROLE {role}", "SET ROLE {role}"],
        "SELECT current_user",
    ),
    "session authorization": (
        ["CREATE ROLE {role}", "SET SESSION AUTHORIZATION {role}"],
        "SELECT session_user",
    ),
    "setting": (
        ["SET work_mem = '123MB'", "SET search_path TO nowhere"],
        "SELECT current_setting('work_mem') || current_setting('search_path')",
    ),
    "setting by function": (
        ["SELECT set_config('statement_timeout', '12345', false)"],
        "SELECT current_setting('statement_timeout')",
    ),
    "transaction default": (
        ["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"],
        "SELECT current_setting('transaction_isolation') "
        "|| current_setting('transaction_read_only')",
    ),
    "temporary table": (
        ["CREATE TEMP TABLE leftover (a int)"],
        "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relname = 'leftover'",
    ),
    "temporary table by SELECT INTO": (
        ["SELECT 1 AS a INTO TEMP leftover"],
        "SELECT to_regclass('leftover')",
    ),
    "temporary view": (
        ["CREATE TEMP VIEW leftover AS SELECT 1"],
        "SELECT to_regclass('leftover')",
    ),
    "held cursor": (
        ["BEGIN", "DECLARE leftover CURSOR WITH HOLD FOR SELECT 1", "COMMIT"],
        "SELECT count(*) FROM pg_cursors WHERE name = 'leftover'",
    ),
    "advisory lock": (
        [
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_try_advisory_lock_shared(2)",
        ],
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    "notification channel": (
        ["LISTEN leftover"],
        "SELECT count(*) FROM pg_listening_channels()",
    ),
    "sequence position": (
        ["CREATE SEQUENCE leftover CACHE 10", "SELECT nextval('leftover'), setval('leftover', 5)"],
        "SELECT lastval()",
    ),
    "prepared statement": (
        ["PREPARE leftover AS SELECT 1", 'PREPARE "Left ""over" AS SELECT 2'],
        "SELECT count(*) FROM pg_prepared_statements WHERE from_sql",
    ),
    "prepared statement by PL/pgSQL": (
        ["DO $$BEGIN EXECUTE 'PREPARE leftover AS SELECT 1'; END$$"],
        "SELECT count(*) FROM pg_prepared_statements WHERE from_sql",
    ),
}


async def answer(connection, observe):
    """The value a query yields, or the SQLSTATE it ends with."""
    try:
        return await connection.fetchval(observe)
    except asyncpg.PostgresError as error:
        return error.sqlstate


@pytest.mark.parametrize("residue", RESIDUE)
async def test_nothing_of_the_last_borrower_is_left(postgres, residue):
    """What a fresh session answers before the borrower, it answers after the cleaning."""
    leave, observe = RESIDUE[residue]
    role = postgres.name + "_role"
    async with connected(postgres.url) as admin, connected(postgres.url) as connection:
        fresh = await answer(connection, observe)
        try:
            verdicts = []
            for sql in (text.format(role=role) for text in leave):
                await (admin if sql.startswith("CREATE ROLE") else connection).execute(sql)
                verdicts.append(classify(sql))
            assert await answer(connection, observe) != fresh
            # sequences are cleaned, but no text shows that one was used
            assert residue == "sequence position" or not all(v.clean for v in verdicts)
            may_prepare = any(v.may_prepare for v in verdicts)
            await connection.execute(cleaning_sql(may_prepare=may_prepare))
            assert await answer(connection, observe) == fresh
        finally:
            await connection.execute("SET SESSION AUTHORIZATION DEFAULT")
            await admin.execute(f"DROP ROLE IF EXISTS {role}")


async def test_asyncpg_statements_survive_cleaning(postgres):
    """Named statements, cached ones included, answer without being prepared again."""
    async with connected(postgres.url) as connection:
        await connection.execute("CREATE TABLE t (a int)")
        prepared = await connection.prepare("SELECT count(*) + $1::int FROM t")
        assert await connection.fetchval("SELECT $1::int", 5) == 5
        names = (
            "SELECT array_agg(name ORDER BY name) FROM pg_prepared_statements WHERE NOT from_sql"
        )
        before = await connection.fetchval(names)
        await connection.execute(cleaning_sql(may_prepare=True))
        assert await prepared.fetchval(1) == 1
        assert await connection.fetchval("SELECT $1::int", 6) == 6
        assert await connection.fetchval(names) == before
        assert len(before) >= 3


async def test_psycopg_statements_survive_cleaning(postgres):
    """Psycopg keeps its server-side statements, whose names start with _pg3_."""
    async with await psycopg.AsyncConnection.connect(
        postgres.url, autocommit=True, prepare_threshold=0
    ) as connection:
        names = (
            "SELECT array_agg(name ORDER BY name) FROM pg_prepared_statements WHERE NOT from_sql"
        )
        await connection.execute("SELECT %s::int", (1,))
        (before,) = await (await connection.execute(names)).fetchone()
        await connection.execute(cleaning_sql(may_prepare=True), prepare=False)
        (value,) = await (await connection.execute("SELECT %s::int", (7,))).fetchone()
        (after,) = await (await connection.execute(names)).fetchone()
        assert value == 7
        assert after == before
        assert len(before) >= 2


async def test_settings_the_connection_was_opened_with_survive(postgres):
    """Start-up settings and ALTER ROLE … SET are the session's own, the role included."""
    role, other = f"{postgres.name}_r", f"{postgres.name}_o"
    async with connected(postgres.url) as admin:
        await admin.execute(f"CREATE ROLE {role}; CREATE ROLE {other}")
        try:
            async with connected(
                postgres.url, role=role, application_name="shop", work_mem="64kB"
            ) as connection:
                observe = (
                    "SELECT current_user || current_setting('application_name') "
                    "|| current_setting('work_mem') || current_setting('client_encoding')"
                )
                fresh = await connection.fetchval(observe)
                assert role in fresh
                await connection.execute(
                    f"SET application_name = 'x'; SET work_mem = '1MB'; "
                    f"SET SESSION AUTHORIZATION {other}"
                )
                await connection.execute(CLEANING_SQL)
                assert await connection.fetchval(observe) == fresh
        finally:
            await admin.execute(f"DROP ROLE {role}; DROP ROLE {other}")


async def test_cleaning_works_for_a_borrower_who_gave_up_all_rights(postgres):
    """A role that may do nothing cannot keep the session for itself."""
    role = f"{postgres.name}_nobody"
    async with connected(postgres.url) as admin, connected(postgres.url) as connection:
        await admin.execute(f"CREATE ROLE {role}")
        try:
            before = await connection.fetchval("SELECT current_user")
            await connection.execute(
                f"SET SESSION AUTHORIZATION {role}; SET search_path TO nowhere; "
                "SET default_transaction_read_only TO on; SET DateStyle TO 'German'"
            )
            await connection.execute(cleaning_sql(may_prepare=True))
            assert await connection.fetchval("SELECT current_user") == before
        finally:
            await admin.execute(f"DROP ROLE {role}")


async def test_objects_of_the_borrower_cannot_stand_in_for_built_in_ones(postgres):
    """Cleaning names its functions and views by schema, whatever the database's search path."""
    async with connected(postgres.url) as admin:
        await admin.execute(
            "CREATE SCHEMA evil; "
            "CREATE FUNCTION evil.pg_advisory_unlock_all() RETURNS void LANGUAGE plpgsql "
            "AS $$BEGIN RAISE 'called'; END$$; "
            "CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE plpgsql "
            "AS $$BEGIN RAISE 'called'; END$$; "
            "CREATE VIEW evil.pg_prepared_statements AS SELECT 'x' AS name, true AS from_sql; "
            f"ALTER DATABASE {postgres.name} SET search_path TO evil, pg_catalog"
        )
    async with connected(postgres.url) as connection:
        await connection.execute("PREPARE leftover AS SELECT 1")
        await connection.execute("SELECT pg_catalog.pg_advisory_lock(1)")
        await connection.execute(cleaning_sql(may_prepare=True))
        left = await connection.fetchval(
            "SELECT count(*) FROM pg_catalog.pg_locks "
            "WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert left == 0


async def test_released_advisory_lock_is_free_for_others_at_once(postgres):
    """A waiter on another session gets the lock when the cleaning message is answered."""
    async with connected(postgres.url) as first, connected(postgres.url) as second:
        await first.execute("SELECT pg_advisory_lock(7)")
        waiting = asyncio.ensure_future(second.execute("SELECT pg_advisory_lock(7)"))
        await first.execute(CLEANING_SQL)
        assert await asyncio.wait_for(waiting, 30) == "SELECT 1"


async def test_cleaning_works_on_a_hot_standby(crashable_postgres):
    """Nothing in the message writes, and UNLISTEN is allowed during recovery."""
    crashable_postgres.stop()
    (crashable_postgres.data_dir / "pgdata" / "standby.signal").touch()
    crashable_postgres.start()
    async with connected(crashable_postgres.url) as connection:
        assert await connection.fetchval("SELECT pg_is_in_recovery()")
        await connection.execute("SET work_mem = '123MB'; PREPARE leftover AS SELECT 1")
        await connection.execute(cleaning_sql(may_prepare=True))
        assert await connection.fetchval("SHOW work_mem") != "123MB"
        assert not await connection.fetchval(
            "SELECT count(*) FROM pg_prepared_statements WHERE from_sql"
        )


async def test_statements_called_clean_leave_nothing_on_a_real_server(postgres):
    """SET LOCAL and its kin end with the transaction, inside one and outside."""
    async with connected(postgres.url) as connection:
        observe = (
            "SELECT current_setting('work_mem') || current_setting('search_path') || current_user "
            "|| current_setting('default_transaction_read_only') || (SELECT count(*) FROM pg_locks "
            "WHERE locktype = 'advisory')"
        )
        fresh = await connection.fetchval(observe)
        for sql in (
            "SET LOCAL work_mem = '123MB'",
            "SET LOCAL ROLE pg_monitor",
            "SET LOCAL SESSION AUTHORIZATION pg_monitor",
            "SET LOCAL SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET TRANSACTION READ ONLY",
            "SELECT set_config('search_path', 'nowhere', true)",
            "SELECT pg_advisory_xact_lock(1)",
        ):
            assert classify(sql).clean
            for text in (sql, f"BEGIN; {sql}; COMMIT", f"BEGIN; {sql}; ROLLBACK"):
                await connection.execute(text)
                assert await connection.fetchval(observe) == fresh, text
