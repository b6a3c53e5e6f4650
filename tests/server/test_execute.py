"""One statement on one real connection: text in, text out, bounded."""

import asyncio

import psycopg
import pytest

from poolkeeper.server.execute import (
    CopyRefusedError,
    NothingSentError,
    OutcomeUnknownError,
    ResultTooLargeError,
)
from tests.server.sessions import connect, run, terminate, wait_until_running


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
        await run(conn, "create table t (a int)")
        await run(
            conn,
            "create function put(int) returns text language sql as"
            " $$ insert into t values ($1) returning repeat('x', 1000) $$",
        )
        with pytest.raises(ResultTooLargeError) as refusal:
            await run(conn, "select put(g) from generate_series(1, 1000000) g")
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
