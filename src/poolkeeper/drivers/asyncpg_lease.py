"""What ``acquire()`` yields: an asyncpg connection for as long as the borrower has it."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, NoReturn

import asyncpg
from asyncpg import connection as asyncpg_connection
from asyncpg import utils

from poolkeeper.drivers.asyncpg_cached import (
    ALL_ROWS,
    ONE_ROW,
    cached_statement,
    guarded,
    run_cached,
    running,
)
from poolkeeper.drivers.asyncpg_copy_in import copy_in
from poolkeeper.drivers.asyncpg_copy_out import copy_out, is_file, writing
from poolkeeper.drivers.asyncpg_prepared import watched_cursor, watched_statement
from poolkeeper.drivers.asyncpg_transaction import PooledTransaction
from poolkeeper.exceptions import PoolUsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from poolkeeper.core.slots import Slot
    from poolkeeper.drivers.asyncpg_copy_out import Output
    from poolkeeper.drivers.base import Notes, Owner


class ConnectionReleasedError(PoolUsageError, asyncpg.InterfaceError):  # type: ignore[misc]
    """A connection was used after it had gone back to the pool. Nothing was sent."""

    def __init__(self, message: str) -> None:
        # asyncpg's errors print a detail and a hint, which only their own constructor sets.
        asyncpg.InterfaceError.__init__(self, message)


class _Released:
    """Stands in for the connection of a lease that is over: any use says so."""

    _aborted = True
    """Lets the short way of ``asyncpg_cached`` find nothing to take."""

    def __getattr__(self, name: str) -> NoReturn:
        msg = (
            f"cannot call Connection.{name}(): connection has been released back to the pool. "
            "Suggestion: do the work inside the `async with pool.acquire()` block, or acquire "
            "another connection."
        )
        raise ConnectionReleasedError(msg)


asyncpg_lease_released = _Released()


class PooledConnection(asyncpg_connection._ConnectionProxy):  # type: ignore[misc]
    """An ``asyncpg.Connection`` borrowed from a pool.

    It has every method of ``asyncpg.Connection`` (``isinstance`` says so, too) until it is
    released; after that each raises ``ConnectionReleasedError``, which is both a
    ``PoolUsageError`` and an ``asyncpg.InterfaceError``.
    """

    __slots__ = (
        "_at_borrower",
        "_code",
        "_con",
        "_dirty",
        "_finishing",
        "_last_query",
        "_lasti",
        "_notes",
        "_pool",
        "_running",
        "_slot",
        "_task",
        "_unseen",
    )

    def __init__(self, con: Any, slot: Slot, owner: Owner, notes: Notes) -> None:
        self._con = con
        self._slot = slot
        self._pool = owner
        self._notes = notes
        self._dirty = 0
        self._running = 0
        # How many of those wait for the borrower now, and not for the server.
        self._at_borrower = 0
        # Statements run through an object of asyncpg's that reports to nobody.
        self._unseen = False
        # A COMMIT sent and perhaps not answered yet.
        self._finishing: Any = None
        self._last_query: Any = None

    @property
    def _holder(self) -> PooledConnection:
        # asyncpg reaches its pool as ``proxy._holder._pool`` when a schema change invalidates
        # cached statements and types.
        return self

    def __getattr__(self, name: str) -> Any:
        # Only what no wrapper knows comes here: methods of a connection_class of the user's, or
        # private attributes. What they do to the session cannot be told.
        if not name.startswith("_"):
            self._dirty |= 1
        return getattr(self._con, name)

    def __repr__(self) -> str:
        if self._con is asyncpg_lease_released:
            return f"<{type(self).__name__} [released] {id(self):#x}>"
        return f"<{type(self).__name__} {self._con!r} {id(self):#x}>"


STATEMENT_METHODS = frozenset({"prepare", "cursor"})
"""Methods whose first argument is the text of a statement."""

QUERY_METHODS = frozenset({"executemany", "fetchmany"})
"""The same, when awaiting the call runs the statement; the others are written out below."""

STATE_METHODS = frozenset(
    {
        "add_listener",
        "add_log_listener",
        "add_query_logger",
        "query_logger",
        "remove_listener",
        "remove_log_listener",
        "remove_query_logger",
        "reset",
    }
)
"""Methods that change what the next borrower would find."""

COPY_IN_METHODS = frozenset({"copy_to_table", "copy_records_to_table"})
"""Methods that send rows, outside asyncpg's lock that otherwise tells that a connection is busy."""


def _wrap_statement(name: str) -> Callable[..., Any]:
    def call(self: PooledConnection, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._last_query = query
        self._unseen = True
        if query not in self._notes.clean:
            self._dirty |= self._notes.mark(query)
        made = getattr(self._con, name)(query, *args, **kwargs)
        return _prepared(self._con, made) if name == "prepare" else watched_cursor(made)

    return call


async def _prepared(con: Any, work: Awaitable[Any]) -> Any:
    return watched_statement(await running(con, work))


def _wrap_query(name: str) -> Callable[..., Any]:
    def call(self: PooledConnection, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._last_query = query
        if query not in self._notes.clean:
            self._dirty |= self._notes.mark(query)
        return guarded(self._con, getattr(self._con, name)(query, *args, **kwargs))

    return call


def _wrap_plain(name: str) -> Callable[..., Any]:
    def call(self: PooledConnection, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._con, name)(*args, **kwargs)

    return call


def _wrap_state(name: str) -> Callable[..., Any]:
    def call(self: PooledConnection, *args: Any, **kwargs: Any) -> Any:
        self._dirty |= 1
        return getattr(self._con, name)(*args, **kwargs)

    return call


def _wrap_copy_in(name: str) -> Callable[..., Any]:
    async def call(self: PooledConnection, *args: Any, **kwargs: Any) -> Any:
        con = self._con
        for source in ("source", "records"):
            if hasattr(kwargs.get(source), "__aiter__"):
                kwargs[source] = _fed(self, con, kwargs[source])
        return await running(con, copy_in(con, getattr(con, name)(*args, **kwargs)))

    return call


async def set_type_codec(self: PooledConnection, *args: Any, **kwargs: Any) -> None:
    """See asyncpg, which runs it outside its lock."""
    con = self._con
    await running(con, con.set_type_codec(*args, **kwargs))


def _taken(lease: PooledConnection, output: Output) -> Output:
    """While the borrower takes rows, nobody waits for the server."""

    async def take(data: bytes) -> None:
        lease._at_borrower += 1
        try:
            await output(data)
        finally:
            lease._at_borrower -= 1

    return take


async def _fed(lease: PooledConnection, con: Any, source: Any) -> AsyncIterator[Any]:
    """Rows of the borrower's; while they are waited for, nobody waits for the server."""
    steps = source.__aiter__()
    # A connection that is lost takes none, and asyncpg hears of it at the end of the rows.
    while not con.is_closed():
        lease._at_borrower += 1
        try:
            row = await steps.__anext__()
        except StopAsyncIteration:
            return
        finally:
            lease._at_borrower -= 1
        yield row


def fetch(
    self: PooledConnection, query: str, *args: Any, timeout: Any = None, record_class: Any = None
) -> Awaitable[Any]:
    """See asyncpg."""
    self._last_query = query
    if query not in self._notes.clean:
        self._dirty |= self._notes.mark(query)
    con = self._con
    if timeout is None and record_class is None:
        statement = cached_statement(con, query)
        if statement is not None:
            return run_cached(con, statement, query, args, ALL_ROWS, None)
    return guarded(con, con.fetch(query, *args, timeout=timeout, record_class=record_class))


def fetchrow(
    self: PooledConnection, query: str, *args: Any, timeout: Any = None, record_class: Any = None
) -> Awaitable[Any]:
    """See asyncpg."""
    self._last_query = query
    if query not in self._notes.clean:
        self._dirty |= self._notes.mark(query)
    con = self._con
    if timeout is None and record_class is None:
        statement = cached_statement(con, query)
        if statement is not None:
            return run_cached(con, statement, query, args, ONE_ROW, None)
    return guarded(con, con.fetchrow(query, *args, timeout=timeout, record_class=record_class))


def fetchval(
    self: PooledConnection, query: str, *args: Any, column: Any = 0, timeout: Any = None
) -> Awaitable[Any]:
    """See asyncpg."""
    self._last_query = query
    if query not in self._notes.clean:
        self._dirty |= self._notes.mark(query)
    con = self._con
    if timeout is None and type(column) is int:
        statement = cached_statement(con, query)
        if statement is not None:
            return run_cached(con, statement, query, args, ONE_ROW, column)
    return guarded(con, con.fetchval(query, *args, column=column, timeout=timeout))


async def execute(self: PooledConnection, query: str, *args: Any, timeout: Any = None) -> str:
    """See asyncpg."""
    self._last_query = query
    if query not in self._notes.clean:
        self._dirty |= self._notes.mark(query)
    con = self._con
    work = con.execute(query, *args, timeout=timeout)
    status: str = await (guarded(con, work) if args else running(con, work))
    return status


async def copy_from_query(self: PooledConnection, query: str, *args: Any, **kwargs: Any) -> Any:
    """See asyncpg."""
    self._last_query = query
    if query not in self._notes.clean:
        self._dirty |= self._notes.mark(query)
    return await _copy_out(self, "copy_from_query", query, *args, **kwargs)


async def copy_from_table(self: PooledConnection, *args: Any, **kwargs: Any) -> Any:
    """See asyncpg."""
    return await _copy_out(self, "copy_from_table", *args, **kwargs)


async def _copy_out(lease: PooledConnection, name: str, *args: Any, **kwargs: Any) -> Any:
    con = lease._con
    method = getattr(con, name)
    output: Any = kwargs.get("output")
    file = is_file(output)
    # A connection_class of the user's may do anything with its arguments.
    overridden = getattr(type(con), name) is not getattr(asyncpg.Connection, name)
    if overridden if file else not callable(output):
        return await running(con, method(*args, **kwargs))
    if name == "copy_from_query" and len(args) > 1 and not overridden:
        # Before a file is opened, which empties it: the values may be wrong.
        query, *values = args
        args = (await running(con, utils._mogrify(con, query, values)),)
    copy = functools.partial(method, *args, **kwargs)
    if not file:
        return await running(con, copy_out(con, copy, _taken(lease, output)))
    async with writing(output) as write:
        return await running(con, copy_out(con, copy, _taken(lease, write)))


def transaction(
    self: PooledConnection, *, isolation: Any = None, readonly: Any = False, deferrable: Any = False
) -> PooledTransaction:
    """See asyncpg, and ``PooledTransaction`` for what differs."""
    self._con._check_open()
    return PooledTransaction(self, isolation, readonly, deferrable)


def _install() -> None:
    """Give ``PooledConnection`` every public method of ``asyncpg.Connection``."""
    own: dict[str, Callable[..., Any]] = {
        "copy_from_query": copy_from_query,
        "copy_from_table": copy_from_table,
        "execute": execute,
        "fetch": fetch,
        "fetchrow": fetchrow,
        "fetchval": fetchval,
        "set_type_codec": set_type_codec,
        "transaction": transaction,
    }
    for name in dir(asyncpg.Connection):
        method = getattr(asyncpg.Connection, name)
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        if name in own:
            wrapper = own[name]
        elif name in QUERY_METHODS:
            wrapper = _wrap_query(name)
        elif name in STATEMENT_METHODS:
            wrapper = _wrap_statement(name)
        elif name in STATE_METHODS:
            wrapper = _wrap_state(name)
        elif name in COPY_IN_METHODS:
            wrapper = _wrap_copy_in(name)
        else:
            wrapper = _wrap_plain(name)
        functools.update_wrapper(wrapper, method)
        mark = getattr(inspect, "markcoroutinefunction", None)
        if mark is not None and inspect.iscoroutinefunction(method):
            mark(wrapper)
        setattr(PooledConnection, name, wrapper)


_install()
