"""psycopg 3: dialling, and noticing a hang-up, which libpq does only when asked."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import socket
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from poolkeeper.drivers.base import (
    IDENTITY,
    SERVER,
    Condition,
    Identity,
    backends_of,
    backends_query,
    is_process_number,
)
from poolkeeper.drivers.hosts import Hosts
from poolkeeper.drivers.psycopg_connection import WatchedAsyncConnection, cancel_request
from poolkeeper.drivers.psycopg_lease import PooledPsycopgConnection, psycopg_lease_released
from poolkeeper.drivers.psycopg_transaction import PooledPsycopgTransaction, script
from poolkeeper.drivers.silence import silence_of
from poolkeeper.sqlstate import connect_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from poolkeeper.core.availability import Failure
    from poolkeeper.core.slots import Slot
    from poolkeeper.drivers.base import Backends, Notes, Owner, Silence
    from poolkeeper.drivers.psycopg_exchange import Exchange
    from poolkeeper.endpoints import Host


KEEPALIVE = {
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4000,
}
"""The same bounds ``drivers/keepalive.py`` sets on sockets it can reach."""


IDLE = pq.TransactionStatus.IDLE


class PsycopgSession:
    """One psycopg connection as the pool sees it."""

    __slots__ = (
        "_aborted",
        "_arrived",
        "_cleaned",
        "_defaults",
        "_ending",
        "_exchange",
        "_exchanges",
        "_finishing",
        "_loop",
        "_lost",
        "_notes",
        "_owner",
        "_waits_before",
        "_watch",
        "_watching",
        "_working",
        "connection",
        "endpoint",
        "identified",
        "identity",
        "server",
        "server_version",
    )

    def __init__(self, connection: WatchedAsyncConnection[Any], owner: Owner, notes: Notes) -> None:
        self.connection = connection
        self._owner = owner
        self._notes = notes
        self._lost: Callable[[], None] | None = None
        # Who reads what arrives, while an exchange is going on.
        self._arrived: Callable[[], None] | None = None
        # The latest exchange, how many there were since the connection was lent, and whether the
        # latest cleaned the session.
        self._exchange: Exchange | None = None
        self._exchanges = 0
        self._waits_before = 0
        self._cleaned = False
        self._aborted = False
        self.keep_defaults()
        self._working = False
        # A COMMIT whose caller has left.
        self._finishing: asyncio.Task[str] | None = None
        self.identified = False
        self.identity: Identity | None = None
        self._loop = asyncio.get_running_loop()
        # A second descriptor of the same socket: psycopg registers and removes its own with the
        # event loop around every statement.
        self._watch = socket.socket(fileno=os.dup(connection.fileno()))
        self._watching = False
        self.endpoint = (connection.info.host, connection.info.port)
        self.server: str | None = None
        version = connection.info.server_version
        self.server_version = f"{version // 10000}.{version % 10000}"

    def keep_defaults(self) -> None:
        """Restore after each use what the connection has now."""
        connection = self.connection
        self._defaults = connection.row_factory, connection.prepare_threshold

    def on_lost(self, callback: Callable[[], None]) -> None:
        """See ``Session``."""
        self._lost = callback
        self._resume_watch()

    def listen(self, arrived: Callable[[], None] | None) -> None:
        """Call ``arrived`` whenever something has come, or the connection is cut off; see Exchange.

        It must take what has come. None ends that.
        """
        self._arrived = arrived
        if arrived is not None:
            self._resume_watch()

    def _resume_watch(self) -> None:
        if not self._watching and not self._aborted:
            self._watching = True
            self._loop.add_reader(self._watch.fileno(), self._readable)

    def _stop_watch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._watch.fileno())

    def _readable(self) -> None:
        watch = self._watch
        if watch.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            # libuv tells of an error once, and then no more of this socket. Asking has cleared it:
            # behind what is left to read there is the end of the stream.
            self._loop.remove_reader(watch.fileno())
            self._loop.add_reader(watch.fileno(), self._readable)
        if self._arrived is not None:
            self._arrived()
            return
        if self._working:
            self._peek()
            return
        pgconn = self.connection.pgconn
        try:
            pgconn.consume_input()
            while pgconn.notifies():
                # LISTEN does not survive a release; what still arrives has no reader.
                pass
        except psycopg.OperationalError:
            self._peer_gone()
        else:
            if pgconn.status == pq.ConnStatus.BAD:
                self._peer_gone()

    def _peek(self) -> None:
        """See whether the peer hung up without taking data a statement waits for."""
        try:
            data = self._watch.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            # Somebody will read it; until the connection is back this event would never cease.
            self._stop_watch()
        else:
            self._peer_gone()

    def _peer_gone(self) -> None:
        self._stop_watch()
        callback, self._lost = self._lost, None
        if callback is not None:
            callback()

    def is_closed(self) -> bool:
        """See ``Session``."""
        return self._aborted or self.connection.closed

    def lend(self, slot: Slot) -> PooledPsycopgConnection:
        """See ``Session``."""
        self._working = True
        self._cleaned = False
        self._exchange = None
        self._exchanges = 0
        self._waits_before = self.connection.waits
        return PooledPsycopgConnection(self.connection, slot, self._owner, self._notes)

    def take_back(self, lease: PooledPsycopgConnection) -> Condition:
        """See ``Session``."""
        lease._con = psycopg_lease_released
        if self.is_closed():
            return Condition.CLOSED
        if self.connection.lock.locked():
            finishing = self._finishing = lease._finishing
            if finishing is None or finishing.done():
                return Condition.BUSY
        else:
            self._rest()
        status = self.connection.pgconn.transaction_status
        if status == pq.TransactionStatus.UNKNOWN:
            return Condition.CLOSED
        if self._cleaned and status == IDLE and self.had_only_exchanges(lease):
            return Condition.CLEANED
        if self._arrived is not None:
            return Condition.BUSY
        if lease._dirty:
            return Condition.PREPARED if lease._dirty & 2 else Condition.DIRTY
        if status != pq.TransactionStatus.IDLE or self.connection._num_transactions:
            return Condition.UNFINISHED
        return Condition.CLEAN

    def had_only_exchanges(self, lease: PooledPsycopgConnection) -> bool:
        """Whether nothing has been done for the borrower that psycopg keeps a state of."""
        return self._waits_before + self._exchanges == self.connection.waits and not lease._dirty

    def _rest(self) -> None:
        self._working = False
        self._resume_watch()

    def is_busy(self, lease: PooledPsycopgConnection) -> bool:
        """See ``Session``."""
        del lease
        # Who waits for notifications waits for nothing in particular.
        return self.connection.waiting > 0 and (
            self.connection.pgconn.transaction_status == pq.TransactionStatus.ACTIVE
        )

    def parameter(self, name: str) -> str | None:
        """See ``HostSession``."""
        value = self.connection.pgconn.parameter_status(name.encode())
        return None if value is None else value.decode()

    async def ask(self, query: str) -> Any:
        """See ``HostSession``."""
        async with self.connection.cursor(row_factory=tuple_row) as cursor:
            row = await (await cursor.execute(query, prepare=False)).fetchone()
        return None if row is None else row[0]

    def statements_begun(self) -> int:
        """See ``Session``."""
        return self.connection.waits

    def silence(self) -> Silence | None:
        """See ``Session``."""
        return None if self._aborted else silence_of(self._watch)

    def backend_pid(self) -> int:
        """See ``Session``."""
        return self.connection.info.backend_pid

    async def look_up(self, pids: Sequence[int], idle_for: float) -> Backends:
        """See ``Session``."""
        cursor = await self.connection.execute(backends_query(pids, idle_for), prepare=False)
        return backends_of(await cursor.fetchall())

    async def probe(self) -> None:
        """See ``Session``. An empty statement: nothing is planned or executed."""
        await self._run("")

    async def clean(self, recipe: str) -> None:
        """See ``Session``."""
        self._working = True
        connection = self.connection
        try:
            finishing, self._finishing = self._finishing, None
            if finishing is not None:
                # Nobody but us waits for the answer to this COMMIT any more.
                await asyncio.wait({finishing})
                if not finishing.cancelled():
                    finishing.exception()
            # Blocks of the borrower that were left without their end.
            connection._num_transactions = 0
            if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                await connection.rollback()
            # What psycopg keeps on its own side, no SQL resets.
            if not connection.autocommit:
                await connection.set_autocommit(True)
            if connection.isolation_level is not None:
                await connection.set_isolation_level(None)
            if connection.read_only is not None:
                await connection.set_read_only(None)
            if connection.deferrable is not None:
                await connection.set_deferrable(None)
            connection.row_factory, connection.prepare_threshold = self._defaults
        finally:
            self._rest()
        if recipe:
            await self._run(recipe)

    async def _run(self, sql: str) -> None:
        self._working = True
        try:
            # Never prepared: several statements in one text cannot be.
            await self.connection.execute(sql, prepare=False)
        finally:
            self._rest()

    async def begin(
        self,
        lease: PooledPsycopgConnection,
        *,
        isolation: str | None,
        readonly: bool,
        deferrable: bool,
    ) -> PooledPsycopgTransaction:
        """See ``TransactionalSession``."""
        words = ["BEGIN"]
        if isolation is not None:
            words.append(f"ISOLATION LEVEL {isolation.replace('_', ' ').upper()}")
        if readonly:
            words.append("READ ONLY")
        if deferrable:
            words.append("DEFERRABLE")
        begin = " ".join(words).encode()
        return await PooledPsycopgTransaction(lease, begin=begin).__aenter__()

    async def run_script(self, sql: str) -> str:
        """See ``TransactionalSession``."""
        connection = self.connection
        async with connection.lock:
            return await connection.wait(script(connection, sql))

    async def identify(self) -> None:
        """See ``TransactionalSession``."""
        if not self.identified:
            cursor = await self.connection.cursor(row_factory=tuple_row).execute(
                IDENTITY, prepare=False
            )
            row = await cursor.fetchone()
            assert row is not None
            identity = Identity(*row)
            self.identified = True
            self.identity = identity if identity.pid == self.backend_pid() else None

    def canceller(self) -> Callable[[], Awaitable[object]] | None:
        """See ``Session``."""
        if self.is_closed():
            return None
        return cancel_request(self.connection.pgconn)

    async def close(self) -> None:
        """See ``Session``."""
        self._lost = None
        self._stop_watch()
        self._watch.close()
        self._aborted = True
        await self.connection.close()

    def abort(self) -> None:
        """See ``Session``."""
        if self._aborted:
            return
        self._lost = None
        self._stop_watch()
        self._aborted = True
        # Wakes a statement that waits for an answer; closing the descriptor under it would not.
        with contextlib.suppress(OSError):
            self._watch.shutdown(socket.SHUT_RDWR)
        self._watch.close()
        self._finish()
        if self._arrived is not None and not self._loop.is_closed():
            # Not at once: the pool is in the middle of something.
            self._loop.call_soon(self._arrived)

    def _finish(self) -> None:
        if self.connection.lock.locked() and not self._loop.is_closed():
            # A task and not a timer: a loop that ends lets its tasks come to their end.
            self._ending = self._loop.create_task(self._finish_when_free())
        else:
            self._finish_now()

    async def _finish_when_free(self) -> None:
        try:
            async with self.connection.lock:
                pass
        finally:
            self._finish_now()

    def _finish_now(self) -> None:
        self.connection.pgconn.finish()
        self.connection._closed = True

    def describe_use(self, lease: PooledPsycopgConnection) -> str | None:
        """See ``Session``."""
        return lease._last_query


class PsycopgDriver:
    """Opens psycopg connections in autocommit mode, as asyncpg's are.

    Args:
        dsn: A libpq URL.
        owner: Not used by psycopg, which asks nothing of its pool.
        notes: Where leases look up statement texts.
        init: Coroutine run once on every new connection.
        connect_kwargs: Passed to ``psycopg.AsyncConnection.connect``. ``server_settings`` (a
            mapping), ``command_timeout`` (seconds, becomes ``statement_timeout``) and a callable
            ``password`` work as with asyncpg.
    """

    name = "psycopg"

    def __init__(
        self,
        dsn: str,
        *,
        owner: Owner,
        notes: Notes,
        init: Callable[[Any], Awaitable[None]] | None = None,
        **connect_kwargs: Any,
    ) -> None:
        self._owner = owner
        self._notes = notes
        self._init = init
        self.set_connect_args(dsn, **connect_kwargs)

    def set_connect_args(self, dsn: str | None, **connect_kwargs: Any) -> None:
        """See ``Driver``."""
        self._dsn = dsn
        self._kwargs = connect_kwargs
        self.hosts = Hosts(dsn, connect_kwargs, self._dial)

    async def connect(self, timeout: float) -> PsycopgSession:
        """See ``Driver``."""
        return await self._initialized(await self.hosts.connect(timeout))

    async def connect_beside(self, session: Any, timeout: float) -> PsycopgSession:
        """See ``Driver``."""
        return await self.hosts.connect_to(session.endpoint, timeout)

    async def _initialized(self, session: PsycopgSession) -> PsycopgSession:
        if self._init is not None:
            try:
                await self._init(session.connection)
            except BaseException:
                session.abort()
                raise
            session.keep_defaults()
        return session

    async def _dial(self, host: Host | None, timeout: float) -> PsycopgSession:
        kwargs = dict(self._kwargs)
        if host is not None:
            kwargs |= {"host": host.host, "port": host.port, "target_session_attrs": "any"}
        settings = dict(kwargs.pop("server_settings", {}))
        command_timeout = kwargs.pop("command_timeout", None)
        if command_timeout is not None:
            settings.setdefault("statement_timeout", f"{round(command_timeout * 1000)}ms")
        if settings:
            given: Any = kwargs.get("options") or conninfo_to_dict(self._dsn or "").get("options")
            kwargs["options"] = " ".join(filter(None, [given, _options(settings)]))
        password = kwargs.get("password")
        if callable(password):
            password = password()
            kwargs["password"] = await password if inspect.isawaitable(password) else password
        connection = await WatchedAsyncConnection.connect(
            self._dsn or "",
            **{
                **KEEPALIVE,
                "autocommit": True,
                # libpq counts whole seconds and per host; the caller bounds the rest.
                "connect_timeout": max(2, round(timeout)),
                **kwargs,
            },
        )
        if "prepare_threshold" not in kwargs and not is_process_number(connection.info.backend_pid):
            # A pooler: statements prepared here may meet those of other clients, with their rows.
            connection.prepare_threshold = None
        session = PsycopgSession(connection, self._owner, self._notes)
        if host is not None:
            session.endpoint = host
        try:
            rows = connection.cursor(row_factory=tuple_row)
            row = await (await rows.execute(f"SELECT {SERVER}", prepare=False)).fetchone()
            session.server = None if row is None else row[0]
        except psycopg.Error:
            # Not a PostgreSQL that knows such things; it can be used all the same.
            if connection.closed:
                session.abort()
                raise
        except BaseException:
            session.abort()
            raise
        return session

    def failure(self, error: BaseException) -> Failure:
        """See ``Driver``."""
        return connect_failure(error)

    def forget_statements(self, session: Any) -> None:
        """See ``Driver``. psycopg notices a changed schema by itself."""

    def forget_types(self, session: Any) -> None:
        """See ``Driver``. psycopg keeps no types per connection that a schema change breaks."""


def _options(settings: Mapping[str, Any]) -> str:
    """Server settings as a libpq ``options`` value: ``-c name=value`` with spaces escaped."""
    pairs = []
    for name, value in settings.items():
        text = str(value).replace("\\", "\\\\").replace(" ", "\\ ")
        pairs.append(f"-c {name}={text}")
    return " ".join(pairs)
