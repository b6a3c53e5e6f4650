"""Every public call of a pool that talks to the server, each as one piece of work to be broken."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from poolkeeper import TransactionOutcome
from poolkeeper.transactions.ids import new_id

ASYNCPG = ("asyncpg",)
PSYCOPG = ("psycopg",)
BOTH = ("asyncpg", "psycopg")


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        work: A coroutine function that gets the pool and the id of its work, and checks what it is
            given back.
        rows: How many rows it writes in one transaction; 0: it only reads.
        insists: Its caller never hears of a single fault.
        opens: It opens the pool itself.
        closes: It leaves the pool closed.
        new_database: It is made in a database where no pool has been before.
        options: Of the pool.
    """

    name: str
    work: Callable[[Any, int], Awaitable[Any]]
    rows: int = 0
    insists: bool = False
    opens: bool = False
    closes: bool = False
    new_database: bool = False
    options: dict[str, Any] = field(default_factory=dict)


CALLS: dict[str, dict[str, Call]] = {"asyncpg": {}, "psycopg": {}}


def call(*drivers: str, options: dict[str, Any] | None = None, **what: Any):
    """Make a coroutine function a call of these drivers, under its own name."""

    def register(work):
        for driver in drivers:
            name = work.__name__
            CALLS[driver][name] = Call(name, work, options=options or {}, **what)
        return work

    return register


def insert(work: int, row: int = 1) -> str:
    """What leaves one row; done twice it leaves two."""
    return f"INSERT INTO work VALUES ({work}, {row})"


def insert_once(work: int) -> str:
    """The same, and doing it twice is as good as once."""
    return f"INSERT INTO work_once VALUES ({work}) ON CONFLICT DO NOTHING"


async def settled(pool) -> None:
    """Wait until nothing is being opened, cleaned or closed."""
    while True:
        now = pool.get_statistics()
        if now.total_connections == now.idle_connections + now.active_connections:
            return
        await asyncio.sleep(0.002)


# Single statements --------------------------------------------------------------------------------


@call(*BOTH, rows=1)
async def execute(pool, work):
    await pool.execute(insert(work))


@call(*ASYNCPG, rows=1)
async def execute_with_arguments(pool, work):
    await pool.execute("INSERT INTO work VALUES ($1, 1)", work)


@call(*PSYCOPG, rows=1, options={"max_size": 2})
async def execute_with_parameters(pool, work):
    await pool.execute("INSERT INTO work VALUES (%s, 1)", (work,))


@call(*BOTH, rows=1, insists=True)
async def execute_idempotent(pool, work):
    await pool.execute(insert_once(work), idempotent=True)


@call(*ASYNCPG, rows=3)
async def executemany(pool, work):
    await pool.executemany("INSERT INTO work VALUES ($1, $2)", [(work, n) for n in (1, 2, 3)])


@call(*ASYNCPG, rows=1)
async def fetch(pool, work):
    rows = await pool.fetch(insert(work) + " RETURNING id")
    assert [row["id"] for row in rows] == [work]


@call(*ASYNCPG, rows=1)
async def fetchrow(pool, work):
    assert tuple(await pool.fetchrow(insert(work) + " RETURNING id, row")) == (work, 1)


@call(*ASYNCPG, rows=1)
async def fetchval(pool, work):
    assert await pool.fetchval(insert(work) + " RETURNING id") == work


@call(*ASYNCPG, rows=2)
async def fetchmany(pool, work):
    sql = "INSERT INTO work VALUES ($1, $2) RETURNING row"
    rows = await pool.fetchmany(sql, [(work, 1), (work, 2)])
    assert [row["row"] for row in rows] == [1, 2]


@call(*ASYNCPG, insists=True)
async def fetch_idempotent(pool, work):
    rows = await pool.fetch("SELECT n FROM generate_series(1, $1) n", 3, idempotent=True)
    assert [row["n"] for row in rows] == [1, 2, 3]


@call(*ASYNCPG, insists=True)
async def fetchval_idempotent(pool, work):
    assert await pool.fetchval("SELECT 7", idempotent=True) == 7


@call(*ASYNCPG, rows=2)
async def copy_records_to_table(pool, work):
    await pool.copy_records_to_table("work", records=[(work, 1), (work, 2)])


@call(*ASYNCPG, rows=2)
async def copy_to_table(pool, work):
    source = io.BytesIO(f"{work}\t1\n{work}\t2\n".encode())
    await pool.copy_to_table("work", source=source)


@call(*ASYNCPG)
async def copy_from_table(pool, work):
    output = io.BytesIO()
    await pool.copy_from_table("constants", output=output)
    assert output.getvalue() == b"1\n2\n3\n"


@call(*ASYNCPG)
async def copy_from_query(pool, work):
    output = io.BytesIO()
    await pool.copy_from_query("SELECT n FROM constants WHERE n > $1", 2, output=output)
    assert output.getvalue() == b"3\n"


# Borrowed connections -----------------------------------------------------------------------------


@call(*BOTH, rows=1, options={"validation_bypass": 0.0})
async def acquire_with_validation(pool, work):
    async with pool.acquire() as connection:
        await connection.execute(insert(work))


@call(*BOTH, rows=1, options={"min_size": 0})
async def acquire_with_a_new_connection(pool, work):
    async with pool.acquire() as connection:
        await connection.execute(insert(work))


@call(*BOTH, rows=2)
async def transaction(pool, work):
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(insert(work, 1))
        await connection.execute(insert(work, 2))


@call(*BOTH, rows=2)
async def savepoint(pool, work):
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(insert(work, 1))
        async with connection.transaction():
            await connection.execute(insert(work, 2))


@call(*ASYNCPG, rows=1)
async def serializable_transaction(pool, work):
    async with pool.acquire() as connection, connection.transaction(isolation="serializable"):
        assert await connection.fetchval("SELECT $1::int", 1) == 1
        await connection.execute(insert(work))


@call(*ASYNCPG, rows=1)
async def prepared_statement(pool, work):
    async with pool.acquire() as connection:
        statement = await connection.prepare("INSERT INTO work VALUES ($1, 1) RETURNING id")
        assert await statement.fetchval(work) == work


@call(*ASYNCPG, rows=2)
async def cursor(pool, work):
    async with pool.acquire() as connection, connection.transaction():
        sql = f"INSERT INTO work SELECT {work}, n FROM generate_series(1, 2) n"
        await connection.execute(sql)
        found = [row["n"] async for row in connection.cursor("TABLE constants", prefetch=2)]
        assert found == [1, 2, 3]


@call(*ASYNCPG)
async def cursor_moved(pool, work):
    async with pool.acquire() as connection, connection.transaction():
        opened = await connection.cursor("TABLE constants")
        await opened.forward(1)
        assert [row["n"] for row in await opened.fetch(5)] == [2, 3]


@call(*ASYNCPG)
async def set_type_codec(pool, work):
    async with pool.acquire() as connection:
        await connection.set_type_codec("json", encoder=str, decoder=str, schema="pg_catalog")
        assert await connection.fetchval("SELECT '7'::json") == "7"
    await settled(pool)


@call(*ASYNCPG, rows=1)
async def listen_and_be_cleaned(pool, work):
    async with pool.acquire() as connection:
        await connection.add_listener("news", print)
        await connection.execute(insert(work))
    await settled(pool)


@call(*BOTH, rows=1)
async def set_and_be_cleaned(pool, work):
    async with pool.acquire() as connection:
        await connection.execute("SET work_mem = '9MB'")
        await connection.execute(insert(work))
    await settled(pool)


@call(*BOTH)
async def abandoned_transaction_is_rolled_back(pool, work):
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await connection.execute(insert(work))
    await settled(pool)


@call(*PSYCOPG, rows=3)
async def cursor_executemany(pool, work):
    async with (
        pool.acquire() as connection,
        connection.transaction(),
        connection.cursor() as opened,
    ):
        await opened.executemany("INSERT INTO work VALUES (%s, %s)", [(work, n) for n in (1, 2, 3)])


@call(*PSYCOPG, rows=1)
async def cursor_fetch(pool, work):
    async with pool.acquire() as connection, connection.cursor() as opened:
        await opened.execute(insert(work) + " RETURNING id")
        assert await opened.fetchall() == [(work,)]


@call(*PSYCOPG)
async def server_side_cursor(pool, work):
    async with pool.acquire() as connection, connection.transaction():
        opened = connection.cursor(name="c")
        try:
            await opened.execute("TABLE constants")
            assert await opened.fetchmany(2) == [(1,), (2,)]
            await opened.close()
        finally:
            # psycopg cannot close one whose connection is lost, and would complain of that.
            opened._closed = True


@call(*PSYCOPG, rows=2)
async def copy_in(pool, work):
    async with (
        pool.acquire() as connection,
        connection.cursor() as opened,
        opened.copy("COPY work FROM STDIN") as copy,
    ):
        await copy.write_row((work, 1))
        await copy.write_row((work, 2))


@call(*PSYCOPG)
async def copy_out(pool, work):
    async with (
        pool.acquire() as connection,
        connection.cursor() as opened,
        opened.copy("COPY constants TO STDOUT") as copy,
    ):
        assert [row async for row in copy.rows()] == [("1",), ("2",), ("3",)]


@call(*PSYCOPG, rows=1)
async def pipeline(pool, work):
    async with pool.acquire() as connection, connection.pipeline():
        await connection.execute(insert(work))


@call(*PSYCOPG)
async def notifies(pool, work):
    async with pool.acquire() as connection:
        await connection.execute(f"LISTEN news_{work}")
        await connection.execute(f"NOTIFY news_{work}, '{work}'")
        async with aclosing(connection.notifies(timeout=20.0, stop_after=1)) as heard:
            assert [notify.payload async for notify in heard] == [str(work)]
    await settled(pool)


# Transactions that take effect once ---------------------------------------------------------------


async def _two_rows(connection, work):
    await connection.execute(insert(work, 1))
    await connection.execute(insert(work, 2))
    return work


@call(*BOTH, rows=2, insists=True)
async def run_transaction(pool, work):
    assert await pool.run_transaction(_two_rows, work) == work


@call(*BOTH, rows=2, insists=True)
async def run_transaction_with_an_id(pool, work):
    assert await pool.run_transaction(_two_rows, work, id=new_id()) == work


@call(*BOTH, rows=2, insists=True)
async def run_transaction_serializable(pool, work):
    assert await pool.run_transaction(_two_rows, work, isolation="serializable") == work


@call(*BOTH, rows=2, insists=True)
async def run_transaction_with_a_savepoint(pool, work):
    async def body(connection):
        await connection.execute(insert(work, 1))
        async with connection.transaction():
            await connection.execute(insert(work, 2))

    await pool.run_transaction(body)


@call(*BOTH, rows=2, insists=True, new_database=True)
async def run_transaction_for_the_first_time(pool, work):
    assert await pool.run_transaction(_two_rows, work) == work


@call(*BOTH, insists=True)
async def run_transaction_readonly(pool, work):
    async def read(connection):
        await connection.execute("TABLE constants")
        return 6

    assert await pool.run_transaction(read, readonly=True) == 6


@call(*BOTH, insists=True)
async def run_transaction_readonly_serializable(pool, work):
    async def read(connection):
        await connection.execute("TABLE constants")
        return 6

    assert await pool.run_transaction(read, readonly=True, isolation="serializable") == 6


@call(*BOTH, insists=True)
async def transaction_outcome(pool, work):
    assert await pool.transaction_outcome(new_id()) is TransactionOutcome.ABORTED


COMMITTED_BEFORE = UUID("00000000-0000-4000-8000-000000000001")
"""An id the ledger of every database has as committed."""


@call(*BOTH, insists=True)
async def transaction_outcome_committed(pool, work):
    outcome = await pool.transaction_outcome(COMMITTED_BEFORE)
    assert outcome is TransactionOutcome.COMMITTED


# The pool itself ----------------------------------------------------------------------------------


@call(*BOTH, opens=True, insists=True, options={"min_size": 2, "initialization_attempts": 20})
async def initialize(pool, work):
    await pool.initialize()
    await settled(pool)


@call(*BOTH, rows=1)
async def expire_connections(pool, work):
    await pool.expire_connections()
    await pool.execute(insert(work))
    await settled(pool)


@call(*BOTH, options={"max_size": 3})
async def resize(pool, work):
    pool.resize(min_size=2)
    while pool.get_size() < 2:
        await asyncio.sleep(0.002)
    pool.resize(min_size=0, max_size=1)
    await settled(pool)


@call(*BOTH, closes=True, insists=True)
async def close(pool, work):
    await pool.close()
