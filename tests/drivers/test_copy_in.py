"""COPY from the client on a connection that is lost while the server takes no rows."""

import asyncio

import asyncpg
import pytest

from poolkeeper.testing.contracts import eventually
from tests.faults.rig import on_both_loops, pool_on

# From here on both event loops let writers wait.
HIGH_WATER = 64 * 1024
CHUNK = b"x" * 99_999 + b"\n"


async def rows_without_end():
    while True:
        yield CHUNK
        await asyncio.sleep(0)


async def records_without_end():
    while True:
        yield (CHUNK.decode(),)
        await asyncio.sleep(0)


def calls(conn):
    """Both ways to send rows that have no end."""
    return {
        "copy_to_table": lambda: conn.copy_to_table("taken", source=rows_without_end()),
        "copy_records_to_table": lambda: conn.copy_records_to_table(
            "taken", records=records_without_end()
        ),
    }


async def begun(admin, conn, name):
    """A COPY that waits for room to write, because the server waits for a lock."""
    copying = asyncio.ensure_future(calls(conn)[name]())
    transport = conn._con._transport
    await eventually(lambda: transport.get_write_buffer_size() > HIGH_WATER)
    assert not copying.done()
    return copying


@pytest.mark.parametrize("name", ["copy_to_table", "copy_records_to_table"])
@pytest.mark.parametrize("end", ["kill", "terminate", "abort"])
@on_both_loops
async def test_a_lost_connection_ends_a_copy_that_waits_for_room_to_write(postgres, name, end):
    """asyncpg would wait for ever."""
    admin = await asyncpg.connect(postgres.url)
    await admin.execute("create table taken (t text)")
    async with pool_on(postgres.url, max_size=1) as pool:
        async with pool.acquire() as conn, admin.transaction():
            await admin.execute("lock table taken in share mode")
            copying = await begun(admin, conn, name)
            if end == "kill":
                await admin.execute("select pg_terminate_backend($1)", conn.get_server_pid())
            elif end == "terminate":
                conn.terminate()
            else:
                conn._con._transport.abort()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await copying
        await pool.copy_records_to_table("taken", records=[("a",)])
        assert await pool.fetchval("select count(*) from taken") == 1
    await admin.close()
