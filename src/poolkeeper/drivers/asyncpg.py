"""asyncpg: dialling, and the care its connections need between two borrowers."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import warnings
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg import connect_utils

from poolkeeper.config import PoolConfig
from poolkeeper.drivers.asyncpg_cached import running
from poolkeeper.drivers.asyncpg_copy_out import has_rows_waiting
from poolkeeper.drivers.asyncpg_lease import PooledConnection, asyncpg_lease_released
from poolkeeper.drivers.asyncpg_transaction import PooledTransaction
from poolkeeper.drivers.base import (
    IDENTITY,
    SERVER,
    Condition,
    Identity,
    backends_of,
    backends_query,
)
from poolkeeper.drivers.hosts import Hosts
from poolkeeper.drivers.keepalive import keep_alive
from poolkeeper.drivers.silence import silence_of
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.sqlstate import connect_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from poolkeeper.core.availability import Failure
    from poolkeeper.core.slots import Slot
    from poolkeeper.drivers.base import Backends, Notes, Owner, Silence
    from poolkeeper.endpoints import Host

__all__ = ["AsyncpgDriver", "AsyncpgSession", "PooledConnection"]


BUSY = Condition.BUSY
CLEAN = Condition.CLEAN
CLOSED = Condition.CLOSED


class AsyncpgSession:
    """One asyncpg connection as the pool sees it.

    asyncpg has no public interface for pools other than its own, so this file uses a few private
    attributes of ``asyncpg.Connection``, the ones asyncpg's own pool uses. The driver contract
    tests fail if a new version moves them.
    """

    __slots__ = (
        "_finishing",
        "_lost",
        "_notes",
        "_owner",
        "connection",
        "endpoint",
        "identified",
        "identity",
        "server",
        "server_version",
    )

    def __init__(self, connection: Any, owner: Owner, notes: Notes) -> None:
        self.connection = connection
        self._owner = owner
        self._notes = notes
        self._lost: Callable[[], None] | None = None
        # A COMMIT whose caller has left.
        self._finishing: asyncio.Task[str] | None = None
        self.identified = False
        self.identity: Identity | None = None
        self.endpoint = connection._addr
        self.server: str | None = None
        # The first word only: distributions add their own.
        self.server_version = connection.get_settings().server_version.split()[0]

    def on_lost(self, callback: Callable[[], None]) -> None:
        """See ``Session``."""
        self._lost = callback
        self.connection.add_termination_listener(self._terminated)

    def _terminated(self, _connection: Any) -> None:
        if self._lost is not None:
            self._lost()

    def is_closed(self) -> bool:
        """See ``Session``."""
        connection = self.connection
        # What ``Connection.is_closed`` does, without the calls: every acquire asks.
        return connection._aborted or not connection._protocol.is_connected()

    def lend(self, slot: Slot) -> PooledConnection:
        """See ``Session``."""
        connection = self.connection
        lease = PooledConnection(connection, slot, self._owner, self._notes)
        # What asyncpg's own pool does in ``_set_proxy``: callbacks get the borrower's object.
        connection._proxy = lease
        return lease

    def take_back(self, lease: PooledConnection) -> Condition:
        """See ``Session``."""
        connection = self.connection
        lease._con = asyncpg_lease_released
        connection._proxy = None
        # Statements, cursors and transactions made by this borrower refuse further use.
        connection._pool_release_ctr += 1
        if connection._aborted:
            return CLOSED
        protocol = connection._protocol
        if not protocol.is_connected():
            return CLOSED
        cancelling = protocol._is_cancelling()
        finishing = None
        if (connection._stmt_exclusive_section._acquired or lease._running) and not cancelling:
            finishing = self._finishing = lease._finishing
            if finishing is None or finishing.done():
                return BUSY
        if connection._listeners or connection._log_listeners:
            self._warn_of_listeners()
            lease._dirty |= 1
        if lease._dirty:
            return Condition.PREPARED if lease._dirty & 2 else Condition.DIRTY
        if (
            cancelling
            or finishing is not None
            or lease._unseen
            or protocol.is_in_transaction()
            or connection._top_xact is not None
        ):
            return Condition.UNFINISHED
        return CLEAN

    def _warn_of_listeners(self) -> None:
        # A filter may turn it into an exception, which must not keep the connection from returning.
        with contextlib.suppress(asyncpg.InterfaceWarning):
            warnings.warn(
                f"{self.connection!r} is being released to the pool with active listeners; they "
                "are removed. Suggestion: keep a connection of its own for LISTEN, or remove the "
                "listener before the release.",
                asyncpg.InterfaceWarning,
                stacklevel=5,
            )

    def is_busy(self, lease: PooledConnection) -> bool:
        """See ``Session``."""
        if has_rows_waiting(self.connection):
            return False
        waiting = lease._running > lease._at_borrower
        return bool(self.connection._stmt_exclusive_section._acquired or waiting)

    def parameter(self, name: str) -> str | None:
        """See ``HostSession``."""
        value: str | None = getattr(self.connection.get_settings(), name, None)
        return value

    async def ask(self, query: str) -> Any:
        """See ``HostSession``."""
        return await self.connection.fetchval(query)

    def statements_begun(self) -> int:
        """See ``Session``."""
        protocol = self.connection._protocol
        if protocol is None:
            # Whoever has it has terminated it, and whatever was begun has ended.
            return -1
        begun: int = protocol.queries_count
        return begun

    def silence(self) -> Silence | None:
        """See ``Session``."""
        transport = self.connection._transport
        return silence_of(transport.get_extra_info("socket") if transport is not None else None)

    def backend_pid(self) -> int:
        """See ``Session``."""
        pid: int = self.connection._protocol.backend_pid
        return pid

    async def look_up(self, pids: Sequence[int], idle_for: float) -> Backends:
        """See ``Session``."""
        return backends_of(await self.connection.fetch(backends_query(pids, idle_for)))

    async def probe(self) -> None:
        """See ``Session``."""
        # Not an empty statement, the cheapest probe of all: asyncpg trips over its answer.
        await self.connection.execute("SELECT 1")

    async def clean(self, recipe: str) -> None:
        """See ``Session``."""
        connection = self.connection
        finishing, self._finishing = self._finishing, None
        if finishing is not None:
            # Nobody but us waits for the answer to this COMMIT any more.
            await asyncio.wait({finishing})
            if not finishing.cancelled():
                finishing.exception()
        await connection._protocol._wait_for_cancellation(None)
        connection._listeners.clear()
        connection._log_listeners.clear()
        connection._query_loggers.clear()
        # The server may not have answered BEGIN yet, so its word alone is not enough.
        begun = connection._top_xact is not None
        connection._top_xact = None
        if begun or connection._protocol.is_in_transaction():
            await connection.execute("ROLLBACK")
        elif not recipe:
            # Fails, as ROLLBACK and the recipe do, while somebody still works on the connection
            # in a way that cannot be seen from here; then nobody else gets it.
            await connection.execute("SELECT 1")
        if recipe:
            await connection.execute(recipe)

    async def begin(
        self, lease: PooledConnection, *, isolation: str | None, readonly: bool, deferrable: bool
    ) -> PooledTransaction:
        """See ``TransactionalSession``."""
        transaction = PooledTransaction(lease, isolation, readonly, deferrable)
        await transaction.start()
        return transaction

    async def run_script(self, sql: str) -> str:
        """See ``TransactionalSession``."""
        connection = self.connection
        status: str = await running(connection, connection.execute(sql))
        return status

    async def identify(self) -> None:
        """See ``TransactionalSession``."""
        if not self.identified:
            identity = Identity(*await self.connection.fetchrow(IDENTITY))
            self.identified = True
            self.identity = identity if identity.pid == self.backend_pid() else None

    def canceller(self) -> Callable[[], Awaitable[object]] | None:
        """See ``Session``."""
        connection = self.connection
        if connection.is_closed():
            return None
        protocol = connection._protocol
        return partial(
            connect_utils._cancel,
            loop=connection._loop,
            addr=connection._addr,
            params=connection._params,
            backend_pid=protocol.backend_pid,
            backend_secret=protocol.backend_secret,
        )

    async def close(self) -> None:
        """See ``Session``."""
        await self.connection.close()

    def abort(self) -> None:
        """See ``Session``."""
        self._lost = None
        self.connection.terminate()

    def describe_use(self, lease: PooledConnection) -> str | None:
        """See ``Session``."""
        query: str | None = lease._last_query
        return query


class AsyncpgDriver:
    """Opens asyncpg connections with the arguments the pool was given.

    Args:
        dsn: URL without a driver suffix, or None to let asyncpg read ``PG*`` variables.
        owner: What asyncpg finds as its pool when a schema change invalidates statements.
        notes: Where leases look up statement texts.
        connect: Replacement for ``asyncpg.connect``, as in ``asyncpg.create_pool``.
        init: Coroutine run once on every new connection.
        connect_kwargs: Passed to ``connect``.
    """

    name = "asyncpg"

    def __init__(
        self,
        dsn: str | None,
        *,
        owner: Owner,
        notes: Notes,
        connect: Callable[..., Awaitable[Any]] | None = None,
        init: Callable[[Any], Awaitable[None]] | None = None,
        connection_class: type | None = None,
        record_class: type | None = None,
        **connect_kwargs: Any,
    ) -> None:
        self._owner = owner
        self._notes = notes
        if connect is None:
            _refuse_unknown(connect_kwargs)
        self._connect = connect or asyncpg.connect
        self._init = init
        self._connection_class: Any = connection_class or asyncpg.Connection
        self._record_class = record_class or asyncpg.Record
        self.set_connect_args(dsn, **connect_kwargs)

    def set_connect_args(self, dsn: str | None, **connect_kwargs: Any) -> None:
        """Use other arguments from the next connection on."""
        self._dsn = dsn
        self._kwargs = connect_kwargs
        # A replacement for ``asyncpg.connect`` knows itself where to go.
        choose = self._connect is asyncpg.connect
        self.hosts = Hosts(dsn, connect_kwargs, self._dial, choose=choose)

    async def connect(self, timeout: float) -> AsyncpgSession:
        """See ``Driver``."""
        return await self._initialized(await self.hosts.connect(timeout))

    async def connect_beside(self, session: Any, timeout: float) -> AsyncpgSession:
        """See ``Driver``."""
        return await self.hosts.connect_to(session.endpoint, timeout)

    async def _initialized(self, session: AsyncpgSession) -> AsyncpgSession:
        if self._init is not None:
            try:
                await self._init(session.connection)
            except BaseException:
                session.abort()
                raise
        return session

    async def _dial(self, host: Host | None, timeout: float) -> AsyncpgSession:
        kwargs = {"timeout": timeout, **self._kwargs}
        if host is not None:
            kwargs |= {"host": host.host, "port": host.port, "target_session_attrs": "any"}
        connection: Any = await self._connect(
            self._dsn,
            loop=asyncio.get_running_loop(),
            connection_class=self._connection_class,
            record_class=self._record_class,
            **kwargs,
        )
        if not isinstance(connection, self._connection_class):
            good, bad = self._connection_class, type(connection)
            msg = (
                f"expected connect to return an instance of '{good.__module__}.{good.__name__}', "
                f"got '{bad.__module__}.{bad.__name__}' instead. Suggestion: pass "
                "connection_class=… as well."
            )
            raise asyncpg.InterfaceError(msg)
        transport = connection._transport
        keep_alive(transport.get_extra_info("socket") if transport is not None else None)
        session = AsyncpgSession(connection, self._owner, self._notes)
        if host is not None:
            session.endpoint = host
        try:
            session.server = await connection.fetchval(f"SELECT {SERVER}")
        except asyncpg.PostgresError:
            # Not a PostgreSQL that knows such things; it can be used all the same.
            if connection.is_closed():
                raise
        except BaseException:
            connection.terminate()
            raise
        return session

    def failure(self, error: BaseException) -> Failure:
        """See ``Driver``."""
        return connect_failure(error)

    def forget_statements(self, session: Any) -> None:
        """See ``Driver``."""
        session.connection._drop_local_statement_cache()

    def forget_types(self, session: Any) -> None:
        """See ``Driver``."""
        session.connection._drop_local_type_cache()


def _refuse_unknown(connect_kwargs: Mapping[str, Any]) -> None:
    """Find a misspelt argument when the pool is made, not at every attempt to connect."""
    known = [*inspect.signature(asyncpg.connect).parameters, *PoolConfig.model_fields]
    for name in connect_kwargs:
        if name not in known:
            similar = get_close_matches(name, known, n=1)
            raise PoolConfigurationError(
                f"{name} is neither an option of PoolConfig nor an argument of asyncpg.connect(). "
                f"Suggestion: {f'did you mean {similar[0]}?' if similar else 'remove it.'}",
                option=name,
            )
