"""Transactions of borrowed asyncpg connections: COMMIT is checked, and never cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from asyncpg.transaction import Transaction, TransactionState

from poolkeeper.drivers.asyncpg_cached import running
from poolkeeper.drivers.base import answered, swallowed_error

if TYPE_CHECKING:
    from collections.abc import Awaitable

FOREVER = 1e9
"""Seconds: asyncpg would answer the end of ``command_timeout`` with a request to cancel."""


class PooledTransaction(Transaction):  # type: ignore[misc]
    """``asyncpg.transaction.Transaction`` as its users know it, with four differences.

    - A COMMIT the server answers with ROLLBACK raises ``TransactionRolledBackError``: asyncpg
      reports success where an error had been swallowed inside the transaction.
    - COMMIT is not cancelled in the server, whatever happens to the task that waits for it: a
      cancelled COMMIT may be visible here and lost after a failover. Who is cancelled leaves, and
      the pool waits for the answer before anybody else gets the connection.
    - When ``command_timeout`` ends during COMMIT the connection is dropped.
    - Its statements count as running, so that a peer that went silent is noticed.
    """

    __slots__ = ("_lease", "_protocol")
    _state: TransactionState

    def __init__(self, lease: Any, isolation: Any, readonly: Any, deferrable: Any) -> None:
        super().__init__(lease._con, isolation, readonly, deferrable)
        self._lease = lease
        # A connection that is cut off forgets it, and what the server said last counts.
        self._protocol = lease._con._protocol

    async def start(self) -> None:
        """See asyncpg."""
        await self._running(super().start())

    async def _Transaction__rollback(self) -> None:  # noqa: N802 - asyncpg's one way to roll back
        await self._running(super()._Transaction__rollback())

    async def _Transaction__commit(self) -> None:  # noqa: N802 - asyncpg's one way to commit
        if self._nested:
            await self._running(super()._Transaction__commit())
            return
        status = await self.finish("COMMIT;", self._connection._config.command_timeout)
        if status != "COMMIT":
            self._state = TransactionState.ROLLEDBACK
            raise swallowed_error(status)

    async def finish(self, sql: str, seconds: float | None) -> str:
        """See ``OpenTransaction``."""
        self._check_conn_validity("commit")
        self._Transaction__check_state("commit")
        con = self._connection
        if con._top_xact is self:
            con._top_xact = None
        self._state = TransactionState.FAILED
        limit = None if con._config.command_timeout is None else FOREVER
        work = asyncio.get_running_loop().create_task(
            self._running(con.execute(sql, timeout=limit))
        )
        self._lease._finishing = work
        status: str = await answered(work, seconds, give_up=con.terminate)
        self._state = TransactionState.COMMITTED
        return status

    def is_open(self) -> bool:
        """See ``OpenTransaction``."""
        in_transaction: bool = self._protocol.is_in_transaction()
        return self._connection._top_xact is self and in_transaction

    async def roll_back(self) -> None:
        """See ``OpenTransaction``."""
        con = self._connection
        if con._top_xact is self:
            con._top_xact = None
        self._state = TransactionState.ROLLEDBACK
        if con._protocol.is_in_transaction():
            await self._running(con.execute("ROLLBACK"))

    async def _running(self, work: Awaitable[Any]) -> Any:
        return await running(self._connection, work)
