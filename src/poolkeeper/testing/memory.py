"""A driver without a network: sessions in memory, with faults and pauses where a test wants them.

For tests of code that uses a pool, and of the pool itself, where the order of events matters more
than SQL::

    database = MemoryDatabase()
    async with memory_pool(database, min_size=1, max_size=2) as pool:
        database.fail("probe", ConnectionResetError("broken"))
        with database.gates.closed("connect") as gate:
            …
            await gate.reached()

The driver passes the same contract tests as those for asyncpg and psycopg.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

from poolkeeper.config import PoolConfig
from poolkeeper.drivers.base import Backends, Condition
from poolkeeper.exceptions import PoolUsageError
from poolkeeper.manager import ConnectionPoolManager
from poolkeeper.sqlstate import connect_failure
from poolkeeper.testing.gates import Gates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from poolkeeper.core.availability import Failure
    from poolkeeper.core.slots import Slot
    from poolkeeper.drivers.base import Notes, Owner
    from poolkeeper.drivers.hosts import Hosts

Point: TypeAlias = Literal["connect", "probe", "clean", "close", "execute", "look_up"]
"""Where a session pauses at a gate and may be made to fail."""


class MemoryServerError(Exception):
    """An error with an SQLSTATE, as a server would send it."""

    def __init__(self, message: str, *, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class MemoryDatabase:
    """What sessions are opened to, and the place to script what happens to them.

    Attributes:
        gates: One for each ``Point``, and ``sleep``, which is closed at first: a statement that
            calls ``pg_sleep`` runs until that gate opens.
        sessions: Those that are open, as the server would list them, oldest first.
        statements: Every statement run so far.
        answers: What ``fetchval`` returns, by statement; 1 for others.
    """

    def __init__(self) -> None:
        self.gates = Gates()
        self.gates["sleep"].close()
        self.sessions: list[MemorySession] = []
        self.statements: list[str] = []
        self.answers: dict[str, Any] = {}
        self._failures: dict[str, deque[BaseException]] = {}
        self._lasting: dict[str, BaseException] = {}
        self._stubborn: set[str] = set()
        self._pids = count(1)

    def fail(self, point: Point, error: BaseException, *, times: int = 1) -> None:
        """Raise ``error`` the next ``times`` times somebody gets past the gate at ``point``."""
        self._failures.setdefault(point, deque()).extend([error] * times)

    def keep_failing(self, point: Point, error: BaseException | None) -> None:
        """Raise ``error`` at ``point`` from now on; None ends that."""
        if error is None:
            self._lasting.pop(point, None)
        else:
            self._lasting[point] = error

    def ignore_cancellation(self, point: Point) -> None:
        """Whoever stands at the gate of ``point`` swallows cancellations, as some drivers do."""
        self._stubborn.add(point)

    def drop(self, *sessions: MemorySession) -> None:
        """End sessions from the server's side; without arguments all of them."""
        for session in sessions or tuple(self.sessions):
            session._end(ConnectionResetError("terminated by the server"))

    def open_gates(self) -> None:
        """Open every gate, so that whatever stands somewhere can end."""
        for gate in self.gates:
            gate.open()

    async def reach(self, point: str, waits: set[asyncio.Future[None]]) -> None:
        """Pause at a gate, then fail if that was asked for.

        A wait is kept in ``waits`` meanwhile, for the owner of the session to end.
        """
        place = self.gates[point].queue_up()
        if place is None:
            # Something on a network never answers within the same turn of the loop.
            await asyncio.sleep(0)
        else:
            waits.add(place)
            try:
                await self._stand(place, stubborn=point in self._stubborn)
            finally:
                waits.discard(place)
        if self._failures.get(point):
            raise self._failures[point].popleft()
        if point in self._lasting:
            raise self._lasting[point]

    @staticmethod
    async def _stand(place: asyncio.Future[None], *, stubborn: bool) -> None:
        while True:
            try:
                await (asyncio.shield(place) if stubborn else place)
            except asyncio.CancelledError:
                if not stubborn:
                    raise
            else:
                return


class MemorySession:
    """One open connection to a ``MemoryDatabase``; see ``Session``.

    Attributes:
        pid: A number of its own, like a backend's.
        leftovers: Statements whose effect on the session was not cleaned.
    """

    server_version = "18.0"

    def __init__(self, database: MemoryDatabase, owner: Owner, notes: Notes) -> None:
        self.database = database
        self.pid = next(database._pids)
        self.leftovers: list[str] = []
        self.in_transaction = False
        self.endpoint = "memory"
        self.server: str | None = "memory"
        self.connection: Any = self
        self._owner = owner
        self._notes = notes
        self._closed = False
        self._cancelling = False
        self._begun = 0
        self._lost: Callable[[], None] | None = None
        self._waits: set[asyncio.Future[None]] = set()
        database.sessions.append(self)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """See ``Session``."""
        self._lost = callback

    def is_closed(self) -> bool:
        """See ``Session``."""
        return self._closed

    def lend(self, slot: Slot) -> MemoryConnection:
        """See ``Session``."""
        return MemoryConnection(self, slot, self._owner, self._notes)

    def take_back(self, lease: MemoryConnection) -> Condition:
        """See ``Session``."""
        lease._session = None
        if self._closed:
            return Condition.CLOSED
        if lease._running and not self._cancelling:
            return Condition.BUSY
        if lease._dirty:
            return Condition.PREPARED if lease._dirty & 2 else Condition.DIRTY
        if self._cancelling or self.in_transaction:
            return Condition.UNFINISHED
        return Condition.CLEAN

    async def probe(self) -> None:
        """See ``Session``."""
        await self._reach("probe")

    async def clean(self, recipe: str) -> None:
        """See ``Session``."""
        await self._reach("clean")
        self._cancelling = self.in_transaction = False
        if recipe:
            self.leftovers.clear()

    def is_busy(self, lease: MemoryConnection) -> bool:
        """See ``Session``."""
        return lease._running > 0

    def statements_begun(self) -> int:
        """See ``Session``."""
        return self._begun

    def silence(self) -> None:
        """See ``Session``."""

    def backend_pid(self) -> int:
        """See ``Session``."""
        return self.pid

    async def look_up(self, pids: Sequence[int], idle_for: float) -> Backends:
        """See ``Session``. Every session that exists is at work."""
        del idle_for
        await self._reach("look_up")
        living = {session.pid for session in self.database.sessions}
        return Backends("memory", self.pid, frozenset(pids) - living, frozenset(), frozenset())

    def canceller(self) -> None:
        """See ``Session``."""

    async def close(self) -> None:
        """See ``Session``."""
        await self._reach("close")
        self._end(ConnectionResetError("closed"))

    def abort(self) -> None:
        """See ``Session``."""
        self._lost = None
        self._end(ConnectionResetError("aborted"))

    def describe_use(self, lease: MemoryConnection) -> str | None:
        """See ``Session``."""
        return lease._last_query

    async def execute(self, query: str) -> str:
        """Run a statement and return its first word, as a command tag begins.

        It fails if the connection ends meanwhile.
        """
        self.database.statements.append(query)
        self._begun += 1
        word = query.split(maxsplit=1)[0].upper() if query.split() else ""
        try:
            await self._reach("sleep" if "pg_sleep" in query else "execute")
        except asyncio.CancelledError:
            # A real server needs a moment to notice; until then the session is not usable.
            self._cancelling = not self._closed
            raise
        if word in {"BEGIN", "START"}:
            self.in_transaction = True
        elif word in {"COMMIT", "ROLLBACK", "END", "ABORT"}:
            self.in_transaction = False
        return word

    async def _reach(self, point: str) -> None:
        if self._closed:
            raise ConnectionResetError("the connection is closed")
        await self.database.reach(point, self._waits)
        if self._closed:
            raise ConnectionResetError("the connection was closed meanwhile")

    def _end(self, error: BaseException) -> None:
        if self._closed:
            return
        self._closed = True
        self.database.sessions.remove(self)
        for place in list(self._waits):
            if not place.done():
                place.set_exception(error)
        if self._lost is not None:
            self._lost()


class MemoryConnection:
    """What a borrower gets; understands statements as far as a pool is concerned with them.

    That is: whether one opens or ends a transaction, and whether it may leave session state. It
    refuses every use after its release with ``PoolUsageError``.
    """

    __slots__ = (
        "_code",
        "_dirty",
        "_last_query",
        "_lasti",
        "_notes",
        "_pool",
        "_running",
        "_session",
        "_slot",
        "_task",
    )

    def __init__(self, session: MemorySession, slot: Slot, owner: Owner, notes: Notes) -> None:
        self._session: MemorySession | None = session
        self._slot = slot
        self._pool = owner
        self._notes = notes
        self._task: asyncio.Task[Any] | None = None
        self._dirty = 0
        self._running = 0
        self._last_query: str | None = None

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement and return its first word, as a command tag begins."""
        del args
        session = self._session
        if session is None:
            self._refuse("execute")
        self._last_query = query
        if query not in self._notes.clean:
            mark = self._notes.mark(query)
            self._dirty |= mark
            if mark:
                session.leftovers.append(query)
        self._running += 1
        try:
            async with asyncio.timeout(timeout):
                return await session.execute(query)
        finally:
            self._running -= 1

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Run a statement and return its answer."""
        await self.execute(query, *args, timeout=options.get("timeout"))
        session = self._session
        return 1 if session is None else session.database.answers.get(query, 1)

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[Any]:
        """Run a statement and return one row of one column."""
        return [(await self.fetchval(query, *args, **options),)]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """BEGIN, then COMMIT, or ROLLBACK after an error."""
        await self.execute("BEGIN")
        try:
            yield
        except BaseException:
            if self.backend.in_transaction and not self.backend._cancelling:
                await self.execute("ROLLBACK")
            raise
        await self.execute("COMMIT")

    @property
    def backend(self) -> MemorySession:
        """The session behind it."""
        if self._session is None:
            self._refuse("backend")
        return self._session

    @staticmethod
    def _refuse(name: str) -> NoReturn:
        raise PoolUsageError(
            f"cannot call Connection.{name}(): connection has been released back to the pool. "
            "Suggestion: do the work inside the `async with pool.acquire()` block, or acquire "
            "another connection."
        )


class MemoryDriver:
    """Opens sessions of a ``MemoryDatabase``; see ``Driver``.

    Args:
        database: Where to.
        owner: The pool; leases name it as theirs.
        notes: Where leases look up statement texts.
        init: Coroutine run once on every new connection.
    """

    name = "memory"
    hosts: Hosts[Any] | None = None

    def __init__(
        self,
        database: MemoryDatabase,
        *,
        owner: Owner,
        notes: Notes,
        init: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self.database = database
        self.connect_args: dict[str, Any] = {}
        self._owner = owner
        self._notes = notes
        self._init = init

    async def connect(self, timeout: float) -> MemorySession:
        """See ``Driver``."""
        async with asyncio.timeout(timeout):
            await self.database.reach("connect", set())
            session = MemorySession(self.database, self._owner, self._notes)
            if self._init is not None:
                try:
                    await self._init(session.connection)
                except BaseException:
                    session.abort()
                    raise
            return session

    async def connect_beside(self, session: Any, timeout: float) -> MemorySession:
        """See ``Driver``."""
        del session
        return await self.connect(timeout)

    def set_connect_args(self, dsn: str | None, **connect_kwargs: Any) -> None:
        """See ``Driver``."""
        self.connect_args = {"dsn": dsn, **connect_kwargs}

    def failure(self, error: BaseException) -> Failure:
        """See ``Driver``."""
        return connect_failure(error)

    def forget_statements(self, session: Any) -> None:
        """See ``Driver``; there are none."""

    def forget_types(self, session: Any) -> None:
        """See ``Driver``; there are none."""


def memory_pool(
    database: MemoryDatabase,
    *,
    init: Callable[[Any], Awaitable[None]] | None = None,
    setup: Callable[[Any], Awaitable[None]] | None = None,
    reset: Any = "auto",
    **options: Any,
) -> ConnectionPoolManager:
    """Make a pool on ``database``, to be opened like any other.

    Args:
        database: Where its sessions are.
        init: See ``ConnectionPoolManager``.
        setup: See ``ConnectionPoolManager``.
        reset: The option of ``PoolConfig``, or a coroutine function.
        options: Other options of ``PoolConfig``.
    """
    config = PoolConfig(database_url=None, **{"pool_name": "memory", "reset": reset, **options})
    # An argument for the driver says that there is something to connect to.
    manager = ConnectionPoolManager(config, init=init, setup=setup, host="memory")
    pool = manager._pool
    pool.driver = MemoryDriver(database, owner=pool, notes=pool._policy.notes, init=init)
    return manager
