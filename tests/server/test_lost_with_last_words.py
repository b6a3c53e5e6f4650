"""A server process that says something and is gone: one event tells of both, and nothing hangs."""

import asyncio
import os
import select

import pytest

from poolkeeper.drivers.psycopg_exchange import give_back
from poolkeeper.server.execute import OutcomeUnknownError, run_statement
from tests.faults.rig import PATIENCE, on_both_loops, pool_on

STATEMENT = b"do $$ begin raise notice 'last words'; perform pg_sleep(600); end $$"
SYNC = b"S\x00\x00\x00\x04"


@on_both_loops
async def test_a_reset_right_behind_the_last_words_ends_the_statement(crashable_postgres):
    """libuv tells of an error once and never again: whoever reads then must read to the end."""
    url = crashable_postgres.dsn()
    # Nobody else who could notice.
    async with pool_on(url, "psycopg", reset="always", max_size=1, stall_after=0) as pool:
        conn = await pool.acquire()
        statement = asyncio.create_task(run_statement(conn, STATEMENT, (), max_bytes=100))
        await asyncio.sleep(0)
        # From here on the event loop stands still, until both have come.
        reset_behind_last_words(conn.pgconn, crashable_postgres)
        with pytest.raises(OutcomeUnknownError):
            await asyncio.wait_for(statement, PATIENCE / 4)
        give_back(conn, PATIENCE)
        assert pool.get_statistics().active_connections == 0
        # PostgreSQL restarts after such an end; it can be stopped again when that is over.
        async with pool.acquire():
            pass


def reset_behind_last_words(pgconn, server):
    """Wait for them; then the server process dies with something unread, which makes it a RST."""
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    assert poll.poll(1000 * PATIENCE)
    os.write(pgconn.socket, SYNC)
    server.kill_backend(pgconn.backend_pid)
    while not poll.poll()[0][1] & select.POLLERR:
        pass
