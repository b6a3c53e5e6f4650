"""Statements on a peer that went silent: told from slow ones, and ended."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from poolkeeper.deadlines import bounded
from poolkeeper.keepers.service import Keeper
from poolkeeper.sqlstate import sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from poolkeeper.core.slots import Slot
    from poolkeeper.drivers.base import Session
    from poolkeeper.pool import Pool

ANSWER_SECONDS = 1.0
"""How long the server may take to let a side connection in, or to answer on it."""

STRIKES = 2
"""Attempts to get through, each to no avail, that mean the server is silent."""

LATE_SECONDS = 0.25
"""An attempt that ended later than this after its time proves only that the loop was busy."""


class Sight(NamedTuple):
    """A statement of a borrower as seen at one moment; a later sight that is equal is of it."""

    uses: int
    begun: int


class StallKeeper(Keeper):
    """Ask a side connection about every statement that has heard nothing for ``stall_after``.

    A server that works on a long statement is as silent as one that is gone, and keepalives
    cannot tell when a middlebox answers them. So the server is asked, on a connection of its own,
    what the process behind the statement does (``pg_stat_activity``):

    - It does not exist, or waits for its client: only this connection is dead; it is dropped, and
      its statement fails.
    - It is at work: a slow statement, left alone however long it takes, and asked about again
      after another ``stall_after``.
    - Nobody lets the side connection in or answers on it, twice: the server is silent, and every
      connection to it is dropped.

    So a statement on a silent peer ends ``stall_after`` + ``interval`` + 2 * ``ANSWER_SECONDS``
    after the last byte at the latest. Behind a pooler process numbers mean nothing and only the
    last verdict is ever reached. The side connection stays open while there is something to ask,
    and comes on top of ``max_size``.
    """

    def __init__(self, pool: Pool, stall_after: float) -> None:
        super().__init__(min(0.25, stall_after / 4))
        self._pool = pool
        self._stall_after = stall_after
        # When each statement in flight was first seen, and when last asked about.
        self._seen: dict[Slot, tuple[Sight, float]] = {}
        self._side: dict[Hashable, Session] = {}
        self._strikes: dict[Hashable, int] = {}

    async def perform(self) -> None:
        """Ask about the statements that are due, and act on the answer."""
        stalled = self._stalled(monotonic())
        if not stalled:
            if not self._seen:
                self._hang_up()
            return
        servers: dict[Hashable, list[Slot]] = {}
        for slot in stalled:
            servers.setdefault(slot.connection.endpoint, []).append(slot)
        for endpoint, slots in servers.items():
            await self._ask(endpoint, slots)

    def _stalled(self, now: float) -> list[Slot]:
        """Connections in use that have heard nothing for too long while they should have."""
        seen: dict[Slot, tuple[Sight, float]] = {}
        stalled: list[Slot] = []
        down = self._pool.state.outage.down_since is not None
        for slot in self._pool.state.slots.values():
            lease = slot.borrow
            if lease is None or not (down or slot.connection.is_busy(lease)):
                continue
            sight = _sight(slot)
            before = self._seen.get(slot)
            since = before[1] if before is not None and before[0] == sight else now
            seen[slot] = sight, since
            silence = slot.connection.silence()
            if now - since >= self._stall_after and (
                silence is None or silence.heard >= self._stall_after
            ):
                stalled.append(slot)
        self._seen = seen
        return stalled

    async def _ask(self, endpoint: Hashable, slots: Sequence[Slot]) -> None:
        sights = [_sight(slot) for slot in slots]
        started = monotonic()
        try:
            answer = await self._look_up(endpoint, slots)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            self._drop_side(endpoint)
            code = sqlstate_of(error)
            if code is not None and not code.startswith("08"):
                # Full, starting, whatever: somebody is there to say so.
                self._answered(endpoint, slots)
            elif not isinstance(error, TimeoutError) or (
                monotonic() - started < ANSWER_SECONDS + LATE_SECONDS
            ):
                self._strike(endpoint, error)
            return
        self._answered(endpoint, slots)
        if answer.own != self._side[endpoint].backend_pid():
            # A pooler in between: no process can be told from another.
            return
        for slot, sight in zip(slots, sights, strict=True):
            lease, session = slot.borrow, slot.connection
            # The answer may have come while we asked.
            if lease is None or _sight(slot) != sight or not session.is_busy(lease):
                continue
            silence = session.silence()
            pid = session.backend_pid()
            if silence is not None and silence.heard < self._stall_after:
                continue
            if pid in answer.gone:
                why = f"the server has no process {pid} any more"
            elif pid in answer.waiting:
                why = f"the server's process {pid} has long been waiting for its client"
            elif pid in answer.reading and silence is not None and silence.said > self._stall_after:
                why = f"the server's process {pid} waits for the rest of the statement"
            else:
                continue
            self._give_up([slot], why)

    async def _look_up(self, endpoint: Hashable, slots: Sequence[Slot]) -> Any:
        """Ask the server on the side connection, opened if need be, within one bound."""
        deadline = monotonic() + ANSWER_SECONDS
        side = self._side.get(endpoint)
        if side is None or side.is_closed():
            side = self._side[endpoint] = await bounded(
                self._pool.driver.connect_beside(slots[0].connection, ANSWER_SECONDS),
                ANSWER_SECONDS,
                too_late=lambda session: session.abort(),
            )
        pids = [slot.connection.backend_pid() for slot in slots if slot.borrow is not None]
        if not pids:
            # All came back while the side connection was being opened; any process will do.
            pids = [side.backend_pid()]
        return await bounded(
            side.look_up(pids, self._stall_after), max(0.1, deadline - monotonic())
        )

    def _answered(self, endpoint: Hashable, slots: Sequence[Slot]) -> None:
        """The server is alive: ask about the same statements again only after a while."""
        self._strikes.pop(endpoint, None)
        now = monotonic()
        self._pool.state.heard_aside(now)
        for slot in slots:
            if slot in self._seen:
                self._seen[slot] = self._seen[slot][0], now

    def _strike(self, endpoint: Hashable, error: BaseException) -> None:
        strikes = self._strikes[endpoint] = self._strikes.get(endpoint, 0) + 1
        if strikes < STRIKES:
            return
        del self._strikes[endpoint]
        self._pool.reporter.failed(error)
        self._pool.evict(
            lambda session: session.endpoint == endpoint,
            "stalled",
            f"The pool cut this connection off: the server has been silent for at least "
            f"{self._stall_after:g} s and lets nobody else in "
            f"({self._pool.reporter.describe(error)}). Whether the statement took effect is "
            "unknown.",
        )

    def _give_up(self, slots: Sequence[Slot], why: str) -> None:
        sessions = [slot.connection for slot in slots]
        self._pool.evict(
            lambda session: session in sessions,
            "stalled",
            f"The pool cut this connection off: nothing came from it for at least "
            f"{self._stall_after:g} s although {why}. Whether the statement took effect is "
            "unknown.",
        )

    def cancel(self) -> Any:
        """See ``Keeper``. The side connections go with it."""
        self._hang_up()
        return super().cancel()

    def _hang_up(self) -> None:
        for endpoint in list(self._side):
            self._drop_side(endpoint)
        self._strikes.clear()

    def _drop_side(self, endpoint: Hashable) -> None:
        side = self._side.pop(endpoint, None)
        if side is not None:
            side.abort()


def _sight(slot: Slot) -> Sight:
    return Sight(slot.uses, slot.connection.statements_begun())
