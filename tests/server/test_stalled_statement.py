"""A statement whose connection goes silent, seen by the client of a real server process."""

import asyncio
from time import monotonic

import pytest

from poolkeeper.testing.proxy import FaultProxy
from tests.server.processes import ServerProcess, active, until

STALL_SECONDS = 4.0
"""stall_after (1.5 s) and two attempts of a second to get through, and the look in between."""
SLACK_SECONDS = 3.0
"""For a machine that is busy with something else."""
LONG = ("--port=0", "--max-size=2", "--request-timeout=60", "--statement-timeout=60")


async def told_after_silence(postgres, query, *, links):
    """The answer to ``query``, whose connection falls silent under it, and the seconds it took."""
    async with FaultProxy.to(postgres.url) as proxy:
        with ServerProcess(*LONG, database_url=proxy.url) as server:
            await asyncio.to_thread(server.start)
            asking = asyncio.create_task(asyncio.to_thread(server.sql, query))
            await asyncio.to_thread(until, lambda: active(postgres.url, query))
            proxy.silence(links(proxy))
            struck = monotonic()
            answer = await asking
            return answer, monotonic() - struck


@pytest.mark.asyncio
async def test_a_statement_on_a_silent_database_ends_long_before_its_deadline(postgres):
    """Nobody answers any more: the outcome is unknown, and the client hears so within seconds."""
    answer, seconds = await told_after_silence(
        postgres, "select pg_sleep(45)", links=lambda _proxy: None
    )
    assert (answer.status_code, answer.json()["outcome"]) == (502, "unknown")
    assert seconds < STALL_SECONDS + SLACK_SECONDS


@pytest.mark.asyncio
async def test_a_statement_whose_answer_is_swallowed_ends_long_before_its_deadline(postgres):
    """One connection is dead and the database is not: it says that the statement is over."""
    answer, seconds = await told_after_silence(
        postgres, "select pg_sleep(1)", links=lambda proxy: proxy.links
    )
    assert (answer.status_code, answer.json()["outcome"]) == (502, "unknown")
    assert "cut this connection off" in answer.json()["message"]
    assert seconds < 1 + STALL_SECONDS + SLACK_SECONDS


@pytest.mark.asyncio
async def test_a_slow_statement_is_left_alone(postgres):
    """The server says it is at work; however silent that is, it is no fault."""
    async with FaultProxy.to(postgres.url) as proxy:
        with ServerProcess(*LONG, database_url=proxy.url) as server:
            await asyncio.to_thread(server.start)
            answer = await asyncio.to_thread(server.sql, "select 'slept' from pg_sleep(6)")
    assert answer.json()["rows"] == [{"?column?": "slept"}]
