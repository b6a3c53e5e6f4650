"""The table that says which transactions were committed, and the statements on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from poolkeeper.deadlines import bounded
from poolkeeper.drivers.base import session_of
from poolkeeper.exceptions import ConnectionPoolError, LedgerUnavailableError
from poolkeeper.outcomes import TransactionOutcome
from poolkeeper.schema import DURABLY, LEDGER, install_script, is_there
from poolkeeper.sqlstate import INVALID_SCHEMA_NAME, UNDEFINED_TABLE, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from poolkeeper.drivers.base import Identity, TransactionalSession
    from poolkeeper.pool import Pool

MISSING: Final = frozenset({UNDEFINED_TABLE, INVALID_SCHEMA_NAME})

INSTALL_SECONDS: Final = 10.0
"""How long looking for the table and making it may take."""

PURGE_BATCH: Final = 1000
PURGE_SECONDS: Final = 10.0
KEPT_LONGER: Final = 1.1
"""Rows outlive their retention by a tenth: clocks differ, and a row that is gone reads as
``aborted``."""

_PURGE_LOCK: Final = 0x706F6F6C02
_COMMIT: Final = "insert into poolkeeper.ledger(id) values "


class Ledger:
    """The ledger of one pool's database.

    Args:
        pool: Where connections come from.
        retention: Seconds rows are kept.
        on_first_use: Called once, when the table is known to be there.
    """

    def __init__(
        self, pool: Pool, retention: Callable[[], float], on_first_use: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._retention = retention
        self._on_first_use = on_first_use
        self.ready = False
        """Whether the table is known to be there."""
        self._used = False
        self._looking = asyncio.Lock()

    async def ensure(self, session: TransactionalSession, left: float | None) -> None:
        """Make sure that the table is there, on a session outside of any transaction.

        Args:
            session: Is dropped if it takes too long.
            left: Seconds it may take, if those are fewer than ``INSTALL_SECONDS``.

        Raises:
            LedgerUnavailableError: It is not, and cannot be made.
            TimeoutError: It took too long; so may waiting for somebody else who looks.
        """
        if self.ready:
            return
        limit = INSTALL_SECONDS if left is None else min(left, INSTALL_SECONDS)
        try:
            async with asyncio.timeout(limit), self._looking:
                if not self.ready:
                    await bounded(self._ensure(session), limit, give_up=session.abort)
                    self.ready = True
        except TimeoutError:
            session.abort()
            raise
        if not self._used:
            self._used = True
            self._on_first_use()

    async def _ensure(self, session: TransactionalSession) -> None:
        try:
            if await session.run_script(is_there(LEDGER)) != "SELECT 0":
                return
        except Exception as error:
            code = sqlstate_of(error)
            if session.is_closed() or code is None:
                raise
            if code not in MISSING:
                raise self._unusable(error, "be read") from error
        try:
            await session.run_script(install_script())
        except Exception as error:
            if session.is_closed() or sqlstate_of(error) is None:
                raise
            await session.run_script("rollback")
            raise self._unusable(error, "be created") from error
        if await session.run_script(is_there(LEDGER)) == "SELECT 0":
            lost = LookupError("poolkeeper.migrations says that it is there, and it is not")
            raise self._unusable(lost, "be found") from lost

    def forget(self) -> None:
        """Look for the table again before the next transaction: it was there before."""
        self.ready = False

    def _unusable(self, error: Exception, what: str) -> ConnectionPoolError:
        return LedgerUnavailableError(
            f"The table poolkeeper.ledger, which makes transactions exactly-once, cannot {what} "
            f"at {self._pool.database}: {self._pool.reporter.describe(error)}. Nothing was "
            "executed. Suggestion: run `poolkeeper init-db URL --grant-to ROLE` once, as a role "
            "that may create schemas in this database."
        )

    async def purge(self) -> int:
        """Delete what is older than the retention, in batches; how many rows that were.

        Whoever finds another process at it leaves it alone.
        """
        deleted = 0
        while True:
            lease = await self._pool.wait(None)
            session = session_of(lease)
            try:
                tag = await bounded(
                    session.run_script(_purge(self._retention())),
                    PURGE_SECONDS,
                    give_up=session.abort,
                )
            except Exception:
                if session.is_closed():
                    # An outage; the next round goes on.
                    return deleted
                raise
            finally:
                self._pool.release(lease)
            batch = int(tag.rpartition(" ")[2])
            deleted += batch
            if batch < PURGE_BATCH:
                return deleted


def commit_script(keys: Sequence[UUID]) -> str:
    """End a transaction: record it and commit it, in one message.

    A row that is there already, of a transaction or a tombstone, makes the whole fail.
    """
    rows = ",".join(f"('{key}')" for key in keys)
    return f"{_COMMIT}{rows}; commit"


def tombstone_script(key: UUID, lock_seconds: float) -> str:
    """Find out what became of a transaction, and make it final: ``SELECT 1`` if it committed.

    Inserting waits for a transaction that is still at its COMMIT, and makes one that comes later
    fail. Under READ COMMITTED the row is then seen whoever wrote it. Touching a committed row
    makes this commit, and its wait for synchronous standbys, include that one.
    """
    return (
        f"begin isolation level read committed read write;{DURABLY}"
        # A short one of the role's would end the question before its own limits do.
        "set local statement_timeout = 0;"
        f"set local lock_timeout = {max(1, round(lock_seconds * 1000))};"
        f"insert into poolkeeper.ledger(id, outcome) values ('{key}', 'aborted')"
        " on conflict (id) do nothing;"
        f"update poolkeeper.ledger set outcome = outcome where id = '{key}'"
        " and outcome = 'committed';"
        "commit;"
        f"select from poolkeeper.ledger where id = '{key}' and outcome = 'committed'"
    )


def end_committing_script(key: UUID) -> str:
    """End the server process that is still committing a transaction, known by what it runs.

    Not one that only waits for a synchronous standby: it would commit without it.
    """
    return (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where state = 'active' and pid <> pg_backend_pid()"
        " and wait_event is distinct from 'SyncRep'"
        f" and query like '{_COMMIT}(%''{key}''%; commit'"
    )


def end_process_script(process: Identity) -> str:
    """End a server process nobody talks to any more: it holds locks the next attempt needs."""
    return (
        f"select pg_terminate_backend(pid) from pg_stat_activity where pid = {process.pid}"
        f" and extract(epoch from backend_start) = {process.started}"
    )


def look_up_script(key: UUID) -> str:
    """Read what is known of a transaction; ``known_outcome`` reads the answer."""
    return (
        "select from poolkeeper.ledger,"
        " generate_series(1, case outcome when 'committed' then 2 else 1 end)"
        f" where id = '{key}'"
    )


def confirm_script(key: UUID) -> str:
    """Wait until a committed transaction is as durable as the server makes them.

    It may be visible and yet wait for a synchronous standby; a commit after it waits for both.
    """
    return (
        f"begin isolation level read committed read write;{DURABLY}"
        f"update poolkeeper.ledger set outcome = outcome where id = '{key}';"
        "commit"
    )


def known_outcome(tag: str) -> TransactionOutcome | None:
    """The answer to ``look_up_script``, which is the number of rows in the command tag."""
    return {
        "SELECT 2": TransactionOutcome.COMMITTED,
        "SELECT 1": TransactionOutcome.ABORTED,
    }.get(tag)


def _purge(retention: float) -> str:
    return (
        "delete from poolkeeper.ledger"
        f" where (select pg_try_advisory_xact_lock({_PURGE_LOCK})) and ctid = any (array("
        "select ctid from poolkeeper.ledger"
        f" where at < clock_timestamp() - make_interval(secs => {retention * KEPT_LONGER})"
        f" limit {PURGE_BATCH}))"
    )
