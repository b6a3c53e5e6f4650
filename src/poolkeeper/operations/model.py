"""What an operation is, in which states it can be, and how far it is; pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID


class OperationState(Enum):
    """Where an operation is between its creation and its end."""

    PENDING = "pending"
    """Waits for a worker."""
    RUNNING = "running"
    """A worker has claimed it; whether that worker lives, its lease tells."""
    PAUSED = "paused"
    """Nobody claims it until somebody resumes it."""
    DONE = "done"
    """All of it is committed."""
    FAILED = "failed"
    """It cannot go on by itself; ``error`` says why. What was committed stays."""
    CANCELLED = "cancelled"
    """Given up by a person. What was committed stays."""


LEGAL: Final[Mapping[OperationState, frozenset[OperationState]]] = {
    OperationState.PENDING: frozenset(
        {OperationState.RUNNING, OperationState.PAUSED, OperationState.CANCELLED}
    ),
    OperationState.RUNNING: frozenset(
        {
            OperationState.PENDING,
            OperationState.PAUSED,
            OperationState.DONE,
            OperationState.FAILED,
            OperationState.CANCELLED,
        }
    ),
    OperationState.PAUSED: frozenset({OperationState.PENDING, OperationState.CANCELLED}),
    OperationState.FAILED: frozenset({OperationState.PENDING, OperationState.CANCELLED}),
    OperationState.DONE: frozenset(),
    OperationState.CANCELLED: frozenset(),
}
"""Every move there is. RUNNING to PENDING is a worker that lays the operation down unfinished."""

UNFINISHED: Final = frozenset(state for state in OperationState if LEGAL[state])
"""States from which an operation can still be completed."""


def may_become(state: OperationState) -> list[str]:
    """The states from which ``state`` can be reached, as the table stores them."""
    return sorted(old.value for old, new in LEGAL.items() if state in new)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationStatus:
    """One operation as the database has it, at one instant.

    Attributes:
        id: Its id.
        name: What people call it; of unfinished operations each has a name of its own.
        kind: ``load``, ``backfill``, ``export`` or ``custom``.
        state: See ``OperationState``.
        spec: What is to be done, as JSON.
        fingerprint: What the source looked like when the operation was created.
        epoch: How often it was claimed; the fencing token of the claim.
        seq: How many chunks are committed.
        cursor: Where the next chunk begins, as JSON.
        rows_done: Rows committed.
        rows_rejected: Rows put into ``poolkeeper.rejects`` instead.
        rows_total: How many there will be, if that is known or estimated.
        bytes_done: How far in the source, or how much written.
        bytes_total: Size of the source, if it has one.
        owner: Id of the worker that claimed it last.
        owner_place: Host and process of that worker.
        lease_seconds: Seconds until another worker may take over; negative when that was so.
        outages: Lost connections that workers have ridden out.
        error: Why it failed.
        created_at: When it was created.
        started_at: When it was claimed first.
        updated_at: The last sign of life of a worker, or the last change of state.
        finished_at: When it was done, failed or cancelled.
        at: When the database was asked, by its clock.
    """

    id: UUID
    name: str
    kind: str
    state: OperationState
    spec: dict[str, Any]
    fingerprint: dict[str, Any] | None
    epoch: int
    seq: int
    cursor: dict[str, Any]
    rows_done: int
    rows_rejected: int
    rows_total: int | None
    bytes_done: int
    bytes_total: int | None
    owner: str | None
    owner_place: str | None
    lease_seconds: float | None
    outages: int
    error: str | None
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    finished_at: datetime | None
    at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Make one of a row of ``poolkeeper.operations``."""
        values = {field.name: row[field.name] for field in fields(cls)}
        values["state"] = OperationState(values["state"])
        return cls(**values)

    @property
    def finished(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.state not in UNFINISHED

    @property
    def fraction(self) -> float | None:
        """How much is done, 0 to 1, if that can be told."""
        if self.state is OperationState.DONE:
            return 1.0
        if self.bytes_total:
            return min(1.0, self.bytes_done / self.bytes_total)
        if self.rows_total:
            return min(1.0, self.rows_done / self.rows_total)
        return None

    @property
    def elapsed_seconds(self) -> float:
        """Seconds from the first claim to the end, or to now."""
        if self.started_at is None:
            return 0.0
        return ((self.finished_at or self.at) - self.started_at).total_seconds()

    def to_dict(self) -> dict[str, Any]:
        """Give everything by name; the values fit into JSON."""
        values = asdict(self)
        values["id"] = str(self.id)
        values["state"] = self.state.value
        values["fraction"] = self.fraction
        values["elapsed_seconds"] = self.elapsed_seconds
        for name in ("created_at", "started_at", "updated_at", "finished_at", "at"):
            moment = values[name]
            values[name] = None if moment is None else moment.isoformat()
        return values
