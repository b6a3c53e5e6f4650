"""A session that waits for a file is kept alive; a thread outlives its purpose by a moment."""

import asyncio
import threading

import asyncpg
import pytest
import pytest_asyncio

from poolkeeper.operations.kind import CommittedChunk
from poolkeeper.operations.load import alive, fingerprint
from poolkeeper.operations.load.errors import AbandonedError
from poolkeeper.operations.load.run import LoadRun, verify
from poolkeeper.operations.load.text_reader import TextReader

pytestmark = pytest.mark.asyncio


class Chunks:
    """What a run has committed."""

    def __init__(self):
        self.done = []

    async def committed(self, _connection):
        return self.done


@pytest_asyncio.fixture
async def connection(postgres):
    """The session of a chunk."""
    connection = await asyncpg.connect(postgres.url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def started(pool, admin, connection, tmp_path):
    """A run that has loaded its first chunk, and its file."""
    path = tmp_path / "rows.csv"
    path.write_text("n\n" + "".join(f"{n}\n" for n in range(1000)))
    await admin.execute("CREATE TABLE t (n int)")
    operation = await pool.operations.load(path, into="t")
    chunks = Chunks()
    run = LoadRun(operation.status.spec, operation.status.fingerprint, chunks)
    cursor = operation.status.cursor
    await run.begin(connection, cursor)
    async with connection.transaction():
        chunk = await run.chunk(connection, 100)
    await run.committed(chunk)
    chunks.done = [CommittedChunk(1, cursor, chunk.cursor, chunk.rows, chunk.checksum)]
    yield run, path, chunks
    await run.close()


class Held:
    """A function that does not begin before it is released; of what is read ahead, the next one."""

    def __init__(self, monkeypatch, where, name, after):
        self.reached = threading.Event()
        self.released = threading.Event()
        real = getattr(where, name)

        def held(*arguments):
            if after(arguments[-1]):
                self.reached.set()
                assert self.released.wait(60)
            return real(*arguments)

        monkeypatch.setattr(where, name, held)


@pytest.mark.parametrize("what", ["the next piece", "what was loaded", "the place to go on"])
async def test_transaction_is_not_idle_while_the_file_is_read(
    monkeypatch, started, admin, connection, what
):
    """The server ends those that are."""
    run, path, _ = started
    await run._pieces._ahead
    monkeypatch.setattr(alive, "SIGN_OF_LIFE_SECONDS", 0.05)
    if what == "the next piece":
        held = Held(monkeypatch, TextReader, "read", lambda _: True)
        async with connection.transaction():
            # was read ahead
            await run.committed(await run.chunk(connection, 100))
    elif what == "what was loaded":
        held = Held(monkeypatch, fingerprint, "verify_prefix", lambda _: True)
    else:
        held = Held(monkeypatch, TextReader, "open", lambda cursor: cursor["line"] > 1)
    if what != "the next piece":
        path.touch()
        async with connection.transaction():
            await run.committed(await run.chunk(connection, 100))
    async with connection.transaction():
        working = asyncio.ensure_future(run.chunk(connection, 100))
        assert await asyncio.to_thread(held.reached.wait, 60)
        pid = connection.get_server_pid()
        seen = set()
        async with asyncio.timeout(60):
            while len(seen) < 3:
                assert not working.done()
                seen.add(
                    await admin.fetchval(
                        "SELECT query_start FROM pg_stat_activity WHERE pid = $1", pid
                    )
                )
        held.released.set()
        chunk = await working
    assert chunk.rows > 0


async def test_lost_session_is_noticed_while_the_file_is_read(
    monkeypatch, started, admin, connection
):
    """The run begins anew then; what it waited for is not forgotten."""
    run, _, _ = started
    await run._pieces._ahead
    monkeypatch.setattr(alive, "SIGN_OF_LIFE_SECONDS", 0.05)
    held = Held(monkeypatch, TextReader, "read", lambda _: True)
    transaction = connection.transaction()
    await transaction.start()
    await run.committed(await run.chunk(connection, 100))
    working = asyncio.ensure_future(run.chunk(connection, 100))
    await admin.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await working
    closing = asyncio.ensure_future(run.close())
    held.released.set()
    await closing


async def test_comparing_that_was_cancelled_ends(monkeypatch, started, connection):
    """A process can end, however large the file is."""
    run, _, chunks = started
    comparing = threading.Event()
    told = threading.Event()

    def compare(stream, _chunks):
        comparing.set()
        if stream.abandoned.wait(60):
            told.set()
        raise AbandonedError

    monkeypatch.setattr(fingerprint, "verify_prefix", compare)
    verifying = asyncio.ensure_future(verify(connection, run._spec, chunks))
    assert await asyncio.to_thread(comparing.wait, 60)
    verifying.cancel()
    await asyncio.wait({verifying})
    assert await asyncio.to_thread(told.wait, 60)
