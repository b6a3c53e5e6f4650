"""Statements that are ended from outside, and the truth about them."""

import asyncio
import contextlib

import pytest

from poolkeeper.server.execute import OutcomeUnknownError
from poolkeeper.server.interrupt import DeadlineExceededError, interruptible
from tests.server.sessions import connect, run, wait_until_running


@pytest.mark.asyncio
async def test_a_statement_is_cancelled_in_the_server_at_its_deadline(postgres):
    """Not merely forgotten: the connection is free again at once."""
    loop = asyncio.get_running_loop()
    async with await connect(postgres.url) as conn:
        with pytest.raises(DeadlineExceededError):
            await interruptible(
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
            interruptible(conn, work, deadline=loop.time() + 60, leaving=leaving)
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
        result = await interruptible(
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
        interruptible(
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


@pytest.mark.asyncio
async def test_cancelling_the_task_closes_the_connection(postgres):
    """Its statement may still run: nobody else may get that connection."""
    loop = asyncio.get_running_loop()
    conn = await connect(postgres.url)
    work = run(conn, "select pg_sleep(57)")
    running = asyncio.create_task(
        interruptible(conn, work, deadline=loop.time() + 60, leaving=loop.create_future())
    )
    await wait_until_running(postgres.url, "select pg_sleep(57)")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert conn.closed


@pytest.mark.asyncio
async def test_an_interruption_never_reaches_the_next_statement(postgres):
    """However the deadline falls around the end of a statement, the next one is left alone."""
    loop = asyncio.get_running_loop()
    async with await connect(postgres.url) as conn:
        for step in range(200):
            work = run(conn, "select pg_sleep(0.002)")
            deadline = loop.time() + step * 0.00002
            with contextlib.suppress(DeadlineExceededError):
                await interruptible(conn, work, deadline=deadline, leaving=loop.create_future())
            assert (await run(conn, "select 1")).rows == [("1",)]


@pytest.mark.asyncio
async def test_a_client_that_leaves_with_its_answer_harms_nobody(postgres):
    """Its departure is noticed one step too late; the connection belongs to somebody else then."""
    loop = asyncio.get_running_loop()
    leaving = loop.create_future()
    async with await connect(postgres.url) as conn:

        async def work():
            result = await run(conn, "select 1")
            leaving.set_result(None)
            return result

        await interruptible(conn, work(), deadline=loop.time() + 60, leaving=leaving)
        assert (await run(conn, "select 'next' from pg_sleep(0.2)")).rows == [("next",)]
