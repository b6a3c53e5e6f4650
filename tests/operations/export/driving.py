"""Exports driven by hand: a checkpoint table of the test's own, and an interruption anywhere."""

import json

import asyncpg

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.drivers.base import session_of
from poolkeeper.operations.export import ExportKind
from poolkeeper.operations.owner import LEASE_SECONDS
from poolkeeper.operations.store import bounds

CREATE = """
create table if not exists checkpoint (seq int, cursor jsonb, rows int, done bool);
delete from checkpoint;
insert into checkpoint values (0, '{}', 0, false)"""


class Interrupted(Exception):
    """The test ends an attempt here."""


def cut_off(connection):
    """End a connection to read with, as the runner does."""
    if session_of(connection) is not None:
        session_of(connection).abort()


class Run:
    """A run with connections to read with after each beginning, as the runner gives it some."""

    def __init__(self, url, run):
        self._run = run
        self._pool = ConnectionPoolManager(
            PoolConfig(database_url=url, min_size=0, max_size=4, probe_interval=60.0)
        )
        self.reading = []

    async def begin(self, connection, cursor):
        if not self.reading:
            await self._pool.initialize()
        await self._run.begin(connection, cursor)
        self._let_go_of_reading()
        for _ in range(self._run.readers):
            self.reading.append(await self._pool._pool.wait(None))
        self._run.read_with(tuple(self.reading), bounds(LEASE_SECONDS, 18), cut_off)

    async def close(self):
        await self._run.close()
        self._let_go_of_reading()
        await self._pool.close()

    def _let_go_of_reading(self):
        while self.reading:
            connection = self.reading.pop()
            assert connection.is_closed() or not connection.is_in_transaction()
            self._pool._pool.release(connection)

    def __getattr__(self, name):
        return getattr(self._run, name)


class Export:
    """One export and its checkpoint, as the runner keeps it."""

    def __init__(self, url, prepared):
        self.url = url
        self.prepared = prepared

    @classmethod
    async def prepare(cls, url, **spec):
        connection = await asyncpg.connect(url)
        try:
            prepared = await ExportKind().prepare(connection, {"to": None} | spec)
            export = cls(url, prepared)
            await connection.execute(CREATE)
            await connection.execute(
                "update checkpoint set cursor = $1", json.dumps(prepared.cursor)
            )
            return export
        finally:
            await connection.close()

    def start(self):
        spec = json.loads(json.dumps(self.prepared.spec))
        return Run(self.url, ExportKind().start(spec, None, None))

    async def begin(self, connection, run):
        row = await connection.fetchrow("select * from checkpoint")
        await run.begin(connection, json.loads(row["cursor"]))
        return row["seq"]

    async def step(self, connection, run, seq, size=100, *, interrupt=""):
        """One chunk as the runner does it; True when the export is done."""
        async with connection.transaction():
            chunk = await run.chunk(connection, size)
            if interrupt == "before checkpoint":
                raise Interrupted
            moved = await connection.execute(
                "update checkpoint set seq = seq + 1, cursor = $2, rows = rows + $3, done = $4 "
                "where seq = $1 and not done",
                seq, json.dumps(chunk.cursor), chunk.rows, chunk.done,
            )  # fmt: skip
            assert moved == "UPDATE 1", "fenced"
        if interrupt == "before hearing of the commit":
            raise Interrupted
        await run.committed(chunk)
        if interrupt == "after the commit":
            raise Interrupted
        return chunk.done

    async def run(self, *, size=100, interrupt="", at=None):
        """To the end, or to the interruption of chunk number ``at``; how many chunks it took."""
        run = self.start()
        connection = await asyncpg.connect(self.url)
        chunks = 0
        try:
            seq = await self.begin(connection, run)
            while True:
                done = await self.step(
                    connection, run, seq, size, interrupt=interrupt if chunks == at else ""
                )
                seq += 1
                chunks += 1
                if done:
                    return chunks
        finally:
            await run.close()
            await connection.close()


async def export(url, *, size=100, **spec):
    """An undisturbed export."""
    made = await Export.prepare(url, **spec)
    await made.run(size=size)
    return made


def files(directory):
    """Names and content of what is visible there."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if not path.name.startswith(".") and not path.name.endswith(".partial")
    }


def everything(directory):
    return sorted(path.name for path in directory.iterdir())
