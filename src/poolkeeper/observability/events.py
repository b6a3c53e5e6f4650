"""What happens to a pool, one frozen dataclass each, and the bus that tells whoever listens."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from dataclasses import dataclass, fields
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Callable

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
"""How much an event matters, in the words of logging."""

_logger = logging.getLogger("poolkeeper")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to the pool named ``pool``.

    ``name`` and ``level`` belong to the class, so a log can be searched for ``name`` and an alert
    written on it. All durations are seconds.
    """

    name: ClassVar[str]
    level: ClassVar[Level]

    pool: str

    def to_dict(self) -> dict[str, Any]:
        """Give the fields by name, without the event's own name; the values fit into JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolInitialized(Event):
    """The pool is open and holds its first connections.

    ``database_url`` never holds a password: it is masked here, whatever was given.
    """

    name = "pool_initialized"
    level = "info"

    min_size: int
    max_size: int
    connections: int
    elapsed_seconds: float
    database_url: str
    server_version: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "database_url", mask_url(self.database_url))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConnectionLost(Event):
    """The database stopped answering: the beginning of an outage.

    ``detection_time_seconds`` runs from the last sign of life, or from the start of the operation
    that failed when that was later, to the moment the pool knew. ``reason`` is the kind of
    evidence, ``error`` the text of the failure behind it.
    """

    name = "database_connection_lost"
    level = "error"

    detection_time_seconds: float
    reason: str
    error: str | None = None
    connections_lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectAttempt(Event):
    """The prober is going to dial during an outage.

    ``attempt`` counts from 1 in each outage; ``delay_seconds`` is the pause before this attempt
    and ``error`` how the previous one ended.
    """

    name = "reconnect_attempt"
    level = "info"

    attempt: int
    delay_seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseReconnected(Event):
    """The database answers again: the end of an outage."""

    name = "database_reconnected"
    level = "info"

    outage_seconds: float
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverDetected(Event):
    """Another of several hosts is the primary now.

    Connections to a host known to be no primary any more are cut off. ``reason`` is the evidence,
    ``timeline`` the one the new primary writes on, if it said.
    """

    name = "failover_detected"
    level = "warning"

    reason: str
    from_host: str
    to_host: str
    timeline: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRecycled(Event):
    """A connection was closed by the pool, for the ``reason`` the statistics count it under.

    ``error`` is what failed where the reason is a failure of the cleaning or of a hook.
    """

    name = "connection_recycled"
    level = "info"

    reason: str
    age_seconds: float
    uses: int
    connection_id: int | str
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLeakSuspected(Event):
    """A connection has been held for longer than ``leak_detection_timeout``.

    ``acquired_at`` is the line of the acquire, ``running_now`` that of the holding task at the
    time of this warning: where to look, and what it waits for.
    """

    name = "connection_leak_suspected"
    level = "warning"

    held_seconds: float
    task: str
    acquired_at: str
    running_now: str
    last_query: str | None = None
    connection_id: int | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLeakResolved(Event):
    """A connection that was suspected to have leaked came back after all."""

    name = "connection_leak_resolved"
    level = "info"

    held_seconds: float
    task: str
    connection_id: int | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolExhausted(Event):
    """Every connection is in use and somebody has begun to wait."""

    name = "pool_exhausted"
    level = "warning"

    active: int
    waiting: int
    max_size: int
    oldest_waiter_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUtilizationHigh(Event):
    """More than 80 % of ``max_size`` is in use; ``utilization`` is the fraction, 0 to 1."""

    name = "pool_utilization_high"
    level = "warning"

    utilization: float
    active: int
    max_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolClosed(Event):
    """The pool is closed and holds nothing any more.

    ``connections_closed`` said goodbye to the server, ``connections_terminated`` were cut off
    because they could not do so in time.
    """

    name = "pool_closed"
    level = "info"

    elapsed_seconds: float
    connections_closed: int
    connections_terminated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionResolved(Event):
    """The answer to a COMMIT was lost, and the database was asked what became of it.

    ``outcome`` is ``committed``, ``aborted``, or ``unknown`` when it could not be asked in time.
    """

    name = "transaction_resolved"
    level = "warning"

    transaction_id: str
    outcome: str
    attempts: int
    elapsed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationClaimed(Event):
    """A worker of this process begins, or takes up, an operation.

    ``epoch`` counts the claims; ``taken_from`` is the worker that had it and gave no sign of life.
    """

    name = "operation_claimed"
    level = "info"

    operation: str
    kind: str
    epoch: int
    rows_done: int
    taken_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationResumed(Event):
    """An operation goes on at its checkpoint after its connection was lost.

    ``seq`` is how many chunks are committed; ``elapsed_seconds`` runs from the last of them.
    """

    name = "operation_resumed"
    level = "warning"

    operation: str
    kind: str
    seq: int
    rows_done: int
    elapsed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationEnded(Event):
    """A worker of this process has no more to do with an operation, which is in ``state`` now.

    ``elapsed_seconds`` runs from its first claim by anybody.
    """

    name = "operation_ended"
    level = "info"

    operation: str
    kind: str
    state: str
    rows_done: int
    rows_rejected: int
    elapsed_seconds: float
    error: str | None = None


class EventBus:
    """Hands each event to every listener, in the order they were added, before ``emit`` returns.

    Whatever a listener raises stops here: it is logged with its traceback, counted in
    ``listener_failures``, and neither the pool nor the other listeners notice. Only what is meant
    to end the process (``KeyboardInterrupt``, ``SystemExit``) passes through.
    """

    __slots__ = ("_listeners", "listener_failures")

    def __init__(self) -> None:
        # replaced, never changed, so that a listener may add or remove one while being called
        self._listeners: tuple[Callable[[Event], object], ...] = ()
        self.listener_failures = 0

    def add(self, listener: Callable[[Event], object]) -> None:
        """Call ``listener(event)`` for every event from now on; adding it again does nothing.

        The listener runs inside the pool's event loop and must not block.

        Raises:
            PoolConfigurationError: The listener is a coroutine function, which nobody would await.
        """
        if iscoroutinefunction(listener):
            raise PoolConfigurationError(
                f"The event listener {listener!r} is a coroutine function, but listeners are "
                "called, not awaited, so it would never run. Suggestion: pass a plain function; "
                "let it start a task or put the event into an asyncio.Queue.",
                option="listener",
                value=listener,
            )
        if listener not in self._listeners:
            self._listeners = (*self._listeners, listener)

    def remove(self, listener: Callable[[Event], object]) -> None:
        """Stop calling ``listener``; one that was never added is ignored."""
        self._listeners = tuple(known for known in self._listeners if known != listener)

    def emit(self, event: Event) -> None:
        """Tell every listener; never raises on behalf of one."""
        for listener in self._listeners:
            try:
                listener(event)
            # a cancelled future read by a listener must not look like a cancelled acquire
            except (Exception, CancelledError) as failure:
                self.listener_failures += 1
                _logger.exception(
                    "event_listener_failed: %r raised %s on %s",
                    listener,
                    type(failure).__name__,
                    event.name,
                )
