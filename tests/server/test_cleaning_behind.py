"""The session is cleaned right behind the last answer, and nobody gets it before that."""

import asyncio
import contextlib
from contextlib import asynccontextmanager

import psycopg
import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.drivers.psycopg_exchange import give_back, is_going_on
from poolkeeper.server.execute import (
    CopyRefusedError,
    NothingSentError,
    OutcomeUnknownError,
    ResultTooLargeError,
    run_statement,
)
from poolkeeper.server.interrupt import DeadlineExceededError, interruptible
from tests.server.sessions import connect, terminate, wait_until_running

PATIENCE = 30.0
LEAVINGS = [
    ("set statement_timeout = 12345", "show statement_timeout"),
    ("select set_config('my.user', 'alice', false)", "select current_setting('my.user', true)"),
    ("prepare leftover as select 1", "select count(*) from pg_prepared_statements"),
    ("listen channel", "select count(*) from pg_listening_channels()"),
    ("select pg_advisory_lock(7)", "select count(*) from pg_locks where locktype = 'advisory'"),
    ("create temp table left_over (a int)", "select to_regclass('pg_temp.left_over')"),
    ("set role pg_read_all_data", "select current_user = session_user"),
    (
        "declare c cursor with hold for select 1",
        "select count(*) from pg_cursors where is_holdable",
    ),
    ("begin", "select now() = statement_timestamp()"),
    (
        "do $$ begin execute 'prepare hidden as select 1';"
        " perform set_config('my.user', 'bob', false); end $$",
        "select count(*), current_setting('my.user', true) from pg_prepared_statements",
    ),
]


@asynccontextmanager
async def pool_on(postgres, **options):
    url = postgres.url.replace("postgresql://", "postgresql+psycopg://", 1)
    config = PoolConfig(
        database_url=url, min_size=1, max_size=1, reset="always", timeout=PATIENCE, **options
    )
    async with ConnectionPoolManager(config, prepare_threshold=None) as pool:
        yield pool


async def final(conn, sql, *params, max_bytes=1 << 20):
    return await run_statement(conn, sql.encode(), params, max_bytes=max_bytes, final=True)


async def ask(pool, sql):
    """The rows of one request."""
    conn = await pool.acquire()
    try:
        return (await final(conn, sql)).rows
    finally:
        give_back(conn, PATIENCE)


@pytest.mark.parametrize(("leave", "look"), LEAVINGS)
@pytest.mark.asyncio
async def test_nothing_reaches_the_next_borrower(postgres, leave, look):
    """Whatever a statement left in its session, seen by one on the same connection."""
    async with pool_on(postgres) as pool:
        pid = await ask(pool, "select pg_backend_pid()")
        fresh = await ask(pool, look)
        await ask(pool, leave)
        left = await ask(pool, look)
        assert await ask(pool, "select pg_backend_pid()") == pid
    # A setting somebody invented keeps its name, not its value.
    assert [cell or None for cell in left[0]] == [cell or None for cell in fresh[0]]


@pytest.mark.asyncio
async def test_the_pool_adds_no_cleaning_of_its_own(postgres):
    """The statement that ran last in the session is the cleaning behind the answer."""
    async with pool_on(postgres) as pool:
        [[pid]] = await ask(pool, "select pg_backend_pid()")
        conn = await pool.acquire()
        give_back(conn, PATIENCE)
        while pool.get_statistics().resetting_connections:
            await asyncio.sleep(0.001)
        after_pool = await last_statement(postgres, pid)
        await ask(pool, "select 1")
        while not pool.get_idle_size():
            await asyncio.sleep(0.001)
        after_statement = await last_statement(postgres, pid)
    assert "pg_prepared_statements" in after_pool
    assert after_statement.endswith("DEALLOCATE ALL")


async def last_statement(postgres, pid):
    query = "select query from pg_stat_activity where pid = %s"
    async with await connect(postgres.url) as other:
        return (await (await other.execute(query, [int(pid)])).fetchone())[0]


@pytest.mark.asyncio
async def test_a_waiter_gets_the_connection_only_when_it_is_clean(postgres):
    """It is given back while its cleaning is on the way, and still in use until that is over."""
    async with pool_on(postgres) as pool:
        conn = await pool.acquire()
        next_one = asyncio.ensure_future(pool.acquire())
        await final(conn, "set application_name = 'left'")
        assert is_going_on(conn)
        give_back(conn, PATIENCE)
        assert not next_one.done()
        other = await next_one
        rows = (await final(other, "show application_name")).rows
        give_back(other, PATIENCE)
        assert rows == [("",)]


@pytest.mark.asyncio
async def test_an_error_of_the_statement_is_cleaned_behind_as_well(postgres):
    """And is the answer all the same."""
    async with pool_on(postgres) as pool:
        conn = await pool.acquire()
        with pytest.raises(psycopg.errors.DivisionByZero):
            await final(conn, "select set_config('my.user', 'alice', false), 1 / 0")
        assert is_going_on(conn)
        give_back(conn, PATIENCE)
        assert await ask(pool, "select current_setting('my.user', true)") in ([(None,)], [("",)])


@pytest.mark.asyncio
async def test_an_error_at_the_commit_of_one_statement_is_its_answer(postgres):
    """A deferred constraint fails after the statement has said that it is done."""
    async with pool_on(postgres) as pool:
        await ask(pool, "create table t (a int unique deferrable initially deferred)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await ask(pool, "insert into t values (1), (1)")
        assert await ask(pool, "select count(*) from t") == [("0",)]


@pytest.mark.asyncio
async def test_what_cannot_be_cleaned_behind_the_answer_is_cleaned_by_the_pool(postgres):
    """An open transaction, a result over the limit, a COPY: the next borrower sees none of it."""
    async with pool_on(postgres) as pool:
        await ask(pool, "create table t (a int)")
        for error, sql in [
            (ResultTooLargeError, "select repeat('x', 1000) from generate_series(1, 10000)"),
            (CopyRefusedError, "copy t to stdout"),
        ]:
            conn = await pool.acquire()
            with pytest.raises(error):
                await final(conn, sql, max_bytes=1000)
            await pool.release(conn)
            assert await ask(pool, "select count(*) from t") == [("0",)]
        await ask(pool, "begin")
        await ask(pool, "insert into t values (1)")
        await ask(pool, "rollback")
        assert await ask(pool, "select count(*) from t") == [("1",)]


@pytest.mark.asyncio
async def test_a_connection_given_back_in_the_middle_of_its_cleaning_is_not_used_again(postgres):
    """Releasing it past `give_back` costs the connection, and leaks nothing."""
    async with pool_on(postgres) as pool:
        pid = await ask(pool, "select pg_backend_pid()")
        conn = await pool.acquire()
        await final(conn, "set application_name = 'left'")
        await pool.release(conn)
        assert await ask(pool, "show application_name") == [("",)]
        assert await ask(pool, "select pg_backend_pid()") != pid


@pytest.mark.asyncio
async def test_a_connection_used_after_its_cleaning_is_cleaned_again(postgres):
    """The promise that a statement is the last one is not taken on trust."""
    async with pool_on(postgres) as pool:
        conn = await pool.acquire()
        await final(conn, "select 1")
        while is_going_on(conn):
            await asyncio.sleep(0.001)
        await conn.execute("set application_name = 'left'")
        give_back(conn, PATIENCE)
        assert await ask(pool, "show application_name") == [("",)]


@pytest.mark.asyncio
async def test_statements_psycopg_has_prepared_are_not_taken_from_it(postgres):
    """Where it prepares, the cleaning is the pool's, which keeps them."""
    url = postgres.url.replace("postgresql://", "postgresql+psycopg://", 1)
    config = PoolConfig(database_url=url, min_size=1, max_size=1, reset="always")
    async with ConnectionPoolManager(config, prepare_threshold=0) as pool:
        for _ in range(3):
            async with pool.acquire() as conn:
                cursor = await conn.execute("select %s::int", [7])
                assert await cursor.fetchone() == (7,)
            assert await ask(pool, "select 1") == [("1",)]


@pytest.mark.asyncio
async def test_a_connection_that_dies_behind_its_answer_is_replaced(postgres):
    """In its cleaning or after it: at worst the next one is told that nothing was sent."""
    async with pool_on(postgres) as pool:
        [[pid]] = await ask(pool, "select pg_backend_pid()")
        conn = await pool.acquire()
        await final(conn, "select 1")
        async with await connect(postgres.url) as other:
            await other.execute("select pg_terminate_backend(%s, 10000)", [int(pid)])
        give_back(conn, PATIENCE)
        with contextlib.suppress(NothingSentError):
            await ask(pool, "select 1")
        assert await ask(pool, "select pg_backend_pid()") != [(pid,)]


@pytest.mark.asyncio
async def test_a_cleaning_that_is_not_answered_ends_with_its_connection(crashable_postgres):
    """After its time the connection is cut off; the pool is not one connection short for ever."""
    async with pool_on(crashable_postgres, stall_after=0, probe_interval=3600) as pool:
        conn = await pool.acquire()
        await final(conn, "select 1")
        crashable_postgres.freeze()
        try:
            give_back(conn, 0.2)
            while pool.get_statistics().active_connections:
                await asyncio.sleep(0.01)
        finally:
            crashable_postgres.thaw()
        assert await ask(pool, "select 1") == [("1",)]


@pytest.mark.asyncio
async def test_a_cancelled_statement_is_never_followed_by_a_cancelled_stranger(postgres):
    """However the deadline falls around the end of a statement and of its cleaning."""
    loop = asyncio.get_running_loop()
    async with pool_on(postgres) as pool:
        for step in range(150):
            conn = await pool.acquire()
            try:
                await interruptible(
                    conn,
                    final(conn, "select pg_sleep(0.002)"),
                    deadline=loop.time() + step * 0.00003,
                    leaving=loop.create_future(),
                )
            except DeadlineExceededError:
                pass
            finally:
                give_back(conn, PATIENCE)
            assert await ask(pool, "select 1") == [("1",)]


@pytest.mark.asyncio
async def test_a_connection_the_pool_cuts_off_ends_its_statement(postgres):
    """Closing the pool for good wakes whoever waits for an answer, with the truth."""
    async with pool_on(postgres) as pool:
        conn = await pool.acquire()
        running = asyncio.create_task(final(conn, "select pg_sleep(56)"))
        await wait_until_running(postgres.url, "select pg_sleep(56)")
        pool.terminate()
        with pytest.raises(OutcomeUnknownError):
            await running
        give_back(conn, PATIENCE)


@pytest.mark.asyncio
async def test_a_long_statement_text_is_sent_in_pieces(postgres):
    """More than the kernel takes at once, with an answer as long."""
    async with pool_on(postgres) as pool:
        text = "x" * 20_000_000
        conn = await pool.acquire()
        result = await final(conn, "select length($1), $1", text.encode(), max_bytes=1 << 25)
        give_back(conn, PATIENCE)
        assert result.rows == [(str(len(text)), text)]
        assert await ask(pool, "select 1") == [("1",)]


@pytest.mark.asyncio
async def test_text_comes_in_the_encoding_the_session_has(postgres):
    """A client may have changed it a statement before."""
    async with pool_on(postgres) as pool:
        conn = await pool.acquire()
        await run_statement(conn, b"set client_encoding to latin1", (), max_bytes=100)
        result = await final(conn, "select chr(228)")
        give_back(conn, PATIENCE)
        assert result.rows == [("ä",)]
        assert await ask(pool, "select chr(8364)") == [("€",)]


@pytest.mark.asyncio
async def test_a_write_refused_by_a_read_only_server_is_told_to_the_pool(postgres):
    """As with any other statement: perhaps the server was the primary once."""
    async with pool_on(postgres) as pool:
        heard = []
        pool._pool.on_refusal = lambda _session, error: heard.append(error.sqlstate)
        conn = await pool.acquire()
        await run_statement(conn, b"begin read only", (), max_bytes=100)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await final(conn, "create table t (a int)")
        await pool.release(conn)
    assert heard == ["25006"]


@pytest.mark.asyncio
async def test_a_connection_without_a_pool_is_left_as_it_is(postgres):
    """There is nobody who would lend it to the next."""
    async with await connect(postgres.url) as conn:
        await final(conn, "set application_name = 'kept'")
        assert (await final(conn, "show application_name")).rows == [("kept",)]
        await terminate(conn, postgres.url)
