"""What the runner asks of a kind of operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poolkeeper.operations.model import OperationStatus

Json: TypeAlias = dict[str, Any]
"""An object that fits into ``jsonb``."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An operation that can be created.

    Attributes:
        spec: What is to be done: everything a run needs to know, and no password.
        cursor: Where to begin.
        fingerprint: What the source looks like now.
        bytes_total: Size of the source.
        rows_total: How many rows there are; an estimate will do.
    """

    spec: Json
    cursor: Json
    fingerprint: Json | None = None
    bytes_total: int | None = None
    rows_total: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that could not be taken.

    Attributes:
        line: Its line in the source, from 1.
        raw: The row as it stands there.
        sqlstate: What the server said about it, if it was asked.
        message: The same in words.
    """

    line: int | None
    raw: bytes
    sqlstate: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a chunk has done, to be committed with it.

    Attributes:
        cursor: Where the next one begins.
        rows: How many rows it holds.
        rejects: Rows left out.
        bytes_done: How far in the source, or how much is written in all.
        size: How much of the size it was asked for it used, in the unit of its kind; None: all.
        checksum: Of its bytes, if it has any.
        done: Whether nothing is left after it.
    """

    cursor: Json
    rows: int
    rejects: Sequence[Reject] = ()
    bytes_done: int | None = None
    size: int | None = None
    checksum: int | None = None
    done: bool = False

    @property
    def progresses(self) -> bool:
        """Whether it did any of the work; else it does not prove that a chunk can be done."""
        return self.done or self.rows > 0 or bool(self.rejects) or self.size != 0


@dataclass(frozen=True, slots=True)
class Sizing:
    """Limits of the size of a chunk, in the unit of its kind: bytes or rows."""

    initial: int
    smallest: int
    largest: int


class Run(Protocol):
    """One claimed run in one process.

    Everything it remembers may be wrong after a lost connection or a lost claim: ``begin`` is then
    called with what the database has, before the next ``chunk``.
    """

    @property
    def sizing(self) -> Sizing | None:
        """Limits of a chunk; None for a kind that has no size of its own."""

    async def begin(self, connection: Any, cursor: Json) -> None:
        """Go to ``cursor``, outside of any transaction; forget everything else.

        Raises:
            OperationError: The operation cannot go on, such as when its source has changed.
        """

    async def chunk(self, connection: Any, size: int) -> Chunk:
        """Do the work of the next chunk, inside the transaction the runner has opened.

        It must not end that transaction. It may be cancelled at any await; its connection is then
        given up.

        Raises:
            OperationError: The operation fails with this message; chunks committed before stay.
            Exception: An error of the driver: after a lost connection the run begins again, after
                a conflict the chunk is tried again, with anything else the operation fails.
        """

    async def committed(self, chunk: Chunk) -> None:
        """Hear that the chunk is committed."""

    async def close(self) -> None:
        """Let go of everything; called at the end of the run, however it ends."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The next chunk has to wait.

    Attributes:
        seconds: When to ask again.
        reason: What it waits for, in words; None: nothing to tell.
    """

    seconds: float
    reason: str | None = None


@runtime_checkable
class ThrottledRun(Run, Protocol):
    """A run that is considerate of others, between chunks, where it holds no lock."""

    async def hold(self, connection: Any) -> Hold | None:
        """Say whether to wait before the next chunk.

        Called before each, after ``begin``, outside of any transaction, until there is nothing to
        wait for. It may be cancelled at any await.
        """


@runtime_checkable
class ReadAheadRun(Run, Protocol):
    """A run that reads on connections of its own, also while its chunks are being committed."""

    @property
    def readers(self) -> int:
        """How many it wants; always the same number."""

    def read_with(
        self, connections: Sequence[Any], settings: str, cut_off: Callable[[Any], None]
    ) -> None:
        """Read with these from now on; called before each chunk.

        They may be others after each ``begin``. By its end and that of ``close`` the run must have
        stopped using them, and cut off those that were in the middle of something.

        Args:
            connections: To the same database as that of the chunks, outside of any transaction.
            settings: Statements each transaction on them has to begin with.
            cut_off: Ends one of them at once, with whatever its driver has begun to do about that.
        """


class Kind(Protocol):
    """A kind of operation."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def tunable(self) -> frozenset[str]:
        """Options that may change between two runs of one operation, such as a throttle.

        ``prepare`` takes them into its spec as they are.
        """

    def check(self, spec: Json) -> None:
        """See that the options are of the right types and do not contradict each other; no I/O.

        Raises:
            OperationError: They cannot be.
        """

    async def already_done(self, connection: Any, done: OperationStatus, chunks: Chunks) -> bool:
        """Whether doing again what an operation has done would double it.

        Then asking for the same thing again returns the finished operation.
        """

    async def prepare(self, connection: Any, spec: Json) -> Prepared:
        """Check what is asked for against the database and the source, and complete it.

        Args:
            connection: A borrowed asyncpg connection, outside of any transaction.
            spec: What the user gave.

        Raises:
            OperationError: It cannot be done.
        """

    def start(self, spec: Json, fingerprint: Json | None, chunks: Chunks) -> Run:
        """Make a run of an operation that has been claimed."""


class Chunks(Protocol):
    """What is committed of an operation."""

    async def committed(self, connection: Any) -> Sequence[CommittedChunk]:
        """Every committed chunk, in order."""


@dataclass(frozen=True, slots=True)
class CommittedChunk:
    """A row of ``poolkeeper.chunks``."""

    seq: int
    cursor_from: Json
    cursor_to: Json
    rows: int
    checksum: int | None
