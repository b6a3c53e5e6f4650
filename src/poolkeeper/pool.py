"""The pool at work: the core's effects become tasks, driver calls and woken waiters."""

from __future__ import annotations

import asyncio
import sys
from asyncio import Future, _get_running_loop, current_task
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from poolkeeper.core.availability import Failure
from poolkeeper.core.effects import (
    Close,
    Connect,
    Effect,
    Grant,
    OutageBegan,
    OutageEnded,
    Refusal,
    Refuse,
    Reset,
    Validate,
)
from poolkeeper.core.lifecycle import Phase, advance
from poolkeeper.core.slots import CLOSED, IN_USE, Slot
from poolkeeper.core.state import PoolState
from poolkeeper.core.waiters import TicketState
from poolkeeper.deadlines import bounded, request_time_left
from poolkeeper.drivers.base import Condition
from poolkeeper.errands import CLOSE_SECONDS, Errands, cancel_all
from poolkeeper.exceptions import PoolTimeoutError
from poolkeeper.holders import holders, task_name, youngest_in_deadlock
from poolkeeper.misuse import Home
from poolkeeper.refusals import closed_error, deadlock_error, refusal_error
from poolkeeper.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from poolkeeper.core.sizing import Limits
    from poolkeeper.core.waiters import Ticket
    from poolkeeper.drivers.base import Driver, Session
    from poolkeeper.lease import AcquireContext
    from poolkeeper.observability.events import Event
    from poolkeeper.observability.statistics import DurationRecorder, PoolCounters
    from poolkeeper.session_policy import ResetPolicy
    from poolkeeper.snapshot import PoolSnapshot

WAITING = TicketState.WAITING
OPEN = Phase.OPEN


class Pool:
    """Connections of one database, shared by the tasks of one event loop.

    Every public method must be called from the loop that opened the pool. ``acquire_nowait`` and
    ``release`` never wait; ``wait`` ends by its deadline whatever the database does.
    """

    def __init__(
        self,
        *,
        name: str,
        database: str,
        limits: Limits,
        policy: ResetPolicy,
        counters: PoolCounters,
        emit: Callable[[Event], None],
        redact: Callable[[str], str],
        rng: Any,
        timeout: float,
        connect_timeout: float,
        validation_timeout: float,
        reset_timeout: float,
        setup: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.database = database
        self.driver: Driver
        self.state = PoolState(limits, rng)
        self.counters = counters
        self.recorder: DurationRecorder | None = None
        self.reporter = Reporter(name, counters, emit, redact)
        self.errands = Errands(
            self,
            policy,
            connect_timeout=connect_timeout,
            validation_timeout=validation_timeout,
            reset_timeout=reset_timeout,
        )
        self.probe_latency: float | None = None
        self.opened_at: float | None = None
        self.terminated = 0
        self.server_version: str | None = None
        # Told of statements the server refused because it is read-only (25006).
        self.on_refusal: Callable[[Session, Exception], None] | None = None
        self._policy = policy
        self._usable = policy.usable
        self._timeout = timeout
        self._setup = setup
        self._loop: asyncio.AbstractEventLoop | None = None
        self._home = Home()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_when = inf
        self._emptied: asyncio.Future[None] | None = None
        self._settled: asyncio.Future[None] | None = None

    # Borrowing --------------------------------------------------------------------------------

    def acquire_nowait(self, depth: int = 3) -> Any:
        """Lend an idle connection that needs no check, or return None.

        None also when the hook ``setup`` has to run first, or the pool is not open.

        Args:
            depth: How many frames above the lending the borrower's code is.

        Raises:
            PoolUsageError: Called from another loop, thread or process than the pool's.
        """
        if _get_running_loop() is not self._loop:
            self._refuse_misuse()
        state = self.state
        if not state.idle or self._setup is not None:
            return None
        now = monotonic()
        slot = state.take(now)
        if slot is None:
            return None
        session = slot.connection
        if session.is_closed():
            # The driver knows already; its callback is about to run.
            self._lost(slot)
            self.carry_out(self.state.release(slot, now))
            return None
        self.counters.wait.counts[0] += 1
        if self.recorder is not None:
            self.recorder.wait(0.0)
        return self._lend(slot, current_task(self._loop), depth)

    def _lend(self, slot: Slot, task: Any, depth: int) -> Any:
        lease = slot.connection.lend(slot)
        slot.borrow = lease
        lease._task = task
        # Two numbers instead of a stack: cheap enough for every acquire, enough for a leak report.
        frame = sys._getframe(depth)
        lease._code = frame.f_code
        lease._lasti = frame.f_lasti
        counters = self.counters
        counters.total_acquisitions += 1
        state = self.state
        used = len(state.slots) - len(state.idle)
        if used > counters.peak_active_connections:
            self._note_peak()
        return lease

    def _note_peak(self) -> None:
        active = sum(slot.state is IN_USE for slot in self.state.slots.values())
        counters = self.counters
        counters.peak_active_connections = max(counters.peak_active_connections, active)

    async def wait(
        self, timeout: float | None, context: AcquireContext | None = None, depth: int = 2
    ) -> Any:
        """Lend a connection as soon as the queue and the database allow.

        Args:
            timeout: Seconds to wait at most; None means the pool's own limit.
            context: Gets the connection as well, so that leaving it gives the connection back.
            depth: How many frames above the lending the borrower's code is.

        Raises:
            PoolTimeoutError: No connection in time. Nothing was sent.
            PoolExhaustedError: The queue is full.
            DatabaseUnavailableError: The outage has lasted longer than requests are held.
            PoolClosedError: The pool is not open, or closed meanwhile.
        """
        state, loop = self.state, self._loop
        if _get_running_loop() is not loop or loop is None:
            self._refuse_misuse()
        if state.phase is not OPEN:
            raise closed_error(state.phase.value)
        seconds = self._timeout if timeout is None else timeout
        time_left = request_time_left.get()
        if time_left is not None and (left := time_left()) is not None:
            # Given up later, nobody could tell that nothing was sent.
            seconds = min(seconds, left)
        started = now = monotonic()
        deadline = started + seconds
        me = current_task(loop)
        while True:
            future: Future[None] = Future(loop=loop)
            ticket, effects = state.request(now, deadline, (future, me, started, seconds))
            if effects:
                self.carry_out(effects)
            if ticket.state is WAITING:
                due = min(deadline, state.outage.patience_until())
                if due < self._timer_when:
                    self._arm(due)
                if not self.reporter.exhausted_reported:
                    self.reporter.exhausted(self.snapshot())
            try:
                await future
            except asyncio.CancelledError:
                self.counters.total_cancellations += 1
                self.carry_out(state.cancel(ticket, monotonic()))
                raise
            slot = state.accept(ticket)
            now = monotonic()
            if slot.state is CLOSED:
                # Evicted between being granted and being picked up.
                continue
            if slot.connection.is_closed():
                # It died between being granted and being picked up; nothing was done with it.
                self._lost(slot)
                self.carry_out(state.release(slot, now))
                continue
            waited = now - started
            counters = self.counters
            counters.wait.observe(waited)
            counters.peak_wait_seconds = max(counters.peak_wait_seconds, waited)
            if self.recorder is not None:
                self.recorder.wait(waited)
            lease = self._lend(slot, me, depth)
            if self._setup is not None:
                await self._set_up(lease, deadline)
            if context is not None:
                context._lease = lease
            return lease

    async def _set_up(self, lease: Any, deadline: float) -> None:
        """Run the user's ``setup``; a connection it failed on is not used again."""
        assert self._setup is not None
        session = lease._slot.connection
        try:
            await bounded(
                _as_coroutine(self._setup(lease)),
                max(0.0, deadline - monotonic()),
                give_up=session.abort,
            )
        except BaseException as error:
            self.throw_away(lease, "setup_failed")
            if isinstance(error, TimeoutError) and monotonic() >= deadline:
                raise PoolTimeoutError(
                    "The setup hook did not finish within the acquire timeout. Pool state: "
                    f"{self.snapshot().describe()}. Suggestion: make the hook faster or raise "
                    "POOL_TIMEOUT."
                ) from error
            raise

    def throw_away(self, lease: Any, reason: str) -> None:
        """End a loan whose connection nobody may use again, by our own decision.

        It is no sign of an outage, unlike one that is aborted and then released.
        """
        slot: Slot = lease._slot
        if slot.borrow is not lease:
            return
        slot.borrow = None
        self.counters.total_releases += 1
        self.counters.use.observe(monotonic() - slot.taken_at)
        if slot.state is IN_USE:
            slot.connection.take_back(lease)
            self.carry_out(self.state.discard(slot, reason))

    def release(self, lease: Any) -> None:
        """Take a connection back. Never waits: what has to be cleaned is cleaned afterwards.

        Releasing twice does nothing.
        """
        slot: Slot = lease._slot
        if slot.borrow is not lease:
            return
        if _get_running_loop() is not self._loop:
            self._refuse_misuse()
        slot.borrow = None
        counters = self.counters
        counters.total_releases += 1
        now = monotonic()
        used = now - slot.taken_at
        counters.use.observe(used)
        if self.recorder is not None:
            self.recorder.use(used)
        if slot.state is CLOSED:
            # The pool gave up on this borrower and cut the connection off.
            return
        state = self.state
        condition = slot.connection.take_back(lease)
        if condition in self._usable:
            if state.waiters:
                ticket = state.pass_on(slot, now)
                if ticket is not None:
                    self._wake(ticket)
                    return
            elif state.park(slot, now):
                return
        self._release_slowly(slot, condition, now)

    def _release_slowly(self, slot: Slot, condition: Condition, now: float) -> None:
        state = self.state
        if slot.state is not IN_USE:
            return
        if condition is Condition.CLOSED:
            self._lost(slot)
            self.carry_out(state.release(slot, now))
        elif condition is Condition.BUSY:
            self.carry_out(state.discard(slot, "released_while_busy"))
        else:
            slot.recipe = self._policy.recipe(condition)
            self.carry_out(state.release(slot, now, dirty=slot.recipe is not None))

    def _wake(self, ticket: Ticket) -> None:
        future = ticket.owner[0]
        if future.done():
            # Cancelled, but its task has not run yet to say so.
            self.carry_out(self.state.cancel(ticket, monotonic()))
        else:
            future.set_result(None)

    # Effects ----------------------------------------------------------------------------------

    def carry_out(self, effects: list[Effect]) -> None:
        """Do what the core asks for. Waking and refusing happen now, the rest in tasks."""
        for effect in effects:
            match effect:
                case Grant(ticket):
                    self._wake(ticket)
                case Refuse(ticket, why, snapshot):
                    self._turn_away(ticket, why, snapshot)
                case Connect(slot):
                    self.errands.start_connect(slot)
                case Validate(slot):
                    self.errands.start_probe(slot)
                case Reset(slot):
                    self.errands.start_reset(slot)
                case Close(slot, reason, abort):
                    self.reporter.recycled(slot, reason)
                    self.errands.start_close(slot, abort=abort)
                case OutageBegan():
                    self.reporter.outage_began(effect, self.errands.dialling)
                    self.rearm()
                case OutageEnded(duration):
                    self.reporter.outage_ended(duration)
        if self.state.phase is Phase.CLOSED and self._emptied is not None:
            if not self._emptied.done():
                self._emptied.set_result(None)
            self._disarm()

    def adopt(self, slot: Slot, session: Any, started: float) -> None:
        """Put a fresh session to use in ``slot``."""
        now = monotonic()
        hosts = self.driver.hosts
        if hosts is not None and hosts.superseded(session.endpoint):
            # The pool has moved on while it was made ready.
            session.abort()
            self.carry_out(self.state.connect_failed(slot, Failure.UNAVAILABLE, now))
            self.sign_of_life()
            return
        took = now - started
        self.server_version = session.server_version
        self.reporter.recovered()
        self.counters.total_connects += 1
        self.counters.create.observe(took)
        if self.recorder is not None:
            self.recorder.create(took)
        session.on_lost(partial(self._lost, slot))
        self.carry_out(self.state.connected(slot, session, now))

    def evict(self, lead_nowhere: Callable[[Session], bool], reason: str, error: str) -> None:
        """Drop the connections that lead nowhere any more, also under those who use them.

        Their statements fail as if the peer had hung up, and new connections are dialled.

        Args:
            lead_nowhere: Says so of a connection.
            reason: Why they are closed, as events and statistics name it.
            error: The same for people.
        """
        slots = [
            slot
            for slot in self.state.slots.values()
            if slot.connection is not None and lead_nowhere(slot.connection)
        ]
        for slot in slots:
            slot.error = error
        self.carry_out(self.state.evict(slots, reason, monotonic()))

    def _statement_failed(self, slot: Slot, error: Exception) -> None:
        """A borrower's statement was refused in a way that may concern the whole connection."""
        if self.on_refusal is not None and slot.connection is not None:
            self.on_refusal(slot.connection, error)

    def dialled(self) -> None:
        """A dial has ended, one way or the other."""
        state = self.state
        if state.usable() >= state.limits.min_size or state.outage.last_failure is not None:
            self._settle()
        self.rearm()

    def _lost(self, slot: Slot) -> None:
        """The peer ended a connection."""
        self.carry_out(self.state.lost(slot, monotonic()))

    def _turn_away(self, ticket: Ticket, why: Refusal, snapshot: PoolSnapshot) -> None:
        future, _task, started, seconds = ticket.owner
        if future.done():
            return
        counters = self.counters
        if why is Refusal.QUEUE_FULL:
            counters.total_rejections += 1
        elif why is Refusal.UNAVAILABLE:
            counters.total_unavailable += 1
        elif why is not Refusal.CLOSED:
            counters.total_timeouts += 1
        state = self.state
        future.set_exception(
            refusal_error(
                why,
                snapshot=snapshot,
                timeout=seconds,
                waited=monotonic() - started,
                holders=holders(state),
                database=self.database,
                cause=self.reporter.last_error if why is not Refusal.CLOSED else None,
                reason=counters.last_error,
                outage_seconds=self.outage_seconds(),
                next_attempt_seconds=self.next_attempt_seconds(),
                max_waiting=state.limits.max_waiting,
                paused=state.paused,
            )
        )

    # Time -------------------------------------------------------------------------------------

    def rearm(self) -> None:
        """Set the timer for whatever the core wants to do next."""
        self._arm(self.state.next_wakeup(monotonic()))

    def _arm(self, when: float) -> None:
        if when >= self._timer_when or self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_when = when
        # Not call_at: uvloop's clock is another one, with milliseconds only.
        self._timer = self._loop.call_later(max(0.0, when - monotonic()), self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_when = None, inf

    def _on_timer(self) -> None:
        self._timer, self._timer_when = None, inf
        if self.state.phase is Phase.OPEN:
            self.carry_out(self.state.tick(monotonic()))
            self.rearm()

    def sign_of_life(self) -> None:
        """The database's door is open again: dial now rather than when the backoff ends."""
        if self.state.phase is Phase.OPEN and not self.errands.connecting:
            self.carry_out(self.state.sign_of_life(monotonic()))

    def housekeep(self) -> None:
        """Once in a while: retire what is due, break a deadlock, look at the utilization."""
        self.carry_out(self.state.retire(monotonic()))
        ticket = youngest_in_deadlock(self.state)
        if ticket is not None:
            self._refuse_deadlocked(ticket)
        self.reporter.look_at(self.snapshot())

    def _refuse_deadlocked(self, ticket: Ticket) -> None:
        future, task, started, seconds = ticket.owner
        error = deadlock_error(
            self.snapshot(), task_name(task), seconds, monotonic() - started, holders(self.state)
        )
        self.carry_out(self.state.cancel(ticket, monotonic()))
        if not future.done():
            self.counters.total_timeouts += 1
            future.set_exception(error)

    # Life cycle -------------------------------------------------------------------------------

    def bind(self) -> None:
        """Belong to the running loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._home = Home()
        self.opened_at = monotonic()

    def unbind(self) -> None:
        """Opening failed; the pool may be opened again, from any loop."""
        self._loop = None
        self.opened_at = None

    def uptime(self) -> float:
        """Seconds since the pool was opened; 0 before."""
        return 0.0 if self.opened_at is None else monotonic() - self.opened_at

    def require_home(self) -> None:
        """Refuse a call from another loop, thread or process before it changes anything.

        A pool not opened yet is at home everywhere.

        Raises:
            PoolUsageError: It is such a call.
        """
        if self._loop is not None and _get_running_loop() is not self._loop:
            raise self._home.stranger()

    async def open(self, session: Any, started: float) -> None:
        """Start serving; returns when the floor is filled or a connection could not be opened.

        Returns as well when the pool is closed meanwhile.

        Args:
            session: The first connection, already dialled, or None with a floor of zero.
            started: When dialling it began.
        """
        assert self._loop is not None
        self._settled = self._loop.create_future()
        effects = self.state.open(monotonic())
        for effect in effects:
            if session is not None and isinstance(effect, Connect):
                self.adopt(effect.slot, session, started)
                session = None
            else:
                self.carry_out([effect])
        if self.state.usable() >= self.state.limits.min_size:
            self._settle()
        await self._settled

    def _settle(self) -> None:
        """Let ``open`` return."""
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    async def drain(self, seconds: float | None) -> None:
        """Refuse the queue, let borrowers finish, close everything; after ``seconds`` cut off."""
        self.require_home()
        state = self.state
        if self._never_opened() or state.phase is Phase.CLOSED:
            return
        self._settle()
        if self._emptied is None:
            assert self._loop is not None
            self._emptied = self._loop.create_future()
            self.carry_out(state.drain(monotonic()))
            self.errands.cancel_connects()
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._emptied)
        except TimeoutError:
            cancellers = self.errands.cancellers()
            self.terminate()
            await cancel_all(cancellers)
            # Cancelled dials report in the next turns of the loop.
            await asyncio.wait({self._emptied}, timeout=CLOSE_SECONDS)
        except asyncio.CancelledError:
            self.terminate()
            raise

    def terminate(self) -> None:
        """Cut every connection off at once; borrowers meet a closed connection."""
        self.require_home()
        state = self.state
        if self._never_opened():
            return
        self._settle()
        if state.phase is Phase.OPEN:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            self.carry_out(state.drain(monotonic()))
        self.errands.cancel()
        for slot in list(state.slots.values()):
            if slot.connection is not None:
                self.terminated += 1
                slot.connection.abort()
                self.carry_out(state.cut_off(slot))

    def _never_opened(self) -> bool:
        """Close a pool that was never opened; say whether this is one."""
        if self.state.phase is not Phase.NEW:
            return False
        self.state.phase = advance(self.state.phase, Phase.CLOSED)
        return True

    def expire(self) -> None:
        """Replace every connection."""
        self.require_home()
        self.carry_out(self.state.expire(monotonic()))

    def resize(self, min_size: int, max_size: int) -> None:
        """Change the limits."""
        self.require_home()
        self.carry_out(self.state.resize(min_size, max_size, monotonic()))

    def pause(self) -> None:
        """Stop granting connections."""
        self.require_home()
        self.state.pause()

    def resume(self) -> None:
        """Grant connections again."""
        self.require_home()
        self.carry_out(self.state.resume(monotonic()))

    # Reports ----------------------------------------------------------------------------------

    def snapshot(self) -> PoolSnapshot:
        """The sizes now. Cheap; from the pool's loop a consistent instant."""
        return self.state.snapshot(monotonic())

    def now(self) -> float:
        """Seconds on the pool's clock."""
        return monotonic()

    def outage_seconds(self) -> float | None:
        """Age of the present outage, or None."""
        down_since = self.state.outage.down_since
        return None if down_since is None else monotonic() - down_since

    def next_attempt_seconds(self) -> float | None:
        """Seconds until the next connection attempt of an outage; None without one planned."""
        if self.state.outage.down_since is None or self.errands.connecting:
            return None
        return max(0.0, self.state.outage.next_attempt_at - monotonic())

    def _refuse_misuse(self) -> NoReturn:
        """Explain which rule a call from the wrong place broke."""
        if self._loop is None:
            raise closed_error(self.state.phase.value)
        raise self._home.stranger()

    def _drop_statement_cache(self) -> None:
        self._each_session(self.driver.forget_statements)

    def _drop_type_cache(self) -> None:
        self._each_session(self.driver.forget_types)

    def _each_session(self, forget: Callable[[Any], None]) -> None:
        for slot in self.state.slots.values():
            if slot.connection is not None and not slot.connection.is_closed():
                forget(slot.connection)


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work
