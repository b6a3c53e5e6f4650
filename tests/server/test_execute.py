"""One statement on one real connection: text in, text out, bounded."""

import asyncio

import psycopg
import pytest

from poolkeeper.server.execute import (
    CopyRefusedError,
    DeadlineExceededError,
    NothingSentError,
    OutcomeUnknownError,
    ResultTooLargeError,
    bounded,
    run_statement,
)

PLENTY = 1 << 20


async def connect(url, **options):
    return await psycopg.AsyncConnection.connect(url, autocommit=True, **options)


async def run(conn, sql, *params, max_bytes=PLENTY):
    return await run_statement(conn, sql.encode(), params, max_bytes=max_bytes)


async def terminate(conn, url):
    """End a connection's backend and wait until it is gone."""
    async with await connect(url) as other:
        pid = conn.info.backend_pid
        await other.execute("select pg_terminate_backend(%s, 10000)", [pid])


async def wait_until_running(url, text):
    """Return when a statement with this text is active in the server."""
    query = "select 1 from pg_stat_activity where state = 'active' and query = %s"
    async with await connect(url) as other:
        while await (await other.execute(query, [text])).fetchone() is None:
            pass


@pytest.mark.asyncio
async def test_parameters_and_results_are_text_and_types_are_postgresqls(postgres):
    """The server infers what a parameter is; nothing is converted on the way."""
    async with await connect(postgres.url) as conn:
        result = await run(conn, "select $1::int + 1 as n, $2::interval", b"41", b"1 day")
    assert result.rows == [("42", "1 day")]
    assert [(field.name, field.type_oid) for field in result.fields] == [
        ("n", 23),
        ("interval", 1186),
    ]


@pytest.mark.asyncio
async def test_columns_tell_which_table_they_come_from(postgres):
    """Clients build on table and column numbers."""
    async with await connect(postgres.url) as conn:
        await run(conn, "create table things (a int, name varchar(10))")
        result = await run(conn, "select name from things")
        oid = (await run(conn, "select 'things'::regclass::oid")).rows[0][0]
    [field] = result.fields
    assert (field.table_oid, field.column_number) == (int(oid), 2)
    assert field.type_modifier == 14
    assert result.rows == []


@pytest.mark.parametrize(
    ("sql", "tag"),
    [
        ("", ""),
        ("select 1 where false", "SELECT 0"),
        ("insert into t select generate_series(1, 3)", "INSERT 0 3"),
        ("insert into t select generate_series(1, 200) returning a", "INSERT 0 200"),
        ("create index on t (a)", "CREATE INDEX"),
        ("listen channel", "LISTEN"),
    ],
)
@pytest.mark.asyncio
async def test_the_command_tag_is_postgresqls(postgres, sql, tag):
    """Also where the result came in many portions, or in none."""
    async with await connect(postgres.url) as conn:
        await run(conn, "create table t (a int)")
        assert (await run(conn, sql)).command_tag == tag


@pytest.mark.asyncio
async def test_two_statements_in_one_text_are_refused_by_the_server(postgres):
    """The extended protocol knows one; nothing of the text runs."""
    async with await connect(postgres.url) as conn:
        with pytest.raises(psycopg.errors.SyntaxError, match="multiple commands"):
            await run(conn, "create table t (a int); select 1")
        assert (await run(conn, "select to_regclass('t')")).rows == [(None,)]


@pytest.mark.asyncio
async def test_an_error_after_some_rows_is_an_error(postgres):
    """Rows that were already received are not presented as a result."""
    async with await connect(postgres.url) as conn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await run(conn, "select 1 / (500 - g) from generate_series(1, 1000) g")
        assert (await run(conn, "select 1")).rows == [("1",)]


@pytest.mark.asyncio
async def test_a_result_over_the_limit_is_cut_off_and_the_statement_rolled_back(postgres):
    """A big result is noticed early; the connection stays usable."""
    async with await connect(postgres.url) as conn:
        await run(conn, "create table t (a text)")
        sql = "insert into t select repeat('x', 1000) from generate_series(1, 200000) returning a"
        with pytest.raises(ResultTooLargeError) as refusal:
            await run(conn, sql)
        assert refusal.value.executed is False
        assert (await run(conn, "select count(*) from t")).rows == [("0",)]


@pytest.mark.asyncio
async def test_a_statement_that_finished_before_its_result_was_too_large_is_reported_so(postgres):
    """The rows are in the table: saying otherwise would make the client insert them twice."""
    async with await connect(postgres.url) as conn:
        await run(conn, "create table t (a int)")
        with pytest.raises(ResultTooLargeError) as refusal:
            await run(conn, "insert into t values (1), (2), (3) returning a", max_bytes=2)
        rows = (await run(conn, "select count(*) from t")).rows
    assert (refusal.value.executed, rows) == (True, [("3",)])


@pytest.mark.parametrize(
    "sql",
    [
        "copy t from stdin",
        "copy t to stdout",
        "copy (select generate_series(1, 1000000)) to stdout",
    ],
)
@pytest.mark.asyncio
async def test_copy_is_refused_and_leaves_a_usable_connection(postgres, sql):
    """Its data has no place in the protocol."""
    async with await connect(postgres.url) as conn:
        await run(conn, "create table t (a int)")
        with pytest.raises(CopyRefusedError):
            await run(conn, sql)
        assert (await run(conn, "select 1")).rows == [("1",)]


@pytest.mark.asyncio
async def test_a_connection_that_died_while_idle_is_noticed_before_sending(postgres):
    """Nothing was sent, so the statement may run elsewhere."""
    conn = await connect(postgres.url)
    await terminate(conn, postgres.url)
    with pytest.raises(NothingSentError):
        await run(conn, "select 1")
    with pytest.raises(NothingSentError):
        await run(conn, "select 1")


@pytest.mark.asyncio
async def test_a_connection_lost_after_sending_leaves_the_outcome_unknown(postgres):
    """It may have taken effect or not; nobody can tell from here."""
    conn = await connect(postgres.url)
    running = asyncio.create_task(run(conn, "select pg_sleep(60)"))
    await wait_until_running(postgres.url, "select pg_sleep(60)")
    await terminate(conn, postgres.url)
    with pytest.raises(OutcomeUnknownError):
        await running


@pytest.mark.asyncio
async def test_a_statement_is_cancelled_in_the_server_at_its_deadline(postgres):
    """Not merely forgotten: the connection is free again at once."""
    loop = asyncio.get_running_loop()
    async with await connect(postgres.url) as conn:
        with pytest.raises(DeadlineExceededError):
            await bounded(
                conn,
                run(conn, "select pg_sleep(60)"),
                deadline=loop.time() + 0.05,
                leaving=loop.create_future(),
            )
        assert (await run(conn, "select 1")).rows == [("1",)]


@pytest.mark.asyncio
async def test_a_statement_is_cancelled_when_the_client_leaves(postgres):
    """Long before its deadline."""
    loop = asyncio.get_running_loop()
    leaving = loop.create_future()
    async with await connect(postgres.url) as conn:
        work = run(conn, "select pg_sleep(59)")
        running = asyncio.create_task(
            bounded(conn, work, deadline=loop.time() + 60, leaving=leaving)
        )
        await wait_until_running(postgres.url, "select pg_sleep(59)")
        leaving.set_result(None)
        with pytest.raises(DeadlineExceededError):
            await running
        assert (await run(conn, "select 1")).rows == [("1",)]


@pytest.mark.asyncio
async def test_a_statement_that_ignores_its_cancellation_but_finishes_is_a_success(postgres):
    """The deadline passes, the cancel request comes too late, and the truth is told."""
    loop = asyncio.get_running_loop()
    ignoring = """
        do $$ begin
            perform pg_sleep(30);
        exception when query_canceled then null;
        end $$"""
    async with await connect(postgres.url) as conn:
        result = await bounded(
            conn, run(conn, ignoring), deadline=loop.time() + 0.05, leaving=loop.create_future()
        )
    assert result.command_tag == "DO"


@pytest.mark.asyncio
async def test_a_server_that_does_not_answer_a_cancel_request_costs_the_connection(
    crashable_postgres,
):
    """After a bounded wait the outcome is unknown, and nobody else gets that connection."""
    loop = asyncio.get_running_loop()
    conn = await connect(crashable_postgres.url)
    running = asyncio.create_task(
        bounded(
            conn,
            run(conn, "select pg_sleep(58)"),
            deadline=loop.time() + 1,
            leaving=loop.create_future(),
        )
    )
    await wait_until_running(crashable_postgres.url, "select pg_sleep(58)")
    crashable_postgres.freeze()
    try:
        with pytest.raises(OutcomeUnknownError, match="cancel request"):
            await running
    finally:
        crashable_postgres.thaw()
    assert conn.closed
