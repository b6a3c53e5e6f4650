"""What takes time: dialling, probing, cleaning, closing; each bounded, none in a caller's time."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from poolkeeper.core.availability import Failure
from poolkeeper.core.slots import CLOSED, CLOSING, RESETTING, VALIDATING
from poolkeeper.deadlines import bounded
from poolkeeper.dialling import dial_patiently

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from poolkeeper.core.slots import Slot, SlotState
    from poolkeeper.pool import Pool
    from poolkeeper.session_policy import ResetPolicy

CLOSE_SECONDS = 2.0
"""How long a server may take to acknowledge a goodbye before the transport is dropped."""


class Errands:
    """The tasks of one pool. Each reports its outcome to the core and acts on the answer.

    A driver's exceptions end here: whatever it is, it is the outcome of the errand.
    """

    def __init__(
        self,
        pool: Pool,
        policy: ResetPolicy,
        *,
        connect_timeout: float,
        validation_timeout: float,
        reset_timeout: float,
    ) -> None:
        self.connecting: dict[Slot, asyncio.Task[None]] = {}
        # Dials begun and not ended: a task in ``connecting`` may not have run yet.
        self.dialling = 0
        # Connections the server acknowledged the end of.
        self.goodbyes = 0
        self._pool = pool
        self._policy = policy
        self._connect_timeout = connect_timeout
        self._validation_timeout = validation_timeout
        self._reset_timeout = reset_timeout
        self._tasks: set[asyncio.Task[None]] = set()

    def start_connect(self, slot: Slot) -> None:
        """Dial a connection for ``slot``; the dial belongs to the pool, not to any caller."""
        task = self._own(self._connect(slot))
        self.connecting[slot] = task
        task.add_done_callback(partial(self._connect_ended, slot))

    def start_probe(self, slot: Slot) -> None:
        """Validate the connection of ``slot`` for somebody who waits."""
        task = self._own(self.probe(slot, self._validation_timeout))
        task.add_done_callback(partial(self._given_up, slot, VALIDATING))

    def start_reset(self, slot: Slot) -> None:
        """Clean the session of ``slot``."""
        task = self._own(self._reset(slot))
        task.add_done_callback(partial(self._given_up, slot, RESETTING))

    def start_close(self, slot: Slot, *, abort: bool) -> None:
        """Close the connection of ``slot``; with ``abort``, or if it is dead, at once."""
        if slot.state is CLOSED:
            # A listener of the event before this has ended the pool.
            return
        session = slot.connection
        if abort or session.is_closed():
            session.abort()
            self._pool.carry_out(self._pool.state.closed(slot, monotonic()))
        else:
            task = self._own(self._say_goodbye(slot))
            task.add_done_callback(partial(self._given_up, slot, CLOSING))

    def _given_up(self, slot: Slot, state: SlotState, task: asyncio.Task[None]) -> None:
        """Give back the room of an errand that was cancelled, perhaps before its first step.

        Somebody may cancel every task of the loop, ours among them; such a task reports nothing.
        """
        if not task.cancelled() or slot.state is not state:
            return
        slot.connection.abort()
        if state is CLOSING:
            self._pool.carry_out(self._pool.state.closed(slot, monotonic()))
        else:
            reason = "reset_failed" if state is RESETTING else "probe_given_up"
            self._pool.carry_out(self._pool.state.discard(slot, reason))

    def cancel_connects(self) -> None:
        """Give up every dial."""
        for task in list(self.connecting.values()):
            task.cancel()

    def cancel(self) -> None:
        """Give up everything."""
        for task in list(self._tasks):
            task.cancel()

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _connect(self, slot: Slot) -> None:
        pool, state = self._pool, self._pool.state
        started = monotonic()
        self.dialling += 1
        if state.outage.down_since is not None:
            failed_at = state.outage.last_failure_at if state.outage.attempts else None
            pool.reporter.attempt(0.0 if failed_at is None else started - failed_at)
        try:
            session = await dial_patiently(
                pool.driver,
                self._connect_timeout,
                in_outage=lambda: state.outage.down_since is not None,
                again=pool.reporter.attempt,
            )
        except asyncio.CancelledError:
            self.dialling -= 1
            raise
        except Exception as error:  # noqa: BLE001 - see the class
            self.dialling -= 1
            self.connecting.pop(slot, None)
            pool.reporter.failed(error)
            pool.counters.total_connect_failures += 1
            pool.carry_out(state.connect_failed(slot, pool.driver.failure(error), monotonic()))
        else:
            self.dialling -= 1
            self.connecting.pop(slot, None)
            pool.adopt(slot, session, started)
        pool.dialled()

    def _connect_ended(self, slot: Slot, _task: asyncio.Task[None]) -> None:
        # A task cancelled before its first step never gets to report.
        if self.connecting.pop(slot, None) is not None:
            state = self._pool.state
            self._pool.carry_out(state.connect_failed(slot, Failure.UNAVAILABLE, monotonic()))

    async def probe(self, slot: Slot, seconds: float) -> None:
        """One bounded round trip on a slot taken out of circulation."""
        pool, session = self._pool, slot.connection
        started = monotonic()
        try:
            await bounded(session.probe(), seconds, give_up=session.abort)
        except asyncio.CancelledError:
            if slot.state is not CLOSED:
                # The keeper was stopped in mid-probe; the answer would have no reader.
                pool.carry_out(pool.state.discard(slot, "probe_given_up"))
            raise
        except Exception as error:  # noqa: BLE001 - see the class
            pool.reporter.failed(error)
            now = monotonic()
            pool.carry_out(pool.state.validation_failed(slot, now, now - started))
        else:
            now = monotonic()
            pool.probe_latency = now - started
            pool.carry_out(pool.state.validated(slot, now))

    async def _reset(self, slot: Slot) -> None:
        pool, session = self._pool, slot.connection
        assert slot.recipe is not None
        try:
            await bounded(
                self._policy.clean(session, slot.recipe), self._reset_timeout, give_up=session.abort
            )
        except Exception as error:  # noqa: BLE001 - see the class; also the user's own reset
            # It may be the fault of a hook, and says nothing about reaching the database.
            slot.error = pool.reporter.describe(error)
            pool.carry_out(pool.state.reset_failed(slot, monotonic()))
        else:
            pool.carry_out(pool.state.reset_done(slot, monotonic()))

    async def _say_goodbye(self, slot: Slot) -> None:
        session = slot.connection
        try:
            await bounded(session.close(), CLOSE_SECONDS, give_up=session.abort)
            self.goodbyes += 1
        except Exception:  # noqa: BLE001 - it is gone either way
            session.abort()
        if slot.state is not CLOSED:
            self._pool.carry_out(self._pool.state.closed(slot, monotonic()))

    def cancellers(self) -> list[Callable[[], Awaitable[object]]]:
        """What stops the statements borrowers still run, after their connections are cut off.

        Dropping a transport is not enough: the server notices when it next writes to it, which a
        long statement may not do for hours. But it has to come first: a COMMIT that waits for a
        synchronous standby is answered with success when it is cancelled, and nobody may hear it.
        """
        sessions = [slot.connection for slot in self._pool.state.slots.values() if slot.borrow]
        found = [session.canceller() for session in sessions if session is not None]
        return [canceller for canceller in found if canceller is not None]


async def cancel_all(cancellers: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Ask the server to stop statements; bounded, best effort."""
    await asyncio.gather(
        *(bounded(_ask(canceller), CLOSE_SECONDS) for canceller in cancellers),
        return_exceptions=True,
    )


async def _ask(canceller: Callable[[], Awaitable[object]]) -> None:
    await canceller()
