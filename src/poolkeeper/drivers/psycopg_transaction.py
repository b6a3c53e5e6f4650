"""Transactions of borrowed psycopg connections: COMMIT is checked, and never cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import generators, pq

from poolkeeper.drivers.base import answered, swallowed_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from psycopg.abc import PQGen

    from poolkeeper.drivers.psycopg_connection import WatchedAsyncConnection


class PooledPsycopgTransaction(psycopg.AsyncTransaction):
    """``psycopg.AsyncTransaction`` whose COMMIT is checked, and never cancelled.

    A COMMIT the server answers with ROLLBACK raises ``TransactionRolledBackError``. Whoever is
    cancelled while it runs leaves, and the pool waits for the answer.
    """

    _conn: WatchedAsyncConnection[Any]

    def __init__(
        self,
        lease: Any,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's signature
        begin: bytes | None = None,
    ) -> None:
        super().__init__(lease._con, savepoint_name, force_rollback)
        self._lease = lease
        self._begin = begin

    def _get_enter_commands(self) -> Iterator[bytes]:
        if self._begin is None:
            yield from super()._get_enter_commands()
        else:
            yield self._begin

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        commits = exc_val is None and not self.force_rollback and self._outer_transaction
        if not commits or self.pgconn.status != pq.ConnStatus.OK:
            return await super().__aexit__(exc_type, exc_val, exc_tb)
        status = await self._end("COMMIT", None)
        if status != "COMMIT":
            raise swallowed_error(status)
        return False

    async def finish(self, sql: str, seconds: float | None) -> str:
        """See ``OpenTransaction``."""
        if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            # A COPY that was left open would be waited for for ever. The words are asyncpg's.
            raise psycopg.OperationalError("cannot end: another operation is in progress")
        return await self._end(sql, seconds)

    async def _end(self, sql: str, seconds: float | None) -> str:
        session = self._lease._slot.connection
        if session is None:
            raise psycopg.OperationalError("the connection is closed")
        work = asyncio.get_running_loop().create_task(self._finish(sql))
        self._lease._finishing = work
        return await answered(work, seconds, give_up=session.abort)

    async def _finish(self, sql: str) -> str:
        async with self._conn.lock:
            return await self._conn.wait(self._finish_gen(sql))

    def _finish_gen(self, sql: str) -> PQGen[str]:
        wrong_order = self._pop_savepoint("commit")
        self.status = self.Status.COMMITTED
        if wrong_order:
            raise wrong_order
        return (yield from script(self._conn, sql))

    def is_open(self) -> bool:
        """See ``OpenTransaction``."""
        return self.status == self.Status.ACTIVE and self._conn.in_transaction()

    async def roll_back(self) -> None:
        """See ``OpenTransaction``."""
        if self.status == self.Status.ACTIVE:
            error = psycopg.Rollback(self)
            await super().__aexit__(type(error), error, None)


def script(connection: psycopg.AsyncConnection[Any], sql: str) -> PQGen[str]:
    """Run statements in one simple-query message; the command tag of the last one."""
    connection._check_connection_ok()
    connection.pgconn.send_query(sql.encode())
    results = yield from generators.execute(connection.pgconn)
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result, encoding=connection.pgconn._encoding)
    return (results[-1].command_status or b"").decode()
