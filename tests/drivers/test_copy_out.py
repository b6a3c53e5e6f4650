"""COPY to the client while the server has more to say than rows."""

import asyncio
import hashlib
import io
import queue
import socket
import ssl
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper import create_pool
from poolkeeper.drivers.asyncpg_copy_out import parts
from tests.faults.rig import on_both_loops, outages, pool_on
from tests.server.test_tls import make
from tests.server.test_tls import pytestmark as with_openssl

ROWS = 3_000
# INFO comes whatever client_min_messages is.
TOLD = """
    create function told(n int, often int) returns text stable language plpgsql as $$
    begin
        if n % often = 0 then raise info 'row %', n; end if;
        return repeat(md5(n::text), n % 7);
    end $$;
    create table told_of (n int primary key, t text);
    insert into told_of select n, repeat(md5(n::text), n % 7) from generate_series(1, 3000) n;
"""
QUERY = f"select n, told(n, {{}}) from generate_series(1, {ROWS}) n"


@asynccontextmanager
async def told(postgres):
    """A pool of one connection, to a database with a function that says something about rows."""
    async with pool_on(postgres.url, max_size=1, application="copy") as pool:
        await pool.execute(TOLD)
        yield pool


class Kept:
    """An ``output`` that keeps what comes."""

    def __init__(self):
        self.rows = b""

    async def __call__(self, rows):
        self.rows += rows

    @property
    def digest(self):
        """For comparisons: pytest would take minutes to show how the rows differ."""
        return len(self.rows), hashlib.sha256(self.rows).hexdigest()


@pytest.mark.parametrize("often", [1, 3, 100, ROWS])
@pytest.mark.parametrize("kind", ["text", "csv", "binary"])
@on_both_loops
async def test_a_notice_costs_no_rows(postgres, kind, often):
    """Each is behind rows that have come with it."""
    async with told(postgres) as pool:
        plain, kept = Kept(), Kept()
        await pool.copy_from_query("select * from told_of order by n", output=plain, format=kind)
        status = await pool.copy_from_query(QUERY.format(often), output=kept, format=kind)
        assert status == f"COPY {ROWS}"
        assert kept.digest == plain.digest


@on_both_loops
async def test_a_notice_is_heard_as_often_as_it_is_raised(postgres):
    async with told(postgres) as pool:
        heard = []
        async with pool.acquire() as conn:
            conn.add_log_listener(lambda _conn, message: heard.append(message.message))
            await conn.copy_from_query(QUERY.format(100), output=Kept())
        assert heard == [f"row {n}" for n in range(100, ROWS + 1, 100)]


@on_both_loops
async def test_files_get_all_rows_too(postgres, tmp_path):
    """asyncpg writes them itself, in a thread."""
    async with told(postgres) as pool:
        plain, named, written, file = Kept(), Kept(), Kept(), io.BytesIO()
        await pool.copy_from_query("select * from told_of order by n", output=plain)
        await pool.copy_from_query(QUERY.format(10), output=tmp_path / "rows")
        await pool.copy_from_query(QUERY.format(10), output=file)
        await named((tmp_path / "rows").read_bytes())
        assert named.digest == plain.digest
        await written(file.getvalue())
        assert written.digest == plain.digest


@on_both_loops
async def test_a_table_gives_all_its_rows(postgres):
    """COPY of a table can raise notices as well: a row security policy may call anything."""
    async with told(postgres) as pool:
        kept = Kept()
        await pool.execute(
            """create role reader;
            grant select on told_of to reader;
            alter table told_of enable row level security;
            create policy p on told_of using (told(n, 3) is not null)"""
        )
        try:
            async with pool.acquire() as conn:
                await conn.execute("set role reader")
                await conn.copy_from_table("told_of", output=kept)
        finally:
            await pool.execute("drop owned by reader; drop role reader")
        assert kept.rows.count(b"\n") == ROWS


@contextmanager
def encrypted(url, chain, key):
    """The address of a server that does the TLS for the one behind ``url``, in a thread."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    behind = urlsplit(url)
    listening = socket.create_server(("127.0.0.1", 0))

    async def pipe(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def client(reader, writer):
        await reader.readexactly(8)  # SSLRequest
        writer.write(b"S")
        await writer.start_tls(context)
        there = await asyncio.open_connection(behind.hostname, behind.port)
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer), return_exceptions=True)

    async def serve():
        stop = asyncio.Event()
        started.put((asyncio.get_running_loop(), stop))
        async with await asyncio.start_server(client, sock=listening):
            await stop.wait()

    started = queue.Queue()
    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    loop, stop = started.get()
    port = listening.getsockname()[1]
    try:
        yield url.replace(f":{behind.port}/", f":{port}/") + "?sslmode=require"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@with_openssl
@on_both_loops
async def test_tls_costs_no_rows_either(postgres, tmp_path):
    """Another kind of transport is before the protocol then."""
    async with told(postgres):
        pass
    with encrypted(postgres.url, *make(tmp_path / "tls", "localhost")) as url:
        async with pool_on(url, max_size=1, min_size=0) as pool:
            kept = Kept()
            await pool.copy_from_query(QUERY.format(3), output=kept)
            async with pool.acquire() as conn:
                assert conn._con._protocol.is_ssl
    assert kept.rows.count(b"\n") == ROWS


@on_both_loops
async def test_wrong_arguments_leave_a_file_as_it_is(postgres, tmp_path):
    path = tmp_path / "rows"
    path.write_text("precious")
    async with told(postgres) as pool:
        with pytest.raises(asyncpg.DataError):
            await pool.copy_from_query("select $1::int", "no number", output=path)
        assert path.read_text() == "precious"
        await pool.copy_from_query("select $1::int", 7, output=path)
        assert path.read_text() == "7\n"


class Collecting(asyncpg.Connection):
    """A connection class of a user's, with another idea of an output."""

    async def copy_from_query(self, query, *args, output=None, **options):
        rows = [] if output is None else output

        async def take(data):
            rows.append(data)

        await super().copy_from_query(query, *args, output=take, **options)
        return b"".join(rows)


@on_both_loops
async def test_a_connection_class_may_have_outputs_of_its_own(postgres):
    pool = create_pool(postgres.url, max_size=1, connection_class=Collecting)
    rows = []
    async with pool, pool.acquire() as conn:
        assert await conn.copy_from_query("select 1") == b"1\n"
        await conn.copy_from_query("select 2", output=rows)
    assert rows == [b"2\n"]


@on_both_loops
async def test_an_output_that_fails_between_notices_leaves_a_usable_connection(postgres):
    async with told(postgres) as pool:

        async def fail(_rows):
            raise OSError("disk full")

        async with pool.acquire() as conn:
            with pytest.raises(OSError, match="disk full"):
                await conn.copy_from_query(QUERY.format(3), output=fail)
            assert await conn.fetchval("select 1") == 1


@pytest.mark.parametrize("after", range(0, 60, 4))
@on_both_loops
async def test_a_cancelled_copy_costs_the_next_borrower_nothing(postgres, after):
    """Wherever it is: in the output, or waiting for rows that are here already.

    asyncpg itself loses track of a COPY that is cancelled between the two.
    """
    taken = asyncio.Event()
    times = 0

    async def count(_rows):
        nonlocal times
        times += 1
        if times >= after:
            taken.set()
        await asyncio.sleep(0)

    async with told(postgres) as pool:
        work = asyncio.ensure_future(pool.copy_from_query(QUERY.format(10), output=count))
        await taken.wait()
        for _ in range(after % 7):
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        kept = Kept()
        await pool.copy_from_query(QUERY.format(10), output=kept)
        assert kept.rows.count(b"\n") == ROWS
        assert not outages(pool)
        assert pool.get_statistics().total_connects == 1


@on_both_loops
async def test_a_second_copy_on_a_busy_connection_is_refused_and_costs_no_rows(postgres):
    kept = Kept()
    async with told(postgres) as pool, pool.acquire() as conn:
        query = f"select t.* from ({QUERY.format(3)}) t, (select pg_sleep(0.1) offset 0) s"
        first = asyncio.ensure_future(conn.copy_from_query(query, output=kept))
        await asyncio.sleep(0)
        with pytest.raises(asyncpg.InterfaceError, match="another operation"):
            await conn.copy_from_query("select 1", output=kept)
        await first
    assert kept.rows.count(b"\n") == ROWS


@on_both_loops
async def test_a_lost_connection_ends_a_copy_with_an_error(postgres):
    killed = []

    async def kill(_rows):
        if killed:
            return
        killed.append(True)
        admin = await asyncpg.connect(postgres.url)
        await admin.execute("select pg_terminate_backend($1, 10000)", conn.get_server_pid())
        await admin.close()

    async with told(postgres) as pool, pool.acquire() as conn:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await conn.copy_from_query(
                "select n, told(n, 3) from generate_series(1, 1000000) n", output=kill
            )


@on_both_loops
async def test_long_notices_cost_no_rows_either(postgres):
    """Of 64 KiB and more."""
    async with told(postgres) as pool:
        await pool.execute(
            """create function told_much(n int) returns int stable language plpgsql as $$
            begin
                if n % 50 = 0 then raise info '%', repeat('x', 70000); end if;
                return n;
            end $$"""
        )
        kept = Kept()
        query = f"select told_much(n) from generate_series(1, {ROWS}) n"
        await pool.copy_from_query(query, output=kept)
        assert kept.rows.count(b"\n") == ROWS


@pytest.mark.parametrize("output", [5, None])
@on_both_loops
async def test_what_takes_no_rows_is_refused_before_anything_is_sent(postgres, output):
    async with told(postgres) as pool, pool.acquire() as conn:
        with pytest.raises(TypeError, match="output is expected to be"):
            await conn.copy_from_query("select 1 where false", output=output)
        with pytest.raises(TypeError, match="'output'"):
            await conn.copy_from_table("told_of")


@pytest.mark.parametrize("kind", ["file", "function"])
@on_both_loops
async def test_a_connection_released_while_its_output_is_busy_is_lent_to_nobody(postgres, kind):
    goes_on, written = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class File(io.BytesIO):
        def write(self, rows):
            loop.call_soon_threadsafe(written.set)
            goes_on.wait(10)
            return super().write(rows)

    async def function(_rows):
        written.set()
        await loop.run_in_executor(None, goes_on.wait, 10)

    async with told(postgres) as pool:
        await pool.execute(
            "create table wide as select repeat('y', 50) from generate_series(1, 200000)"
        )
        conn = await pool.acquire()
        output = File() if kind == "file" else function
        work = asyncio.ensure_future(conn.copy_from_table("wide", output=output))
        await written.wait()
        await pool.release(conn)
        try:
            assert await pool.fetchval("select 42") == 42
        finally:
            goes_on.set()
            assert isinstance((await asyncio.gather(work, return_exceptions=True))[0], Exception)


@on_both_loops
async def test_rows_that_look_like_notices_are_not_parted(postgres):
    """Each part takes a step or two of the event loop: the pool took the connection for stalled."""
    calls = 0

    async def count(_rows):
        nonlocal calls
        calls += 1

    async with told(postgres) as pool:
        query = "select 78, n from generate_series(1, 300000) n"  # N and the length of the next
        await pool.copy_from_query(query, output=count, format="binary")
    assert calls < 10_000


@on_both_loops
async def test_rows_that_wait_behind_notices_are_no_silence(postgres):
    """While an output works on them nothing is read, and the server waits for its client."""
    rows = 0

    async def work(some):
        nonlocal rows
        rows += some.count(b"\n")
        time.sleep(0.005)

    async with (
        told(postgres),
        pool_on(postgres.url, max_size=1, stall_after=0.2, application="work") as pool,
    ):
        query = "select told(n, 3), repeat('y', 1000) from generate_series(1, 2000) n"
        await pool.copy_from_query(query, output=work)
        assert "stalled" not in pool.get_statistics().recycled
    assert rows == 2000


NOTICE = b"N\0\0\0\x20SINFO\0VINFO\0C00000\0Mrow\0\0"


@given(st.lists(st.sampled_from([b"N", b"\0", b"N\0\0", b"d", NOTICE])).map(b"".join))
def test_parts_are_the_data_again(data):
    """And what looks like a notice is at the beginning of a part, if it is whole."""
    made = parts(data)
    assert b"".join(made) == data
    assert all(NOTICE not in part[1:] for part in made)
    assert all(made) or not data
