"""What the pool needs of a driver: a way to dial, and a handful of calls on what it gets."""

from __future__ import annotations

import asyncio
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from poolkeeper.deadlines import STALL_TURNS
from poolkeeper.exceptions import TransactionRolledBackError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Hashable, Sequence

    from poolkeeper.core.availability import Failure
    from poolkeeper.core.slots import Slot
    from poolkeeper.drivers.hosts import Hosts


class Condition(Enum):
    """In what state a borrower gave its connection back."""

    CLEAN = "clean"
    """Nothing in the session differs from before, as far as the statements tell."""
    CLEANED = "cleaned"
    """All that was done has been undone, by what ``reset="always"`` would run."""
    UNFINISHED = "unfinished"
    """An open transaction, or a cancelled statement still winding down."""
    DIRTY = "dirty"
    """Session state may be left that a rollback does not undo."""
    PREPARED = "prepared"
    """As DIRTY, and statements of the borrower's own may be prepared in SQL."""
    BUSY = "busy"
    """Somebody is still running a statement on it: nobody else may have it."""
    CLOSED = "closed"
    """The connection is gone."""


class Silence(NamedTuple):
    """Seconds since bytes last arrived, read by anybody or not, and since some were last sent."""

    heard: float
    said: float


class Backends(NamedTuple):
    """What a server says about some of its processes.

    Attributes:
        server: Which server it is, see ``SERVER``.
        own: The process that answered, as it knows itself. Behind a pooler it is not the one of
            the login, and process numbers say nothing about connections.
        gone: Processes that do not exist.
        waiting: Processes that have been done for a while and wait for their client.
        reading: Processes that wait for the rest of what their client is sending.
    """

    server: str
    own: int
    gone: frozenset[int]
    waiting: frozenset[int]
    reading: frozenset[int]


LARGEST_PID = 4_194_304
"""The most Linux allows; other systems allow less."""


def is_process_number(pid: int) -> bool:
    """Whether a login was told what can be a server process; PgBouncer tells a random number."""
    return 0 < pid <= LARGEST_PID


SERVER = "coalesce(inet_server_addr()::text, '') || ' ' || pg_postmaster_start_time()"
"""An expression that tells servers behind one address apart. Each new connection is asked for it:
a pooler lets clients in while its database is away, and cannot answer that."""

BACKENDS = f"""\
SELECT {SERVER}, pg_backend_pid(), wanted.pid, activity.pid IS NULL,
       coalesce(activity.state LIKE 'idle%%'
                AND activity.state_change < clock_timestamp() - interval '%s ms', false),
       coalesce(activity.state = 'active' AND activity.wait_event = 'ClientRead', false)
  FROM unnest('{{%s}}'::int[]) AS wanted(pid)
  LEFT JOIN pg_stat_activity AS activity ON activity.pid = wanted.pid"""
"""Milliseconds and process numbers go into the text: both are numbers of our own, and a pooler
need not know prepared statements."""


def backends_query(pids: Sequence[int], idle_for: float) -> str:
    """The text that asks for ``Backends``; at least one process must be named."""
    return BACKENDS % (round(idle_for * 1000), ",".join(map(str, pids)))


def backends_of(rows: Sequence[Sequence[Any]]) -> Backends:
    """The answer to ``backends_query``."""
    return Backends(
        server=rows[0][0],
        own=rows[0][1],
        gone=frozenset(row[2] for row in rows if row[3]),
        waiting=frozenset(row[2] for row in rows if row[4]),
        reading=frozenset(row[2] for row in rows if row[5]),
    )


class Notes(Protocol):
    """What leases ask about statement texts."""

    clean: Container[str]
    """Texts known to leave the session as they found it."""

    def mark(self, query: Any) -> int:
        """Judge another text: 0 harmless, 1 state may stay, 3 prepared statements as well."""


class Owner(Protocol):
    """What a driver may ask of the pool that owns a session."""

    def _drop_statement_cache(self) -> None: ...

    def _drop_type_cache(self) -> None: ...

    def _statement_failed(self, slot: Slot, error: Exception) -> None:
        """The server is read-only (25006); perhaps it was the primary once."""

    def release(self, lease: Any) -> None:
        """Take a connection back. Never waits."""


class Session(Protocol):
    """One open connection.

    The coroutines may take forever against a peer that went silent, and may misbehave when
    cancelled. The pool runs each in a task of its own, bounds it, and calls ``abort``.
    """

    server_version: str
    server: str | None
    """Which server it is on, see ``SERVER``; None if that could not be learnt."""
    connection: Any
    """The driver's own connection, for hooks of the user's."""

    @property
    def endpoint(self) -> Hashable:
        """The address of the server it is on: equal for sessions on one server."""

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, from the event loop, when the peer ends the connection."""

    def is_closed(self) -> bool:
        """Whether the connection is known to be gone. Cheap, no I/O."""

    def lend(self, slot: Slot) -> Any:
        """Make the object a borrower gets. It refuses every use after ``take_back``."""

    def take_back(self, lease: Any) -> Condition:
        """Invalidate ``lease`` and say what state the session is in. Never raises, no I/O."""

    def is_busy(self, lease: Any) -> bool:
        """Whether a statement of the borrower's is known to be running. No I/O."""

    def statements_begun(self) -> int:
        """A number that changes with every statement. No I/O."""

    def silence(self) -> Silence | None:
        """How long nothing has come or gone, None where the system does not tell. No I/O."""

    def backend_pid(self) -> int:
        """The server process behind the connection, as the server told at login."""

    async def look_up(self, pids: Sequence[int], idle_for: float) -> Backends:
        """Ask the server what became of some of its processes."""

    async def probe(self) -> None:
        """One round trip; raises if the server does not answer properly."""

    async def clean(self, recipe: str) -> None:
        """Wait for a cancelled statement, roll back, then run ``recipe`` in one message.

        An empty recipe means the rollback is all.
        """

    def canceller(self) -> Callable[[], Awaitable[object]] | None:
        """What asks the server, on a connection of its own, to stop the running statement.

        It goes on working when this session has been aborted. None if it is closed already.
        """

    async def close(self) -> None:
        """Say goodbye to the server."""

    def abort(self) -> None:
        """Drop the transport at once. Never raises, may be called twice."""

    def describe_use(self, lease: Any) -> str | None:
        """The statement a borrower ran last, for leak reports."""


class Driver(Protocol):
    """Opens sessions and knows what its exceptions mean."""

    name: str

    @property
    def hosts(self) -> Hosts[Any] | None:
        """The servers it may choose among; None if it knows of none. Replaced, not changed."""

    async def connect(self, timeout: float) -> Session:
        """Open a connection, give up after ``timeout`` seconds.

        Cancelling leaves nothing open.
        """

    async def connect_beside(self, session: Any, timeout: float) -> Session:
        """Open a connection to the very server ``session`` is on, as ``connect`` does."""

    def set_connect_args(self, dsn: str | None, **connect_kwargs: Any) -> None:
        """Use other arguments from the next connection on."""

    def failure(self, error: BaseException) -> Failure:
        """What a failed ``connect`` says about the database."""

    def forget_statements(self, session: Any) -> None:
        """Drop cached statements of one connection, because the schema changed under another."""

    def forget_types(self, session: Any) -> None:
        """Drop cached type information of one connection."""


class OpenTransaction(Protocol):
    """A transaction begun for a borrower, whose own transactions are savepoints in it."""

    def is_open(self) -> bool:
        """Whether the server has it open, as far as it has answered. No I/O."""

    async def finish(self, sql: str, seconds: float | None) -> str:
        """End it by one message; return the command tag of the last statement.

        Nothing cancels the statements: a cancelled caller leaves them running, and the session
        finds out how they ended before it is lent again.

        Raises:
            TimeoutError: No answer within ``seconds``; the connection has been dropped.
        """

    async def roll_back(self) -> None:
        """Undo it, if the server still has it open."""


class Identity(NamedTuple):
    """One server process, told from later ones with its number by when it began."""

    pid: int
    started: str


IDENTITY = (
    "SELECT pid, extract(epoch FROM backend_start)::text"
    " FROM pg_stat_get_activity(pg_backend_pid())"
)


class TransactionalSession(Session, Protocol):
    """A session of a server that speaks SQL."""

    identity: Identity | None
    """What ``identify`` has learnt."""
    identified: bool
    """Whether it has been asked."""

    async def begin(
        self, lease: Any, *, isolation: str | None, readonly: bool, deferrable: bool
    ) -> OpenTransaction:
        """Open a transaction for the borrower, in one round trip."""

    async def run_script(self, sql: str) -> str:
        """Run statements in one message; return the command tag of the last one."""

    async def identify(self) -> None:
        """Learn which server process this is, once; nothing behind a pooler."""


def session_of(lease: Any) -> Any:
    """The session behind a borrowed connection."""
    return lease._slot.connection


def is_lost(lease: Any) -> bool:
    """Whether the connection behind a lease is gone, or the pool has cut it off."""
    session = lease._slot.connection
    return session is None or session.is_closed()


async def answered(
    work: asyncio.Task[str], seconds: float | None, *, give_up: Callable[[], None]
) -> str:
    """Wait for a COMMIT without ever cancelling it; ``give_up`` on it after ``seconds``."""
    # Who is cancelled or gives up leaves; nobody is then left to hear of a failure.
    work.add_done_callback(hear)
    if seconds is None:
        # What asyncio.wait does, at half its price: every COMMIT comes this way.
        ended: asyncio.Future[None] = work.get_loop().create_future()
        work.add_done_callback(partial(_wake, ended))
        await ended
        return work.result()
    await asyncio.wait({work}, timeout=seconds)
    if not work.done():
        for _ in range(STALL_TURNS):
            await asyncio.sleep(0)
    if not work.done():
        give_up()
        raise TimeoutError(
            f"COMMIT was not answered within {seconds:.3g} s and its connection was dropped; "
            "whether it took effect is unknown. Suggestion: use run_transaction(), which finds out."
        )
    return work.result()


def hear(work: asyncio.Future[Any]) -> None:
    """Take an error nobody may ask for, as somebody has left or was told of another one."""
    if not work.cancelled():
        work.exception()


def _wake(waiter: asyncio.Future[None], _work: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


def swallowed_error(status: str) -> TransactionRolledBackError:
    """The server rolled back what was to be committed, and said so in the command tag alone."""
    return TransactionRolledBackError(
        f"The server answered COMMIT with {status}: a statement of the transaction had failed, and "
        "its error was swallowed, so nothing was committed. Suggestion: let the error leave the "
        "transaction block, or put a statement that may fail into a block of its own "
        "(`async with connection.transaction():`), which is a savepoint."
    )
