"""The database sessions a run works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolkeeper.drivers.base import is_lost, session_of

if TYPE_CHECKING:
    from poolkeeper.pool import Pool


class Sessions:
    """One session for all chunks of a run, and those it reads ahead with.

    Args:
        pool: Where they come from.

    Attributes:
        left_behind: Processes of lost connections for chunks, which may still be running something.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._chunks: Any = None
        self._reading: list[Any] = []
        self._may_be_reading = False
        self._given_up: list[Any] = []
        self._backend = 0
        self.left_behind: set[int] = set()

    async def for_chunks(self) -> Any:
        """The connection for chunks; another one when the last was let go.

        Raises:
            ConnectionPoolError: There is none.
        """
        if self._chunks is None:
            self._chunks = await self._pool.wait(None)
            self._backend = session_of(self._chunks).backend_pid()
            # A new process may have the number of an old one.
            self.left_behind.discard(self._backend)
        return self._chunks

    async def for_reading(self, count: int) -> tuple[Any, ...]:
        """Connections to read with; new ones for those that are lost or were cut off.

        Raises:
            ConnectionPoolError: There are not enough.
        """
        for lease in [lease for lease in self._reading if is_lost(lease)]:
            self._reading.remove(lease)
            self._release(lease)
        while len(self._reading) < count:
            self._may_be_reading = True
            self._reading.append(await self._pool.wait(None))
        return tuple(self._reading)

    def reads_no_more(self) -> None:
        """The run has stopped using its connections to read with, for good."""
        self._may_be_reading = False

    @property
    def has_one_for_chunks(self) -> bool:
        """Whether the connection for chunks is there, lost or not."""
        return self._chunks is not None

    @property
    def any_lost(self) -> bool:
        """Whether any connection is."""
        leases = (self._chunks, *self._reading)
        return any(is_lost(lease) for lease in leases if lease is not None)

    def throw_away(self, reason: str) -> None:
        """End the connection for chunks: it is good for nobody."""
        self._pool.throw_away(self._chunks, reason)

    def let_go(self) -> None:
        """Give all back, but for those the run may be reading with: these are cut off.

        It stops using them later, in ``begin`` or ``close``.
        """
        lease, self._chunks = self._chunks, None
        if lease is not None:
            if is_lost(lease):
                self.left_behind.add(self._backend)
            self._release(lease)
        if self._may_be_reading:
            for reading in self._reading:
                self.cut_off(reading)
            return
        while self._reading:
            self._release(self._reading.pop())

    def cut_off(self, lease: Any) -> None:
        """End a session in the middle of something, and what its driver does about that."""
        if not is_lost(lease):
            self._given_up.append(lease)
        session = session_of(lease)
        if session is not None:
            session.abort()

    def _release(self, lease: Any) -> None:
        if any(lease is each for each in self._given_up):
            # No sign of an outage, which it would be taken for.
            self._given_up.remove(lease)
            self._pool.throw_away(lease, "released_while_busy")
        else:
            self._pool.release(lease)
