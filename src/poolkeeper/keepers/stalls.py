"""Statements on a peer that went silent: told from slow ones, and ended."""

from __future__ import annotations

import errno
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from poolkeeper.deadlines import bounded
from poolkeeper.keepers.service import Keeper
from poolkeeper.outcomes import is_driver_error
from poolkeeper.sqlstate import sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from poolkeeper.core.slots import Slot
    from poolkeeper.drivers.base import Backends, Session
    from poolkeeper.pool import Pool

ANSWER_SECONDS = 1.0
"""How long the server may take to let a side connection in, or to answer on it."""

STRIKES = 2
"""Attempts to get through, each to no avail, that mean the server is silent."""

LATE_SECONDS = 0.25
"""An attempt that ended later than this after its time proves only that the loop was busy."""

STRIKE_LASTS = 4.0
"""Seconds after which an attempt to no avail is history."""

OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL})
"""What can keep us from dialling says nothing about who would have answered."""


LIBPQ_NOBODY_THERE = (
    "onnection refused",
    "onnection reset",
    "onnection timed out",
    "onnection timeout expired",
    "closed the connection",
    "unreachable",
    "No route to host",
)


class Sight(NamedTuple):
    """A statement of a borrower as seen at one moment; a later sight that is equal is of it."""

    uses: int
    begun: int


class StallKeeper(Keeper):
    """Ask a side connection about every statement that has heard nothing for ``stall_after``.

    A server that works on a long statement is as silent as one that is gone, and keepalives
    cannot tell when a middlebox answers them. So the server is asked, on a connection of its own,
    what the process behind the statement does (``pg_stat_activity``):

    - It does not exist, or waits for its client while nothing has been on its way to it: only this
      connection is dead; it is dropped, and its statement fails.
    - It is at work: a slow statement, left alone however long it takes, and asked about again
      after another ``stall_after``.
    - Nobody lets the side connection in or answers on it, twice, and no other connection to the
      server has heard anything either, asked if it is idle: the server is silent, and the
      connections that have heard nothing from it are dropped.

    So a statement on a silent peer ends ``stall_after`` + ``interval`` + 2 * ``ANSWER_SECONDS``
    after the last byte at the latest. Behind a pooler process numbers mean nothing, and behind a
    load balancer the side connection may lead to another server; both are recognized, and only
    the last verdict is then reached. The side connection stays open while there is something to
    ask, and comes on top of ``max_size``.
    """

    def __init__(self, pool: Pool, stall_after: float) -> None:
        super().__init__(min(0.25, stall_after / 4))
        self._pool = pool
        self._stall_after = stall_after
        # When each statement in flight was first seen, and when last asked about.
        self._seen: dict[Slot, tuple[Sight, float]] = {}
        self._side: dict[Hashable, Session] = {}
        self._strikes: dict[Hashable, tuple[int, float]] = {}
        self._last_stall = 0.0

    async def perform(self) -> None:
        """Ask about the statements that are due, and act on the answer."""
        now = monotonic()
        stalled = self._stalled(now)
        if not stalled:
            if not self._seen or now - self._last_stall > 2 * self._stall_after:
                self._hang_up()
            return
        self._last_stall = now
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
        suspects = [(slot, slot.connection, _sight(slot)) for slot in slots]
        started = monotonic()
        try:
            answer = await self._look_up(endpoint, [session for _, session, _ in suspects])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            self._drop_side(endpoint)
            if isinstance(error, TimeoutError) and (
                monotonic() - started > ANSWER_SECONDS + LATE_SECONDS
            ):
                return
            if not _nobody_there(error) or await self._somebody_answers(endpoint, started):
                self._answered(endpoint, slots)
            else:
                self._strike(endpoint, error)
            return
        self._answered(endpoint, slots)
        if answer.own != self._side[endpoint].backend_pid():
            # A pooler in between: no process can be told from another.
            return
        for slot, session, sight in suspects:
            why = self._why_dead(slot, session, sight, answer)
            if why is not None:
                self._give_up(session, why)

    def _why_dead(self, slot: Slot, session: Session, sight: Sight, answer: Backends) -> str | None:
        """What the server's answer says against one connection, or None."""
        if session.server is None or session.server != answer.server:
            # Another server answered, behind one address.
            return None
        if slot.connection is not session or _sight(slot) != sight or not _busy(slot):
            # The statement has ended while we asked.
            return None
        silence = session.silence()
        if silence is not None and min(silence) < self._stall_after:
            # Something has arrived meanwhile, or a long message is still on its way there.
            return None
        pid = session.backend_pid()
        if pid in answer.gone:
            return f"the server has no process {pid} any more"
        if pid in answer.waiting:
            return f"the server's process {pid} has long been waiting for its client"
        if pid in answer.reading and silence is not None:
            return f"the server's process {pid} waits for the rest of the statement"
        return None

    async def _look_up(self, endpoint: Hashable, sessions: Sequence[Session]) -> Backends:
        """Ask the server on the side connection, opened if need be, within one bound."""
        deadline = monotonic() + ANSWER_SECONDS
        side = self._side.get(endpoint)
        if side is None or side.is_closed():
            side = self._side[endpoint] = await bounded(
                self._pool.driver.connect_beside(sessions[0], ANSWER_SECONDS),
                ANSWER_SECONDS,
                too_late=lambda session: session.abort(),
            )
        pids = [session.backend_pid() for session in sessions]
        return await bounded(
            side.look_up(pids, self._stall_after), max(0.1, deadline - monotonic())
        )

    async def _somebody_answers(self, endpoint: Hashable, since: float) -> bool:
        """Whether the server is heard on a connection of the pool's, if not on the side."""
        pool = self._pool
        slot = pool.state.reserve_for_probe(monotonic(), 0.0)
        if slot is not None:
            # It may be to another server; then it is none the worse for it.
            await pool.errands.probe(slot, ANSWER_SECONDS)
        for slot in pool.state.slots.values():
            session = slot.connection
            if session is None or session.endpoint != endpoint:
                continue
            silence = session.silence()
            heard_at = slot.alive_at if silence is None else monotonic() - silence.heard
            if heard_at > since:
                return True
        return False

    def _answered(self, endpoint: Hashable, slots: Sequence[Slot]) -> None:
        """The server is alive: ask about the same statements again only after a while."""
        self._strikes.pop(endpoint, None)
        now = monotonic()
        self._pool.state.heard_aside(now)
        for slot in slots:
            if slot in self._seen:
                self._seen[slot] = self._seen[slot][0], now

    def _strike(self, endpoint: Hashable, error: BaseException) -> None:
        now = monotonic()
        strikes, before = self._strikes.get(endpoint, (0, 0.0))
        if strikes and now - before < ANSWER_SECONDS:
            # Refusals come at once; they get no less time to pass than silences.
            return
        strikes = 1 if now - before > STRIKE_LASTS else strikes + 1
        self._strikes[endpoint] = strikes, now
        if strikes < STRIKES:
            return
        del self._strikes[endpoint]
        self._pool.reporter.failed(error)
        self._pool.evict(
            lambda session: session.endpoint == endpoint and self._is_silent(session),
            "stalled",
            f"The pool cut this connection off: the server has been silent for at least "
            f"{self._stall_after:g} s and lets nobody else in "
            f"({self._pool.reporter.describe(error)}). Whether the statement took effect is "
            "unknown.",
        )

    def _is_silent(self, session: Session) -> bool:
        silence = session.silence()
        return silence is None or silence.heard >= self._stall_after

    def _give_up(self, dead: Session, why: str) -> None:
        self._pool.evict(
            lambda session: session is dead,
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


def _nobody_there(error: Exception) -> bool:
    """Whether an attempt failed for want of an answer, and not for a reason of our own."""
    if isinstance(error, OSError):
        return error.errno not in OUR_OWN and not isinstance(error, socket.gaierror)
    code = sqlstate_of(error)
    if not is_driver_error(error) or not (code is None or code.startswith("08")):
        return False
    # libpq has one error for everything, whatever was to blame.
    return code is not None or any(words in str(error) for words in LIBPQ_NOBODY_THERE)


def _busy(slot: Slot) -> bool:
    lease = slot.borrow
    return lease is not None and slot.connection.is_busy(lease)


def _sight(slot: Slot) -> Sight:
    return Sight(slot.uses, slot.connection.statements_begun())
