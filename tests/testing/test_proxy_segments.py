"""What the fault proxy promises about single segments: policies, waiting, encryption."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import asyncpg
import psycopg
import pytest

from poolkeeper.testing.contracts import eventually
from poolkeeper.testing.proxy import Direction, FaultProxy, FaultProxyError, Segment, Verdict
from tests.testing.wiring import LOST, Table, connected, heard, on_both_loops, raw, start

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT


@pytest.fixture
def table(postgres) -> Table:
    return Table(postgres)


# ---------------------------------------------------------------------------------------- policies


def at(text: str, direction: Direction, verdict: Verdict):
    """A policy for the statement with this text, or for its answer."""
    asked = False

    def policy(segment):
        nonlocal asked
        if segment.text == text:
            asked = True
            return verdict if direction is TO_SERVER else Verdict.PASS
        if asked and segment.direction is TO_CLIENT and direction is TO_CLIENT:
            asked = False
            return verdict
        return None

    return policy


INSERT = "INSERT INTO t VALUES (1)"


@on_both_loops
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("verdict", [Verdict.LOSE, Verdict.DROP, Verdict.DELIVER_THEN_RESET])
@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT])
async def test_a_request_or_its_answer_is_lost(driver, verdict, direction, postgres, table) -> None:
    """Nothing was done without the request; without the answer all of it was."""
    async with FaultProxy.to(postgres.url) as proxy:
        connection = (
            await asyncpg.connect(proxy.url)
            if driver == "asyncpg"
            else await psycopg.AsyncConnection.connect(proxy.url, autocommit=True)
        )
        (link,) = proxy.links
        proxy.policy = at(INSERT, direction, verdict)
        task = start(connection.execute(INSERT))
        done = direction is TO_CLIENT or verdict is Verdict.DELIVER_THEN_RESET
        if done:
            await eventually(table.rows)
        if verdict is Verdict.DROP:
            await eventually(lambda: link.is_damaged)
            assert link.is_open
            assert not task.done()
            proxy.reset(link)
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if direction is TO_CLIENT and verdict is Verdict.DELIVER_THEN_RESET:
            assert not isinstance(outcome, TimeoutError)  # it may have been read in time
        else:
            assert isinstance(outcome, (*LOST, psycopg.OperationalError))
        if driver == "asyncpg":
            connection.terminate()
        else:
            await connection.close()
        await eventually(lambda: table.sessions() == 0)
        assert table.rows() == ([1] if done else [])


@on_both_loops
async def test_the_server_answers_before_it_hears_of_a_client_that_was_reset(
    postgres, table
) -> None:
    """Though it checks its connection all the time: what was delivered runs to its end."""
    table.sql("create function slow() returns int as 'select 1 from pg_sleep(0.3)' language sql")
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        await connection.execute("SET client_connection_check_interval = 10")
        statement = "INSERT INTO t SELECT slow()"
        proxy.policy = at(statement, TO_SERVER, Verdict.DELIVER_THEN_RESET)
        with pytest.raises(LOST):
            await connection.execute(statement)
        assert proxy.links == []
        assert table.rows() == []
        await proxy.heal()
        await eventually(lambda: table.sessions() == 0)
        assert table.rows() == [1]


@on_both_loops
async def test_the_policy_may_hold_a_segment(postgres, table) -> None:
    """And what follows it, until it is released."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        proxy.policy = at(INSERT, TO_SERVER, Verdict.HOLD)
        arrived = proxy.wait_for_segment(lambda segment: segment.text == INSERT)
        task = start(connection.execute(INSERT))
        segment = await arrived
        assert segment.link is proxy.links[0]
        assert table.rows() == []
        proxy.release(segment.link)
        await task
        assert table.rows() == [1]


@on_both_loops
async def test_a_coroutine_may_decide_and_keeps_only_its_own_link_waiting(
    crashable_postgres,
) -> None:
    """It may deliver the segment first and then crash the server."""
    server = crashable_postgres
    server.psql("create table t (n int)")
    async with FaultProxy.to(server.url) as proxy:
        async with connected(proxy.url) as connection, connected(proxy.url) as other:
            crashed = asyncio.Event()

            async def crash_after_the_answer(segment):
                if segment.link.id == 1 and segment.direction is TO_CLIENT:
                    assert await other.fetchval("SELECT count(*) FROM t") == 1
                    await segment.link.deliver(segment)
                    await asyncio.to_thread(server.crash)
                    crashed.set()

            proxy.policy = crash_after_the_answer
            assert await connection.execute(INSERT) == "INSERT 0 1"
            await crashed.wait()
            await eventually(other.is_closed)
        proxy.policy = None
        await asyncio.to_thread(server.start)
        assert server.psql("select count(*) from t") == "1"


@on_both_loops
async def test_only_the_segment_in_question_can_be_delivered(postgres) -> None:
    """Others have their turn."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        arrived = proxy.wait_for_segment(lambda _: True)
        await connection.execute("SELECT 1")
        segment = await arrived
        with pytest.raises(FaultProxyError, match="cannot deliver segment"):
            await segment.link.deliver(segment)


@on_both_loops
async def test_a_policy_may_break_everything_and_go_on(postgres) -> None:
    """It is not cancelled by what it does itself."""
    ended = asyncio.Event()
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:

        async def policy(segment):
            proxy.reset()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            ended.set()

        proxy.policy = policy
        with pytest.raises(LOST):
            await connection.execute("SELECT 1")
        await ended.wait()


@on_both_loops
async def test_a_policy_runs_to_its_end_though_its_link_is_gone(postgres) -> None:
    """Whoever broke the link meanwhile; only stop() ends it."""
    go_on, ended = asyncio.Event(), asyncio.Event()
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:

        async def policy(segment):
            await go_on.wait()
            ended.set()

        proxy.policy = policy
        arrived = proxy.wait_for_segment(lambda segment: True)
        task = start(connection.execute("SELECT 1"))
        await arrived
        await asyncio.sleep(0)
        proxy.reset()
        with pytest.raises(LOST):
            await task
        go_on.set()
        await ended.wait()


@on_both_loops
async def test_a_policy_that_fails_is_reported(postgres) -> None:
    """The link is reset, and the end of the block raises; an error of the block goes first."""
    with pytest.raises(ZeroDivisionError):
        async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
            proxy.policy = lambda segment: 1 / 0
            with pytest.raises(LOST):
                await connection.execute("SELECT 1")
    with pytest.raises(KeyError) as caught:
        async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
            proxy.policy = lambda segment: "PASS"
            with pytest.raises(LOST):
                await connection.execute("SELECT 1")
            raise KeyError
    assert "'PASS' is not a valid Verdict" in caught.value.__notes__[0]


@on_both_loops
async def test_losing_each_segment_in_turn_tells_what_the_server_did(postgres, table) -> None:
    """One fault at every point of a transaction; what is left agrees with what was lost."""
    seen: list[Segment] = []

    async def transaction(url, number):
        async with connected(url) as connection, connection.transaction():
            await connection.execute("INSERT INTO t VALUES ($1)", number)

    async with FaultProxy.to(postgres.url) as proxy:
        proxy.policy = seen.append
        await transaction(proxy.url, 0)
        # the last request is COMMIT, whose loss is the question; Terminate never comes
        commit = next(s.index for s in seen if s.text and s.text.startswith("COMMIT"))
        for number in range(1, commit + 2):
            proxy.restart_count()
            proxy.policy = lambda segment, lost=number: (
                Verdict.LOSE if segment.index == lost else None
            )
            with pytest.raises(LOST):
                await transaction(proxy.url, number)
        await eventually(lambda: table.sessions() == 0)
        assert table.rows() == [0, commit + 1]


# ---------------------------------------------------------------------------- waiting for segments


@on_both_loops
async def test_a_segment_is_watched_for_from_the_call_on(postgres) -> None:
    """Not from the await on; each waits for its own."""
    async with FaultProxy.to(postgres.url) as proxy, connected(proxy.url) as connection:
        first = proxy.wait_for_segment(lambda segment: segment.text == "SELECT 1")
        second = proxy.wait_for_segment(lambda segment: segment.text == "SELECT 2")
        given_up = proxy.wait_for_segment(lambda segment: True)
        given_up.cancel()
        failing = proxy.wait_for_segment(lambda segment: 1 / 0)
        await connection.execute("SELECT 1")
        assert (await first).types == "Q"
        assert not second.done()
        with pytest.raises(ZeroDivisionError):
            await failing
    with pytest.raises(FaultProxyError, match=r"stopped before .* Suggestion: "):
        await second


@on_both_loops
async def test_segments_know_link_direction_text_and_number(postgres) -> None:
    """Counted over all links; the bytes are those on the wire."""
    seen: list[Segment] = []
    async with (
        FaultProxy.to(postgres.url) as proxy,
        connected(proxy.url) as connection,
        connected(proxy.url) as other,
    ):
        proxy.restart_count()
        proxy.policy = seen.append
        await connection.execute("SELECT 1")
        await other.execute("SELECT 2")
        one, two = proxy.links
        assert one.segments == two.segments
    assert [(s.index, s.link, s.direction, s.types, s.text) for s in seen[:4]] == [
        (0, one, TO_SERVER, "Q", "SELECT 1"),
        (1, one, TO_CLIENT, "TDCZ", None),
        (2, two, TO_SERVER, "Q", "SELECT 2"),
        (3, two, TO_CLIENT, "TDCZ", None),
    ]
    assert seen[0].data == b"Q\0\0\0\x0dSELECT 1\0"
    assert seen[0].messages[0].body == b"SELECT 1\0"


# -------------------------------------------------------------------------------------- encryption


@contextlib.asynccontextmanager
async def encrypting_server() -> AsyncIterator[str]:
    """Agrees to encrypt, then echoes: as good as TLS for whoever cannot read it."""

    async def serve(reader, writer):
        if await reader.readexactly(8):
            writer.write(b"S")
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"postgresql://me@127.0.0.1:{server.sockets[0].getsockname()[1]}/db"
    finally:
        server.close()


async def encrypt(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, struct.pack("!II", 8, 80877103))
    assert await heard(client) == b"S"


@on_both_loops
async def test_encrypted_links_pass_and_can_be_broken(postgres) -> None:
    """Only what needs segments is impossible."""
    loop = asyncio.get_running_loop()
    async with encrypting_server() as url, FaultProxy.to(url) as proxy, raw(proxy) as client:
        await encrypt(client)
        await loop.sock_sendall(client, b"secret")
        assert await heard(client) == b"secret"
        (link,) = proxy.links
        assert "TLS" in (link.unreadable or "")
        assert link.segments == 2
        proxy.hold()
        await loop.sock_sendall(client, b"held")
        proxy.release()
        assert await heard(client) == b"held"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await heard(client)


@on_both_loops
async def test_a_segment_of_an_encrypted_link_is_not_waited_for_in_vain(postgres) -> None:
    """Whoever waits is told, as is whoever would."""
    async with encrypting_server() as url, FaultProxy.to(url) as proxy, raw(proxy) as client:
        waiting = proxy.wait_for_segment(lambda segment: segment.text is not None)
        await encrypt(client)
        with pytest.raises(FaultProxyError, match=r"encrypted by TLS.*Suggestion: .*sslmode"):
            await waiting
        with pytest.raises(FaultProxyError, match=r"encrypted by TLS"):
            await proxy.wait_for_segment(lambda segment: True)


@on_both_loops
async def test_a_policy_is_not_passed_by_in_silence(postgres) -> None:
    """A test whose fault never happens must not be green."""
    with pytest.raises(FaultProxyError, match=r"encrypted by TLS.*Suggestion: .*sslmode"):
        async with encrypting_server() as url, FaultProxy.to(url) as proxy, raw(proxy) as client:
            proxy.policy = lambda segment: Verdict.PASS
            await encrypt(client)
            await asyncio.get_running_loop().sock_sendall(client, b"secret")
            with pytest.raises(ConnectionResetError):
                await heard(client)
