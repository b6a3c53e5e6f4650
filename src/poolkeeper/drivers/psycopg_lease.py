"""What ``acquire()`` yields with psycopg: an ``AsyncConnection`` for as long as it is borrowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg import pq

from poolkeeper.drivers.base import swallowed_error
from poolkeeper.drivers.psycopg_transaction import PooledPsycopgTransaction
from poolkeeper.exceptions import PoolUsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from poolkeeper.core.slots import Slot
    from poolkeeper.drivers.base import Notes, Owner


class PsycopgConnectionReleasedError(PoolUsageError, psycopg.InterfaceError):
    """A connection was used after it had gone back to the pool. Nothing was sent."""


class _Released:
    """Stands in for the connection of a lease that is over: any use says so."""

    def __getattr__(self, name: str) -> NoReturn:
        raise PsycopgConnectionReleasedError(
            f"cannot use AsyncConnection.{name}: connection has been released back to the pool. "
            "Suggestion: do the work inside the `async with pool.acquire()` block, or acquire "
            "another connection."
        )


psycopg_lease_released: Any = _Released()

HARMLESS = frozenset({"closed", "broken", "info", "commit", "rollback", "cancel", "cancel_safe"})
"""What can be asked of a connection without leaving session state that a rollback would miss."""


class PooledPsycopgConnection:
    """A ``psycopg.AsyncConnection`` borrowed from a pool.

    Every attribute is the connection's until the release; after that each raises
    ``PsycopgConnectionReleasedError``. Statements given to ``execute`` are judged by their text;
    whatever goes another way (cursors, ``pgconn``) has the session cleaned after use.
    """

    _con: Any
    _slot: Slot
    _pool: Owner
    _notes: Notes
    _dirty: int
    _last_query: str | None
    _finishing: Any

    __slots__ = (
        "_code",
        "_con",
        "_dirty",
        "_finishing",
        "_last_query",
        "_lasti",
        "_notes",
        "_pool",
        "_slot",
        "_task",
    )

    def __init__(self, con: Any, slot: Slot, owner: Owner, notes: Notes) -> None:
        # Past __setattr__, which costs more than all the rest.
        _set_con(self, con)
        _set_slot(self, slot)
        _set_pool(self, owner)
        _set_notes(self, notes)
        _set_dirty(self, 0)
        _set_last_query(self, None)
        # A COMMIT sent and perhaps not answered yet.
        _set_finishing(self, None)
        con.on_refusal = self._refused

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN:
            object.__setattr__(self, name, value)
        else:
            # row_factory and the like: the connection's, and restored when it comes back.
            self._dirty = 3
            setattr(self._con, name, value)

    def _refused(self, error: Exception) -> None:
        self._pool._statement_failed(self._slot, error)

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Run ``AsyncConnection.execute``."""
        if isinstance(query, str):
            self._last_query = query
        if not isinstance(query, str) or query not in self._notes.clean:
            self._dirty |= self._notes.mark(query)
        slot = self._slot
        try:
            return await self._con.execute(query, params, **options)
        except psycopg.OperationalError as error:
            if slot.error is not None:
                error.add_note(slot.error)
            raise

    async def commit(self) -> None:
        """Run ``AsyncConnection.commit``, which does not look at what the server answers.

        Raises:
            TransactionRolledBackError: The error of a statement had been swallowed.
        """
        con = self._con
        async with con.lock:
            failed = con.pgconn.transaction_status == pq.TransactionStatus.INERROR
            await con.wait(con._commit_gen())
        if failed:
            raise swallowed_error("ROLLBACK")

    def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's signature
    ) -> AbstractAsyncContextManager[psycopg.AsyncTransaction]:
        """Run ``AsyncConnection.transaction``; see ``PooledPsycopgTransaction``."""
        if self._con._pipeline:
            transaction: AbstractAsyncContextManager[psycopg.AsyncTransaction] = (
                self._con.transaction(savepoint_name, force_rollback)
            )
            return transaction
        return PooledPsycopgTransaction(self, savepoint_name, force_rollback)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._con, name)
        if name not in HARMLESS:
            # Texts that go this way are not seen, an SQL-level PREPARE among them perhaps.
            self._dirty = 3
        return value

    def __repr__(self) -> str:
        if self._con is psycopg_lease_released:
            return f"<{type(self).__name__} [released] {id(self):#x}>"
        return f"<{type(self).__name__} {self._con!r} {id(self):#x}>"


def _setter(name: str) -> Callable[[object, object], None]:
    setter: Callable[[object, object], None] = PooledPsycopgConnection.__dict__[name].__set__
    return setter


_set_con = _setter("_con")
_set_slot = _setter("_slot")
_set_pool = _setter("_pool")
_set_notes = _setter("_notes")
_set_dirty = _setter("_dirty")
_set_last_query = _setter("_last_query")
_set_finishing = _setter("_finishing")

OWN = frozenset(PooledPsycopgConnection.__slots__)
