"""What the fault proxy promises, with real drivers, a real server and both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

import asyncpg
import psycopg
import pytest

from poolkeeper.testing.contracts import eventually
from poolkeeper.testing.proxy import (
    Direction,
    FaultProxy,
    FaultProxyError,
    Segment,
    SilentServer,
    Verdict,
)
from tests.testing.wiring import LOST, Table, connected, heard, on_both_loops, raw, start

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def table(postgres) -> Table:
    return Table(postgres)


# ------------------------------------------------------------------------------- passing things on


ASYNCPG_SEGMENTS = """
    SSLRequest EncryptionAnswer StartupMessage R p R p RRSSSSSSSSSSSSSSSKZ
    Q CZ PDH 1tn BES 2CZ PDH 1tT BES 2DsZ PDH E S Z Q CZ X
"""
PSYCOPG_SEGMENTS = """
    SSLRequest EncryptionAnswer StartupMessage R p R p RRSSSSSSSSSSSSSSSKZ
    Q CZ PBDES 12nCZ Q TDCZ Q CZ X
"""


@on_both_loops
async def test_asyncpg_gives_the_same_segments_every_time(postgres, table) -> None:
    """Also in pieces of a few bytes."""
    async with FaultProxy.to(postgres.url) as proxy:
        for size in (None, 3, 1):
            proxy.shape(slice_bytes=size)
            proxy.restart_count()
            seen: list[Segment] = []
            proxy.policy = seen.append
            connection = await asyncpg.connect(proxy.url)
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES ($1)", 1)
                assert await connection.fetchval("SELECT n FROM t LIMIT 1") == 1
                with pytest.raises(asyncpg.UndefinedColumnError):
                    await connection.prepare("SELECT nothing")
            await connection.close()
            assert " ".join(segment.types for segment in seen).split() == ASYNCPG_SEGMENTS.split()
            assert [segment.index for segment in seen] == list(range(len(seen)))
            assert [segment.direction for segment in seen[:2]] == [TO_SERVER, TO_CLIENT]


@on_both_loops
async def test_psycopg_gives_the_same_segments_every_time(postgres, table) -> None:
    """Also in pieces of a few bytes."""
    async with FaultProxy.to(postgres.url) as proxy:
        for size in (None, 5):
            proxy.shape(slice_bytes=size)
            seen: list[Segment] = []
            proxy.policy = seen.append
            async with await psycopg.AsyncConnection.connect(proxy.url) as connection:
                await connection.execute("INSERT INTO t VALUES (%s)", [1])
                await connection.execute("SELECT n FROM t LIMIT 1")
            await eventually(lambda seen=seen: seen[-1].types == "X")
            assert " ".join(segment.types for segment in seen).split() == PSYCOPG_SEGMENTS.split()


@on_both_loops
async def test_rows_copies_cursors_and_large_values_pass_unchanged(postgres, table) -> None:
    """Whatever the protocol has, both ways, beyond every buffer."""
    large = "x" * 5_000_000
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        assert await connection.fetchval("SELECT length($1)", large) == len(large)
        assert await connection.fetchval("SELECT $1", large) == large
        rows = [(number,) for number in range(200_000)]
        await connection.copy_records_to_table("t", records=rows)
        assert len(await connection.fetch("SELECT n FROM t")) == len(rows)
        await connection.executemany("INSERT INTO t VALUES ($1)", rows[:10_000])
        async with connection.transaction():
            seen = [row["n"] async for row in connection.cursor("SELECT n FROM t", prefetch=5000)]
        assert len(seen) == 210_000
        copied = 0

        async def count(data):
            nonlocal copied
            copied += len(data)

        await connection.copy_from_table("t", output=count)
        assert copied > len(rows)


@on_both_loops
async def test_a_pipeline_and_copies_of_psycopg_pass(postgres, table) -> None:
    """With its Flush after a Sync, and a COPY of the extended protocol."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        await psycopg.AsyncConnection.connect(proxy.url) as connection,
    ):
        async with connection.pipeline():
            await connection.execute("INSERT INTO t VALUES (1)")
            cursor = await connection.execute("SELECT %s", [2])
            assert await cursor.fetchone() == (2,)
        async with connection.cursor().copy("COPY t FROM STDIN") as copy:
            await copy.write_row((3,))
        async with connection.cursor().copy(
            "COPY (SELECT n FROM t WHERE n > %s) TO STDOUT", [2]
        ) as copy:
            assert [row async for row in copy.rows()] == [("3",)]


@on_both_loops
async def test_what_the_server_says_unasked_arrives_at_once(postgres) -> None:
    """A notification to an idle listener."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        arrived = asyncio.get_running_loop().create_future()
        await connection.add_listener("news", lambda *heard: arrived.set_result(heard[-1]))
        await asyncio.to_thread(
            postgres.server.psql, "notify news, 'today'", database=postgres.name
        )
        assert await arrived == "today"


@on_both_loops
async def test_the_last_words_of_a_session_arrive(postgres) -> None:
    """Its cause is known to the client: 57P01."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        asked = proxy.wait_for_segment(lambda segment: segment.text == "SELECT pg_sleep(60)")
        task = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        await asked
        await eventually(
            lambda: asyncio.to_thread(
                postgres.server.psql,
                f"select pg_terminate_backend({proxy.links[0].backend_pid}) from pg_stat_activity "
                f"where pid = {proxy.links[0].backend_pid} and query like '%sleep%'",
            )
        )
        (error,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(error.__cause__, asyncpg.AdminShutdownError)
        await eventually(lambda: proxy.links == [])


@on_both_loops
async def test_a_cancel_request_reaches_the_server(postgres) -> None:
    """On a link of its own."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(60)", timeout=0.05)
        assert await connection.fetchval("SELECT 1") == 1
        assert proxy.accepted == 2


@on_both_loops
async def test_a_client_that_leaves_leaves_the_server(postgres, table) -> None:
    """Politely or by breaking off; the proxy keeps no session."""
    async with FaultProxy.to(postgres.url) as proxy:
        polite = await asyncpg.connect(proxy.url)
        rude = await asyncpg.connect(proxy.url)
        assert [link.id for link in proxy.links] == [1, 2]
        assert [link.backend_pid for link in proxy.links] == [
            polite.get_server_pid(),
            rude.get_server_pid(),
        ]
        links = proxy.links
        await polite.close()
        rude.terminate()
        await eventually(lambda: not proxy._links)
        await eventually(lambda: table.sessions() == 0)
        assert not any(link.is_open for link in links)


@on_both_loops
async def test_a_reader_that_stops_slows_the_server_down(postgres, table) -> None:
    """The proxy does not take what nobody wants: the server waits for its client to read."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        resumed = asyncio.Event()

        async def stop(data):
            await resumed.wait()

        task = asyncio.ensure_future(
            connection.copy_from_query(
                "SELECT repeat('x', 1000) FROM generate_series(1, 100000)", output=stop
            )
        )
        await eventually(lambda: proxy.links and not proxy.links[0]._server._reading)
        await eventually(lambda: table.sessions("wait_event = 'ClientWrite'") == 1)
        resumed.set()
        assert await task == "COPY 100000"


@on_both_loops
async def test_a_server_that_is_not_there_resets_the_client(crashable_postgres) -> None:
    """The proxy has accepted before it can know; afterwards it works again."""
    server = crashable_postgres
    async with FaultProxy.to(server.url) as proxy:
        await asyncio.to_thread(server.crash)
        async with raw(proxy) as client:
            with pytest.raises(ConnectionResetError):
                await heard(client)
        await asyncio.to_thread(server.start)
        async with connected(proxy.url) as connection:
            assert await connection.fetchval("SELECT 1") == 1


@on_both_loops
async def test_later_connections_go_to_another_server(crashable_postgres, postgres) -> None:
    """The address stays, and so do open links."""
    async with FaultProxy.to(crashable_postgres.url) as proxy:
        question = "SELECT current_setting('port')"
        async with connected(proxy.url) as before:
            proxy.retarget(postgres.url)
            password = postgres.server.password
            url = proxy.url.replace(f":{crashable_postgres.password}@", f":{password}@")
            async with connected(url) as after:
                assert await before.fetchval(question) == str(crashable_postgres.port)
                assert await after.fetchval(question) == str(postgres.server.port)


# ----------------------------------------------------------------------------------- cutting links


@on_both_loops
async def test_a_refusing_proxy_refuses_and_comes_back_on_its_port(postgres) -> None:
    """Nobody gets the port meanwhile; open links live on."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        url, port = proxy.url, proxy.port
        for _ in range(3):
            await proxy.refuse()
            await proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncpg.connect(url)
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
            assert await connection.fetchval("SELECT 1") == 1
            assert proxy.accepted == 1
            await proxy.accept()
            await proxy.accept()
        async with connected(url) as another:
            assert await another.fetchval("SELECT 1") == 1
        assert proxy.port == port
        first, second = proxy.attempts()
        assert first < second <= time.monotonic()


@on_both_loops
async def test_reset_reaches_both_sides(postgres, table) -> None:
    """All open links, or those named."""
    async with FaultProxy.to(postgres.url) as proxy:
        async with raw(proxy) as one, raw(proxy) as two, raw(proxy) as three:
            await eventually(lambda: len(proxy.links) == 3)
            first, second, third = proxy.links
            proxy.reset(first)
            with pytest.raises(ConnectionResetError):
                await heard(one)
            assert proxy.links == [second, third]
            proxy.reset([second])
            with pytest.raises(ConnectionResetError):
                await heard(two)
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                await heard(three)
            assert proxy.links == []
        async with connected(proxy.url) as connection:
            proxy.reset()
            await eventually(connection.is_closed)
            await eventually(lambda: table.sessions() == 0)


@on_both_loops
async def test_a_reset_by_the_client_is_passed_on(postgres, table) -> None:
    """The server notices what it would without a proxy."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        await connection.execute("SET client_connection_check_interval = 20")
        task = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        await eventually(lambda: table.sessions("query like '%sleep%'") == 1)
        wire = connection._transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.terminate()
        await eventually(lambda: table.sessions() == 0)
        await asyncio.gather(task, return_exceptions=True)


@on_both_loops
async def test_hanging_up_is_a_goodbye_not_a_reset(postgres, table) -> None:
    """Both sides read the end of the stream, also with bytes under way."""
    async with FaultProxy.to(postgres.url) as proxy, raw(proxy) as client:
        await eventually(lambda: proxy.links)
        proxy.hang_up(proxy.links)
        assert proxy.links == []
        await asyncio.get_running_loop().sock_sendall(client, b"still talking")
        assert await heard(client) == b""
        async with connected(proxy.url) as connection:
            proxy.hang_up()
            await eventually(connection.is_closed)
            await eventually(lambda: table.sessions() == 0)
        client.close()
        await eventually(lambda: not proxy._links)


# -------------------------------------------------------------------------------- silence and hold


@on_both_loops
@pytest.mark.parametrize("peer", ["silent server", "silenced proxy"])
async def test_a_silent_peer_accepts_and_says_nothing(peer, postgres, table) -> None:
    """To a driver, and to anybody else."""
    made = SilentServer() if peer == "silent server" else FaultProxy.to(postgres.url)
    async with made as server:
        if isinstance(server, FaultProxy):
            server.silence()
        with pytest.raises(TimeoutError):
            await asyncpg.connect(server.url, timeout=0.1)
        async with raw(server) as client:
            await asyncio.get_running_loop().sock_sendall(client, b"\0\0\0\x08\x04\xd2\x16\x2f")
            await eventually(lambda: server.accepted == 2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(heard(client), 0.1)
        assert len(server.attempts()) == 2
        assert table.sessions() == 0


@on_both_loops
async def test_a_silent_server_knows_who_is_there(postgres) -> None:
    """So that a test can wait until its client has given up."""
    async with SilentServer() as server:
        async with raw(server):
            await eventually(lambda: server.connected == 1)
        await eventually(lambda: server.connected == 0)


@on_both_loops
async def test_silenced_links_hang_while_new_ones_work(postgres, table) -> None:
    """A middlebox that forgot a connection: neither side hears of the other's end."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as old:
        (link,) = proxy.links
        proxy.silence(proxy.links)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(hanging := start(old.fetchval("SELECT 1"))), 0.05)
        async with connected(proxy.url) as new:
            assert await new.fetchval("SELECT 1") == 1
        assert link.is_open
        assert link.is_damaged
        old.terminate()
        await asyncio.gather(hanging, return_exceptions=True)
        await eventually(lambda: not link.is_open)
        await eventually(lambda: table.sessions() == 1)  # the server still believes in it
        await proxy.heal()
        await eventually(lambda: table.sessions() == 0)


@on_both_loops
@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT])
async def test_silence_may_be_for_one_direction(direction, postgres, table) -> None:
    """What is swallowed on its way there is not done; an answer swallowed was."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        proxy.silence(direction=direction)
        task = start(connection.execute("INSERT INTO t VALUES (1)"))
        if direction is TO_CLIENT:
            await eventually(table.rows)
        await eventually(lambda: proxy._links[1].is_damaged)
        connection.terminate()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: not proxy.links)
        await proxy.heal()
        await eventually(lambda: table.sessions() == 0)
        assert table.rows() == ([1] if direction is TO_CLIENT else [])


@on_both_loops
async def test_a_link_that_lost_nothing_works_again_when_healed(postgres) -> None:
    """One that lost bytes stays silent, or is reset where that is asked for."""
    async with (
        FaultProxy.to(postgres.url) as proxy,
        connected(proxy.url) as lucky,
        connected(proxy.url) as unlucky,
    ):
        proxy.silence()
        hanging = start(unlucky.fetchval("SELECT 1"))
        await eventually(lambda: proxy.links[1].is_damaged)
        await proxy.heal()
        assert await lucky.fetchval("SELECT 1") == 1
        async with connected(proxy.url) as new:
            assert await new.fetchval("SELECT 1") == 1
        assert proxy.links[1].is_open
        heard_before = proxy.links[1].segments
        unlucky._transport.write(b"S\0\0\0\x04")
        assert await lucky.fetchval("SELECT 1") == 1
        assert proxy.links[1].segments == heard_before
        assert not hanging.done()
        await proxy.heal(links=True)
        with pytest.raises(LOST):
            await hanging
        assert await lucky.fetchval("SELECT 1") == 1


@on_both_loops
@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT, Direction.BOTH])
@pytest.mark.parametrize("ending", ["release", "release the link", "heal"])
async def test_held_bytes_arrive_in_order_when_released(direction, ending, postgres, table) -> None:
    """Nothing is lost, and nothing comes before its time."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        proxy.hold(direction=direction)
        arrived = proxy.wait_for_segment(lambda segment: segment.direction & direction)
        task = start(connection.execute("INSERT INTO t VALUES (1)"))
        await arrived
        if direction is TO_CLIENT:
            await eventually(table.rows)
        else:
            assert table.rows() == []
        assert not task.done()
        if ending == "release":
            proxy.release()
        elif ending == "heal":
            await proxy.heal()
        else:
            proxy.release(proxy.links)
        assert await task == "INSERT 0 1"
        assert await connection.fetchval("SELECT count(*) FROM t") == 1


@on_both_loops
async def test_connections_to_come_are_held_too(postgres) -> None:
    """Unless certain links were named."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        proxy.hold(proxy.links)
        async with connected(proxy.url) as other:
            assert await other.fetchval("SELECT 1") == 1
        proxy.release()
        proxy.hold(direction=TO_CLIENT)
        answered = proxy.wait_for_segment(lambda segment: segment.types == "EncryptionAnswer")
        coming = start(asyncpg.connect(proxy.url))
        link = (await answered).link
        proxy.release(proxy.links[0])
        for _ in range(5):
            assert await connection.fetchval("SELECT 1") == 1
        assert link.segments == 2
        proxy.release()
        (await coming).terminate()


@on_both_loops
async def test_healing_takes_the_policy_away(postgres) -> None:
    """A policy is a fault like the others."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        proxy.policy = lambda segment: Verdict.LOSE
        await proxy.heal()
        assert await connection.fetchval("SELECT 1") == 1


# -------------------------------------------------------------------------------------- being slow


@on_both_loops
async def test_latency_is_added_each_way(postgres) -> None:
    """And does not add up for what is sent together."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        for shape in ({"latency": 0.1}, {"latency": 0.1, "jitter": 0.01}):
            proxy.shape(**shape)
            begin = time.monotonic()
            await connection.execute("SELECT 1")
            assert time.monotonic() - begin >= 0.199
        proxy.shape(latency=30.0)
        task = start(connection.execute("SELECT 1"))
        await eventually(lambda: proxy.links[0]._to_server._nap)
        await proxy.heal()  # does not wait for what was on its way
        assert await task == "SELECT 1"


@on_both_loops
async def test_bandwidth_is_limited(postgres) -> None:
    """In bytes per second, for each direction of a link."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        await connection.fetchval("SELECT repeat('x', $1)", 1)
        proxy.shape(bandwidth=200_000)
        begin = time.monotonic()
        await connection.fetchval("SELECT repeat('x', $1)", 40_000)
        assert time.monotonic() - begin >= 0.199


@pytest.mark.parametrize(
    "shape", [{"latency": -1}, {"jitter": -1}, {"bandwidth": 0}, {"slice_bytes": 0}]
)
def test_a_shape_that_would_stop_everything_is_refused(shape) -> None:
    """It says what to use for that."""
    with pytest.raises(ValueError, match=r"Suggestion: use silence\(\)"):
        FaultProxy.to("postgresql://h/d").shape(**shape)


# -------------------------------------------------------------------------------------- the ending


async def in_flight(proxy, connection, how):
    """Bring a link into a state in which work is under way."""
    if how == "held":
        proxy.hold()
    elif how == "silent":
        proxy.silence()
    elif how == "slow":
        proxy.shape(latency=60.0)
    elif how == "policy":
        proxy.policy = lambda segment: asyncio.Event().wait()
    arrived = proxy.wait_for_segment(lambda segment: True)
    task = start(
        connection.execute("SELECT pg_sleep(0)" if how != "busy" else "SELECT pg_sleep(9)")
    )
    if how == "silent":
        await eventually(lambda: proxy.links[0].is_damaged)
        arrived.cancel()
    else:
        await arrived
    return task


@on_both_loops
@pytest.mark.parametrize("how", ["idle", "busy", "held", "silent", "slow", "policy"])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_nothing_is_left_after_stop(how, cancelled, postgres) -> None:
    """No task, no socket, no server session; also when the stop is cancelled."""
    before = asyncio.all_tasks()
    proxy = FaultProxy.to(postgres.url)
    await proxy.start()
    await proxy.start()
    connection = await asyncpg.connect(proxy.url)
    task = await in_flight(proxy, connection, how)
    stopping = start(proxy.stop())
    if cancelled:
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await asyncio.sleep(0)
    else:
        await stopping
    assert not proxy._tasks
    assert not proxy._links
    with pytest.raises(FaultProxyError, match=r"not running\. Suggestion: "):
        _ = proxy.port
    await asyncio.gather(task, return_exceptions=True)
    connection.terminate()
    await proxy.stop()
    await eventually(lambda: asyncio.all_tasks() == before)


@on_both_loops
async def test_a_proxy_can_be_started_again(postgres) -> None:
    """With a new port, perhaps."""
    proxy = FaultProxy.to(postgres.url)
    for _ in range(2):
        async with proxy, connected(proxy.url) as connection:
            assert await connection.fetchval("SELECT 1") == 1


@on_both_loops
async def test_a_herd_is_counted(postgres) -> None:
    """Every attempt that reaches the proxy, when it came."""
    async with FaultProxy.to(postgres.url) as proxy:
        proxy.silence()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(raw(proxy))
            await eventually(lambda: proxy.accepted == 50)
        assert proxy.attempts() == sorted(proxy.attempts())
        await eventually(lambda: proxy.links == [])


# -------------------------------------------------------------------------------------------- URLs


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p%40@h:1/db", "postgresql://u:p%40@{}/db"),
        ("postgresql+psycopg://u@h/db?sslmode=disable", "postgresql+psycopg://u@{}/db?sslmode=disable"),
        ("postgresql://[::1]:7/db", "postgresql://{}/db"),
        ("postgresql://u@/db?host=h&port=3&application_name=a%20b",
         "postgresql://u@{}/db?application_name=a%20b"),
    ],
)  # fmt: skip
async def test_the_url_differs_in_the_address_only(url, expected) -> None:
    """User, password, database, options and driver stay."""
    async with FaultProxy.to(url) as proxy:
        assert proxy.url == expected.format(f"127.0.0.1:{proxy.port}")


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hush@a:1,b:2/db", "postgresql:///db?password=hush", "host=h password=hush",
     "postgresql://u:hush@/db?host=/var/run"],
)  # fmt: skip
def test_a_url_without_one_tcp_host_is_refused(url) -> None:
    """It says what is needed, and keeps the password to itself."""
    with pytest.raises(ValueError, match=r"one TCP host.*Suggestion: ") as caught:
        FaultProxy.to(url)
    assert "hush" not in str(caught.value)


@pytest.mark.asyncio
async def test_the_representation_shows_no_password() -> None:
    """Running or not."""
    proxy = FaultProxy.to("postgresql://u:hush@h:1/db")
    assert repr(proxy) == "<FaultProxy stopped to h:1, 0 links>"
    async with proxy:
        assert repr(proxy) == f"<FaultProxy 127.0.0.1:{proxy.port} to h:1, 0 links>"


@pytest.mark.asyncio
async def test_the_fixture_is_a_proxy_in_front_of_the_database(fault_proxy, postgres) -> None:
    """Running in the loop of the test."""
    async with connected(fault_proxy.url) as connection:
        assert await connection.fetchval("SELECT current_database()") == postgres.name
        fault_proxy.reset()
        await eventually(connection.is_closed)
