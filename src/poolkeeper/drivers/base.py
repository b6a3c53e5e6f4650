"""What the pool needs of a driver: a way to dial, and a handful of calls on what it gets."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from poolkeeper.core.availability import Failure
    from poolkeeper.core.slots import Slot


class Condition(Enum):
    """In what state a borrower gave its connection back."""

    CLEAN = "clean"
    """Nothing in the session differs from before, as far as the statements tell."""
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


class Session(Protocol):
    """One open connection.

    The coroutines may take forever against a peer that went silent, and may misbehave when
    cancelled. The pool runs each in a task of its own, bounds it, and calls ``abort``.
    """

    server_version: str
    connection: Any
    """The driver's own connection, for hooks of the user's."""

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

    async def probe(self) -> None:
        """One round trip; raises if the server does not answer properly."""

    async def clean(self, recipe: str) -> None:
        """Wait for a cancelled statement, roll back, then run ``recipe`` in one message.

        An empty recipe means the rollback is all.
        """

    async def cancel(self) -> None:
        """Ask the server, on a connection of its own, to stop the running statement."""

    async def close(self) -> None:
        """Say goodbye to the server."""

    def abort(self) -> None:
        """Drop the transport at once. Never raises, may be called twice."""

    def describe_use(self, lease: Any) -> str | None:
        """The statement a borrower ran last, for leak reports."""


class Driver(Protocol):
    """Opens sessions and knows what its exceptions mean."""

    name: str

    async def connect(self, timeout: float) -> Session:
        """Open a connection, give up after ``timeout`` seconds.

        Cancelling leaves nothing open.
        """

    def set_connect_args(self, dsn: str | None, **connect_kwargs: Any) -> None:
        """Use other arguments from the next connection on."""

    def failure(self, error: BaseException) -> Failure:
        """What a failed ``connect`` says about the database."""

    def forget_statements(self, session: Any) -> None:
        """Drop cached statements of one connection, because the schema changed under another."""

    def forget_types(self, session: Any) -> None:
        """Drop cached type information of one connection."""
