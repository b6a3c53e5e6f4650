"""Statements whose answers are read as they arrive: no task, and no wait of psycopg's.

psycopg's own way registers the socket with the event loop and removes it again around each wait,
while the pool watches the same socket for a hang-up all the time. Here the one watch serves both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import generators, pq, waiting

from poolkeeper.drivers.psycopg_lease import PooledPsycopgConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn

    from poolkeeper.drivers.psycopg import PsycopgSession


# psycopg looks at the socket that often even when the event loop reports nothing.
_POLL_INTERVAL = 1.0


class Cancellable(Protocol):
    """A call that may still be called off."""

    def cancel(self) -> None:
        """Call it off."""
        ...


class Timers(Protocol):
    """What can be asked to call later, such as an event loop."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Cancellable:
        """Call ``callback`` after ``delay`` seconds."""
        ...


class Exchange:
    """One use of a connection's wire, from a statement's first byte to the end of its answer.

    Counted like psycopg's own waits, so that a silent peer is noticed. Works on a borrowed
    connection and on one without a pool alike.

    Attributes:
        connection: psycopg's, not the lease.
        pgconn: libpq's connection, for sending and for reading results.
        going_on: Whether it has begun and not ended.
    """

    __slots__ = (
        "_arrived",
        "_descriptor",
        "_guard",
        "_lease",
        "_loop",
        "_release_at_end",
        "_session",
        "connection",
        "going_on",
        "pgconn",
    )

    def __init__(self, conn: Any, arrived: Callable[[], None]) -> None:
        """Prepare an exchange; nothing happens before `begin`.

        Args:
            conn: A lease of a pool, or a psycopg connection.
            arrived: Called when something has arrived or the connection was cut off. It must
                take what has come, and call `end` when it expects no more.
        """
        if isinstance(conn, PooledPsycopgConnection):
            self._lease: PooledPsycopgConnection | None = conn
            self._session: PsycopgSession | None = conn._slot.connection
            self.connection: Any = conn._con
        else:
            self._lease = self._session = None
            self.connection = conn
        self.pgconn: PGconn = self.connection.pgconn
        self.going_on = False
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._release_at_end = False

    @property
    def lock(self) -> asyncio.Lock:
        """psycopg's: while it is held the pool does not close the socket under a waiting task."""
        lock: asyncio.Lock = self.connection.lock
        return lock

    @property
    def socket(self) -> socket.socket | None:
        """Of a borrowed connection: for looking at, never for reading."""
        return None if self._session is None else self._session._watch

    def begin(self) -> None:
        """From here on the statement is in flight."""
        self.going_on = True
        session = self._session
        if session is None:
            self._descriptor = self.pgconn.socket
            self._loop.add_reader(self._descriptor, self._arrived)
            return
        self.connection.waits += 1
        self.connection.waiting += 1
        session._exchanges += 1
        session._exchange = self
        session._cleaned = False
        session.listen(self._arrived)

    async def flush(self) -> None:
        """Send what libpq holds; returns when all of it is the kernel's.

        Raises:
            psycopg.OperationalError: The connection is lost.
        """
        async with self.lock:
            steps = generators.send(self.pgconn)
            await waiting.wait_async(steps, self.pgconn.socket, interval=_POLL_INTERVAL)

    def end(self, *, cleaned: bool = False) -> None:
        """Read no more. ``cleaned``: the session is as it was before it was lent.

        Does nothing the second time.
        """
        if not self.going_on:
            return
        self.going_on = False
        session = self._session
        if session is None:
            self._loop.remove_reader(self._descriptor)
            return
        session.listen(None)
        self.connection.waiting -= 1
        self.connection._note_status()
        session._cleaned = cleaned
        if self._release_at_end:
            self._guard.cancel()
            _release(self._lease)

    def release_at_end(self, seconds: float, timers: Timers) -> None:
        """Give the connection back when the exchange is over; cut it off after ``seconds``."""
        self._release_at_end = True
        self._guard = timers.call_later(seconds, self.cut)

    def can_be_cleaned_in_sql(self) -> bool:
        """Whether SQL would undo all that was done since the connection was lent.

        Statements prepared by psycopg would be lost to it, and what psycopg keeps on its own
        side SQL does not reach.
        """
        lease, session = self._lease, self._session
        return (
            lease is not None
            and session is not None
            and self.connection.prepare_threshold is None
            and session.had_only_exchanges(lease)
        )

    def refused(self, error: Exception) -> None:
        """The server refused a statement because it is read-only."""
        if self._lease is not None:
            self._lease._refused(error)

    def why_lost(self, error: Exception) -> str:
        """What the pool knows of the loss, or else what libpq says."""
        known = None if self._lease is None else self._lease._slot.error
        return known or str(error)

    def cut(self) -> None:
        """End the connection; whoever reads from it meets the end of the stream."""
        _cut(self.pgconn)

    def close(self) -> None:
        """Give the connection up in the middle of an answer."""
        self.end()
        self.pgconn.finish()


def cut(conn: Any) -> None:
    """End a connection; whoever reads from it meets the end of the stream."""
    _cut(_psycopgs(conn).pgconn)


def _cut(pgconn: PGconn) -> None:
    if pgconn.status != pq.ConnStatus.OK:
        return
    # A second descriptor: libpq finds its own at the end of the stream.
    descriptor = os.dup(pgconn.socket)
    with socket.socket(fileno=descriptor) as sock, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def is_half_read(conn: Any) -> bool:
    """Whether somebody left in the middle of an answer, so that nobody can use the connection."""
    if is_going_on(conn):
        return False
    status = _psycopgs(conn).pgconn.transaction_status
    return bool(status == pq.TransactionStatus.ACTIVE)


def is_going_on(conn: Any) -> bool:
    """Whether the last exchange on a borrowed connection has not ended yet."""
    exchange = _exchange_of(conn)
    return exchange is not None and exchange.going_on


def give_back(conn: Any, seconds: float, timers: Timers | None = None) -> None:
    """Return a borrowed connection to its pool, now or when its last exchange is over.

    Never waits. After ``seconds`` an exchange is cut off, and its connection with it. ``timers``
    are the event loop's, or cheaper ones.
    """
    exchange = _exchange_of(conn)
    if exchange is not None and exchange.going_on:
        exchange.release_at_end(seconds, timers or asyncio.get_running_loop())
    else:
        _release(conn)


def backend_pid(conn: Any) -> int:
    """The server process behind a connection."""
    pid: int = _psycopgs(conn).pgconn.backend_pid
    return pid


def _release(lease: Any) -> None:
    lease._pool.release(lease)


def _psycopgs(conn: Any) -> Any:
    """The connection itself: what goes through the lease is taken for a use of it."""
    return conn._con if isinstance(conn, PooledPsycopgConnection) else conn


def _exchange_of(conn: Any) -> Exchange | None:
    if not isinstance(conn, PooledPsycopgConnection):
        return None
    session: PsycopgSession | None = conn._slot.connection
    if session is None or conn._slot.borrow is not conn:
        return None
    return session._exchange
