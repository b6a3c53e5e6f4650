"""A peer that went silent is noticed without anybody's query, and a slow one is left alone."""

import asyncio
import contextlib
import socket
import time
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from poolkeeper.testing.proxy import Direction, FaultProxy, SilentServer, Verdict
from tests.faults.rig import (
    on_both_loops,
    outages,
    outcome,
    pool_on,
    until,
    with_both_drivers,
)

STALL = 0.4


async def warm(pool, number):
    """Open that many connections and put them back."""
    held = [await pool.acquire() for _ in range(number)]
    for connection in held:
        await connection.execute("SELECT 1")
        await pool.release(connection)


@with_both_drivers
@on_both_loops
async def test_a_slow_statement_is_asked_about_and_left_alone(postgres, driver):
    """The server says it is at work on it, several times; it ends as it would have."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, max_size=1, stall_after=STALL) as pool,
    ):
        before = proxy.accepted
        await pool.execute("SELECT pg_sleep(2.5)")
        assert proxy.accepted > before, "nobody asked"
        assert not outages(pool)
        assert "stalled" not in pool.get_statistics().recycled


@with_both_drivers
@on_both_loops
async def test_a_server_that_answers_nobody_ends_every_call(crashable_postgres, driver):
    """With every connection in a statement no probe can run, and yet all come back."""
    async with pool_on(crashable_postgres.dsn(), driver, stall_after=STALL) as pool:
        await warm(pool, 4)
        crashable_postgres.freeze()
        try:
            calls = [outcome(pool.execute("SELECT 1")) for _ in range(4)]
            errors = await asyncio.gather(*calls)
            assert all(errors)
            assert "silent" in "".join(errors[0].__notes__)
            assert (await pool.health_check()).status == "unhealthy"
            assert outages(pool)[0].reason in {"stalled", "validation_failed"}
        finally:
            crashable_postgres.thaw()
        assert await outcome(pool.execute("SELECT 1")) is None
        assert (await pool.health_check()).status != "unhealthy"


@with_both_drivers
@on_both_loops
async def test_one_dead_socket_among_live_ones_fails_alone(postgres, driver):
    """Its statement ends; nobody else notices and no outage is reported."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, stall_after=STALL) as pool,
    ):
        await warm(pool, 3)
        async with pool.acquire() as unlucky, pool.acquire() as lucky:
            pid = await _pid(unlucky)
            [link] = [link for link in proxy.links if link.backend_pid == pid]
            proxy.silence(link)
            slow = asyncio.create_task(outcome(lucky.execute("SELECT pg_sleep(3)")))
            error = await outcome(unlucky.execute("SELECT 1"))
            assert error is not None
            assert f"process {pid}" in "".join(error.__notes__)
            assert await slow is None
        assert await outcome(pool.execute("SELECT 1")) is None
        assert pool.get_statistics().recycled["stalled"] == 1
        assert not outages(pool)


@with_both_drivers
@on_both_loops
async def test_old_connections_silent_and_new_ones_fine(postgres, driver):
    """As after a failover behind one address: calls fail in time, then all is well at once."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, stall_after=STALL) as pool,
    ):
        await warm(pool, 4)
        proxy.silence(proxy.links)
        await asyncio.gather(*(outcome(pool.execute("SELECT 1")) for _ in range(4)))
        assert await outcome(pool.execute("SELECT 1"), bound=1.0) is None


@with_both_drivers
@on_both_loops
async def test_an_answer_that_takes_long_to_arrive_is_no_silence(postgres, driver):
    """The server is done and idle while its answer crawls in: that connection is alive."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, stall_after=STALL) as pool,
    ):
        await warm(pool, 1)
        proxy.shape(bandwidth=100_000)
        assert await outcome(pool.execute("SELECT repeat('x', 300000)")) is None
        assert "stalled" not in pool.get_statistics().recycled


@with_both_drivers
@on_both_loops
async def test_a_stalled_event_loop_is_not_a_dead_database(postgres, driver):
    """The answer has long been there when the loop wakes up; it only needs to be read."""
    async with pool_on(postgres.url, driver, stall_after=STALL, probe_interval=0.1) as pool:
        await warm(pool, 2)
        calls = [asyncio.create_task(pool.execute("SELECT pg_sleep(0.5)")) for _ in range(2)]
        for _ in range(3):
            await asyncio.sleep(0.3)
            time.sleep(1.5)
        await asyncio.gather(*calls)
        assert not outages(pool)
        recycled = pool.get_statistics().recycled
        assert not {"stalled", "validation_failed"} & recycled.keys(), recycled


@on_both_loops
async def test_a_transaction_block_on_a_silent_peer_ends(postgres):
    """BEGIN and COMMIT of ``connection.transaction()`` are statements as well."""
    async with FaultProxy.to(postgres.url) as proxy, pool_on(proxy.url, stall_after=STALL) as pool:
        for direction in ("begin", "commit"):
            async with pool.acquire() as connection:
                await connection.execute("SELECT 1")
                transaction = connection.transaction()
                if direction == "commit":
                    await transaction.start()
                proxy.silence(proxy.links)
                work = transaction.start if direction == "begin" else transaction.commit
                assert await outcome(work()) is not None


@on_both_loops
async def test_a_prepared_statement_on_a_silent_peer_ends(postgres):
    """Statements run through an object of asyncpg's count as the borrower's."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, stall_after=STALL) as pool,
        pool.acquire() as connection,
    ):
        statement = await connection.prepare("SELECT $1::int")
        assert await statement.fetchval(1) == 1
        proxy.silence(proxy.links)
        assert await outcome(statement.fetchval(2)) is not None


@on_both_loops
async def test_waiting_for_notifications_is_not_a_silence(postgres):
    """psycopg holds its lock while nothing happens; the server rightly waits for its client."""
    async with (
        pool_on(postgres.url, "psycopg", stall_after=STALL) as pool,
        pool.acquire() as connection,
    ):
        await connection.execute("LISTEN news")
        heard = [notify async for notify in connection.notifies(timeout=2.0)]
        assert heard == []
        await connection.execute("SELECT 1")


@with_both_drivers
@on_both_loops
async def test_a_peer_that_accepts_and_says_nothing_holds_nobody(postgres, driver):
    """Dials hang, and still every call has its bound and the pool closes in time."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(
            proxy.url, driver, stall_after=STALL, outage_patience=1.0, probe_interval=0.3
        ) as pool,
    ):
        await warm(pool, 2)
        proxy.silence()
        errors = await asyncio.gather(*(outcome(pool.execute("SELECT 1")) for _ in range(8)))
        assert all(errors)
        await until(lambda: outages(pool))
        started = time.monotonic()
        await pool.close()
        assert time.monotonic() - started < 8.0


@with_both_drivers
@on_both_loops
async def test_service_is_back_as_soon_as_a_silence_ends(postgres, driver):
    """A dial begun in the silence would hear nothing for ever; a fresh one is made beside it."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, stall_after=STALL) as pool,
    ):
        await warm(pool, 2)
        proxy.silence()
        await outcome(pool.execute("SELECT 1"))
        await until(lambda: outages(pool))
        await proxy.heal()
        started = time.monotonic()
        assert await outcome(pool.execute("SELECT 1"), bound=1.0) is None
        assert time.monotonic() - started < 1.0 + 3.0


@with_both_drivers
@on_both_loops
async def test_a_released_connection_on_a_silent_peer_costs_its_borrower_nothing(postgres, driver):
    """A statement given up in a silence leaves cleaning that cannot be done: not the caller's."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, stall_after=0, reset_timeout=0.5) as pool,
    ):
        await warm(pool, 1)
        proxy.silence(proxy.links)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), pool.acquire() as connection:
                await connection.execute("SELECT 1")
        await until(lambda: pool.get_statistics().recycled)
        assert await outcome(pool.execute("SELECT 1"), bound=1.0) is None


async def _pid(connection):
    cursor = await connection.execute("SELECT 1")
    if hasattr(cursor, "fetchone"):
        cursor = await connection.execute("SELECT pg_backend_pid()")
        return (await cursor.fetchone())[0]
    return await connection.fetchval("SELECT pg_backend_pid()")


@on_both_loops
async def test_an_answer_lost_in_the_middle_of_a_statement_is_noticed(postgres):
    """asyncpg prepares first: the server then counts as active while it waits for the rest."""
    async with FaultProxy.to(postgres.url) as proxy, pool_on(proxy.url, stall_after=STALL) as pool:
        await warm(pool, 1)
        links = proxy.links

        def policy(segment):
            prepares = segment.direction is Direction.TO_SERVER and segment.types.startswith("P")
            if prepares and segment.link in links:
                proxy.silence(segment.link, direction=Direction.TO_CLIENT)
            return Verdict.PASS

        proxy.policy = policy
        assert await outcome(pool.fetchval("SELECT $1::int + 1", 1)) is not None


@pytest.mark.parametrize("way", ["copy", "records"])
@on_both_loops
async def test_a_slow_source_of_rows_is_no_silence(postgres, way):
    """The server waits for the borrower, who waits for somebody else: nothing is wrong."""

    async def lines():
        for number in range(3):
            await asyncio.sleep(1.0)
            yield f"{number}\n".encode() if way == "copy" else (number,)

    async with pool_on(postgres.url, stall_after=STALL) as pool, pool.acquire() as connection:
        await connection.execute("CREATE TABLE slow (number int)")
        if way == "copy":
            await connection.copy_to_table("slow", source=lines())
        else:
            await connection.copy_records_to_table("slow", records=lines())
        assert await connection.fetchval("SELECT count(*) FROM slow") == 3


@pytest.mark.parametrize("way", ["iterate", "fetch", "await", "prepare"])
@on_both_loops
async def test_a_cursor_on_a_silent_peer_ends(postgres, way):
    """Also what asyncpg runs through cursors and ``prepare`` counts as the borrower's."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, stall_after=STALL) as pool,
        pool.acquire() as connection,
    ):
        transaction = connection.transaction()
        await transaction.start()
        query = "SELECT generate_series(1, 100)"
        cursor = await connection.cursor(query)
        assert len(await cursor.fetch(2)) == 2
        proxy.silence(proxy.links)

        async def iterate():
            async for _ in connection.cursor(query):
                pass

        async def opened():
            return await connection.cursor("SELECT 1")

        work = {
            "iterate": iterate,
            "fetch": lambda: cursor.fetch(2),
            "await": opened,
            "prepare": lambda: connection.prepare("SELECT 2"),
        }
        assert await outcome(work[way]()) is not None


@on_both_loops
async def test_a_psycopg_copy_on_a_silent_peer_ends_and_a_slow_one_does_not(postgres):
    """COPY goes past psycopg's lock, and a borrower may take its time between two rows."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, "psycopg", stall_after=STALL) as pool,
        pool.acquire() as connection,
    ):
        await connection.execute("CREATE TABLE slow (number int)")
        async with connection.cursor() as cursor:
            async with cursor.copy("COPY slow FROM STDIN") as copy:
                await copy.write("1\n")
                await asyncio.sleep(1.5)
                await copy.write("2\n")

            async def into_the_silence():
                async with cursor.copy("COPY slow FROM STDIN") as copy:
                    await copy.write("3\n")
                    proxy.silence(proxy.links)

            assert await outcome(into_the_silence()) is not None


@with_both_drivers
@on_both_loops
async def test_a_cancelled_call_on_a_silent_peer_leaves_soon(postgres, driver):
    """The drivers ask the server to stop the statement first; nobody is there to hear it."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, stall_after=0) as pool,
    ):
        await warm(pool, 1)
        proxy.silence()
        call = asyncio.create_task(pool.execute("SELECT 1"))
        await until(lambda: pool.get_statistics().active_connections == 1)
        await asyncio.sleep(0.1)
        call.cancel()
        assert await asyncio.wait({call}, timeout=2.0 + 1.5) == ({call}, set())


@with_both_drivers
@on_both_loops
async def test_new_connections_silent_and_old_ones_fine(postgres, driver):
    """Nobody is let in on the side, but the server is heard elsewhere: nothing is cut off."""
    async with (
        SilentServer() as nobody,
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, stall_after=STALL) as pool,
    ):
        await warm(pool, 3)
        proxy.retarget(nobody.url)
        slow = asyncio.create_task(outcome(pool.execute("SELECT pg_sleep(4)")))
        await until(lambda: pool.get_statistics().active_connections == 1)
        assert await slow is None
        assert "stalled" not in pool.get_statistics().recycled


@with_both_drivers
@on_both_loops
async def test_another_server_behind_the_same_address_knows_nothing(
    postgres, crashable_postgres, driver
):
    """A load balancer leads the side connection astray: what it says is not about our process."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, stall_after=STALL) as pool,
    ):
        await warm(pool, 1)
        crashable_postgres.create_database(postgres.name)
        slow = asyncio.create_task(outcome(pool.execute("SELECT pg_sleep(3)")))
        await until(lambda: pool.get_statistics().active_connections == 1)
        before = proxy.accepted
        proxy.retarget(crashable_postgres.dsn(postgres.name))
        assert await slow is None
        assert proxy.accepted > before, "nobody asked"


@asynccontextmanager
async def _slow_uplink(url):
    """A way to the server on which about 3 MB a second get through, with small buffers."""
    target = urlsplit(url)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    listener.bind(("127.0.0.1", 0))
    pumps, writers = set(), []

    async def pump(reader, writer, pause):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(32768):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()

    async def serve(reader, writer):
        near, far = await asyncio.open_connection(target.hostname, target.port)
        writers.extend((writer, far))
        pumps.add(asyncio.create_task(pump(near, writer, 0)))
        pumps.add(asyncio.create_task(pump(reader, far, 0.01)))

    server = await asyncio.start_server(serve, sock=listener, limit=32768)
    try:
        yield url.replace(f":{target.port}/", f":{listener.getsockname()[1]}/")
    finally:
        server.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@with_both_drivers
@on_both_loops
async def test_a_long_message_on_its_way_is_no_silence(postgres, driver):
    """While it arrives the server says that it is idle, which it is not for long."""
    async with (
        _slow_uplink(postgres.url) as url,
        pool_on(url, driver, stall_after=STALL) as pool,
    ):
        await warm(pool, 1)
        text = "x" * 8_000_000
        assert await outcome(pool.execute(f"SELECT length('{text}')"), bound=20.0) is None
        assert "stalled" not in pool.get_statistics().recycled


@on_both_loops
async def test_a_borrower_that_takes_its_time_with_rows_is_no_silence(postgres):
    """The server has sent everything and is idle; whoever takes the rows is not done."""
    taken = []

    async def take(data):
        taken.append(data)
        await asyncio.sleep(0.5)

    async with pool_on(postgres.url, stall_after=STALL) as pool, pool.acquire() as connection:
        await connection.copy_from_query("SELECT generate_series(1, 4)", output=take)
        assert b"".join(taken) == b"1\n2\n3\n4\n"
