"""Running statements for a borrower, the short way where asyncpg has prepared them already.

``asyncpg.Connection.fetch`` goes through five layers of Python that prepare, log, time and retry.
For a statement in the connection's cache they decide nothing, and they cost about a fifth of a
small query: more than the whole pool. This module does what those layers would end up doing, and
leaves everything else (first use, timeouts per call, query loggers, a changed schema) to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from asyncpg import exceptions

if TYPE_CHECKING:
    from collections.abc import Awaitable

ALL_ROWS: Final = 0
ONE_ROW: Final = 1


def cached_statement(con: Any, query: str) -> Any:
    """The prepared statement of ``query`` if the short way may be taken, else None."""
    if con._aborted or con._query_loggers or con._stmt_exclusive_section._acquired:
        return None
    protocol = con._protocol
    if not protocol.is_connected():
        return None
    return con._stmt_cache.get((query, protocol.get_record_class(), False))


async def run_cached(
    con: Any, statement: Any, query: str, args: tuple[Any, ...], limit: int, column: Any
) -> Any:
    """Run a prepared statement: all rows, or with ``ONE_ROW`` the first row or one column of it.

    Errors are asyncpg's. A statement the schema has outgrown is prepared anew and run once more,
    unless a transaction forbids it, as ``asyncpg.Connection._do_execute`` does.
    """
    section = con._stmt_exclusive_section
    with section:
        try:
            rows = await con._protocol.bind_execute(
                statement, args, portal_name="", limit=limit, return_extra=False, timeout=None
            )
        except exceptions.OutdatedSchemaCacheError:
            # A subclass of the next one, and harmless to the connection.
            await con.reload_schema_state()
            raise
        except exceptions.InternalClientError as error:
            give_up(con, error)
            raise
        except EXPLAINED as error:
            explain(con, error)
            raise
        except exceptions.InvalidCachedStatementError:
            con._drop_global_statement_cache()
            if con._protocol.is_in_transaction():
                raise
            rows = None
    if rows is None:
        rows = await con.fetch(query, *args)
    if limit == ALL_ROWS:
        return rows
    if not rows:
        return None
    return rows[0] if column is None else rows[0][column]


async def guarded(con: Any, work: Awaitable[Any]) -> Any:
    """Await a call on ``con``; a connection asyncpg lost track of is given up."""
    try:
        return await work
    except exceptions.OutdatedSchemaCacheError:
        raise
    except exceptions.InternalClientError as error:
        give_up(con, error)
        raise
    except EXPLAINED as error:
        explain(con, error)
        raise
    except AttributeError as error:
        if con._protocol is not None:
            raise
        # Cut off between two steps of one statement; asyncpg takes it for granted that it is not.
        lost = closed_midway()
        explain(con, lost)
        raise lost from error


def closed_midway() -> exceptions.ConnectionDoesNotExistError:
    """What asyncpg itself raises when a connection is lost under a statement."""
    return exceptions.ConnectionDoesNotExistError(
        "connection was closed in the middle of operation"
    )


async def running(con: Any, work: Awaitable[Any]) -> Any:
    """Like ``guarded``, for work asyncpg does not lock the connection for: it counts as running."""
    lease = con._proxy
    if lease is None:
        # Nobody's: an errand of the pool's, or an object used after the release, which says so.
        return await guarded(con, work)
    lease._running += 1
    try:
        return await guarded(con, work)
    finally:
        lease._running -= 1


EXPLAINED = (exceptions.ConnectionDoesNotExistError, exceptions.ReadOnlySQLTransactionError)
"""Errors the pool may know more about than the driver."""


def explain(con: Any, error: Exception) -> None:
    """Add the pool's reason to a connection cut off by the pool; tell it of a read-only server."""
    lease = con._proxy
    if lease is None:
        return
    if isinstance(error, exceptions.ReadOnlySQLTransactionError):
        lease._pool._statement_failed(lease._slot, error)
    elif lease._slot.error is not None:
        error.add_note(lease._slot.error)


def give_up(con: Any, error: Exception) -> None:
    """Let nobody have the connection again, and say what happened where asyncpg cannot.

    A server that ends a session between two statements says so at once and closes the socket a
    moment later. In that moment asyncpg knows only that its state is wrong, and so would all the
    waiters the connection could be passed on to.
    """
    con.terminate()
    if "another operation (2) is in progress" in str(error):
        msg = "connection was closed by the server before the statement was sent"
        raise exceptions.ConnectionDoesNotExistError(msg) from error
