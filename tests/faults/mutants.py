"""Wrong ways to write and to read, each of which somebody has shipped.

They are what ``poolkeeper.testing.workloads`` calls a ``Write`` or a ``Read``, so that the checker
judges them as it judges ours. A green run means something only because these are red.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

import asyncpg

from poolkeeper import TransactionRolledBackError

LOST_CONNECTION = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)
ATTEMPTS = 3


async def _transaction(pool, body, commit="COMMIT"):
    """Run the body between BEGIN and COMMIT, without looking at what COMMIT answers."""
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await body(connection)
        await connection.execute(commit)


async def naive_retry(pool, body):
    """Once more after a lost connection, whether or not COMMIT had been sent."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await _transaction(pool, body)
        except LOST_CONNECTION:
            continue
    return await _transaction(pool, body)


async def told_as_failed(pool, body):
    """A lost connection is an error, and an error means that nothing happened."""
    try:
        await _transaction(pool, body)
    except LOST_CONNECTION as error:
        raise TransactionRolledBackError("the connection was lost") from error


async def told_as_done(pool, body):
    """COMMIT was sent, so it will be fine."""
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await body(connection)
        try:
            await connection.execute("COMMIT")
        except LOST_CONNECTION:
            return


async def acknowledged_before_commit(pool, body):
    """The statements worked; the commit is done in the background, where nobody waits for it."""
    connection = await pool.acquire()
    await connection.execute("BEGIN")
    await body(connection)

    async def commit():
        try:
            with suppress(*LOST_CONNECTION):
                await connection.execute("COMMIT")
        finally:
            await pool.release(connection)

    background.add(task := asyncio.ensure_future(commit()))
    task.add_done_callback(background.discard)


background: set[asyncio.Task[None]] = set()
"""Commits nobody waits for; a scenario has to, before it reads what is there."""


async def retried_after_a_time_limit(pool, body):
    """COMMIT takes too long: drop it and do it again."""
    connection = await pool.acquire()
    try:
        await connection.execute("BEGIN")
        await body(connection)
        await connection.execute("COMMIT", timeout=0.2)
    except TimeoutError:
        connection.terminate()
        await _transaction(pool, body)
    finally:
        await pool.release(connection)


async def commit_tag_ignored(pool, body):
    """An error is swallowed inside the transaction; COMMIT then answers ROLLBACK."""
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await body(connection)
        await _audit(connection)
        await connection.execute("COMMIT")


async def _audit(connection):
    with suppress(asyncpg.UndefinedTableError):
        await connection.execute("INSERT INTO no_such_audit_log DEFAULT VALUES")


async def swallowed_in_run_transaction(pool, body):
    """The same mistake in our hands, which must not pass for a success."""

    async def both(connection):
        await body(connection)
        await _audit(connection)

    await pool.run_transaction(both)


async def execute_said_to_be_idempotent(pool, body):
    """An INSERT that says it may run again."""

    class Idempotent:
        async def execute(self, query, *args):
            return await pool.execute(query, *args, idempotent=True)

    await body(Idempotent())


async def resolved_by_xact_status(pool, body):
    """Ask ``pg_xact_status`` what became of the transaction, as the manual recommends."""
    xid = None
    try:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN")
            await body(connection)
            xid = await connection.fetchval("SELECT pg_current_xact_id()::text")
            await connection.execute("COMMIT")
    except LOST_CONNECTION:
        if xid is None:
            raise
        query = "SELECT pg_xact_status($1::text::xid8)"
        if await pool.fetchval(query, xid, idempotent=True) != "committed":
            await _transaction(pool, body)


async def resolved_by_select(pool, body):
    """A ledger, and a look at it without a tombstone: what is not there yet may still come."""
    id_ = uuid4()
    commit = f"INSERT INTO poolkeeper.ledger (id) VALUES ('{id_}'); COMMIT"
    try:
        await _transaction(pool, body, commit)
    except LOST_CONNECTION:
        if not await look_in_ledger(pool, id_):
            await _transaction(pool, body)


async def look_in_ledger(pool, id_) -> bool:
    """Whether a transaction is in the ledger at this moment, which says nothing about the next."""
    query = "SELECT EXISTS (SELECT FROM poolkeeper.ledger WHERE id = $1 AND outcome = 'committed')"
    return await pool.fetchval(query, id_, idempotent=True)


async def transfer_in_two_transactions(connection, transfer):
    """Takes in one transaction and gives in the next; instead of ``Bank.move``."""
    update = "UPDATE workload_accounts SET balance = balance + $2 WHERE account = $1"
    async with connection.transaction():
        await connection.execute(update, transfer["source"], -transfer["amount"])
    async with connection.transaction():
        await connection.execute(update, transfer["target"], transfer["amount"])
        await connection.execute(
            "INSERT INTO workload_transfers (id, source, target, amount) VALUES ($1, $2, $3, $4)",
            *transfer.values(),
        )


class CachedReads:
    """Answers from memory what was asked before; a ``Read``."""

    def __init__(self) -> None:
        self._answers = {}

    async def __call__(self, pool, query, *args):
        if query not in self._answers:
            self._answers[query] = await pool.fetch(query, *args)
        return self._answers[query]
