"""What the user may say about a backfill, and what holds where they say nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from poolkeeper.operations.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH: Final = 50_000
MAX_REPLICA_LAG: Final = 10.0
LOCK_TIMEOUT: Final = 1.0
LONGEST: Final = 24 * 3600.0

TUNABLE: Final = frozenset({"batch", "max_replica_lag", "lock_timeout", "pause"})
"""How considerate it is may change on the way; what it does may not."""

WHAT: Final = frozenset({"table", "set", "delete", "where", "key", "sweep"})


@dataclass(frozen=True, slots=True)
class Throttle:
    """How considerate a backfill is of others.

    Attributes:
        batch: The most rows of a chunk.
        max_replica_lag: Seconds a standby may be behind; 0: standbys are not looked at.
        lock_timeout: Seconds a chunk waits for a lock.
        pause: Seconds between two chunks.
    """

    batch: int = BATCH
    max_replica_lag: float = MAX_REPLICA_LAG
    lock_timeout: float = LOCK_TIMEOUT
    pause: float = 0.0

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """What a spec says.

        Raises:
            OperationError: Something that cannot be.
        """
        batch = spec.get("batch", BATCH)
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise OperationError(
                f"batch is {batch!r}; it is a number of rows. Suggestion: leave it out "
                f"({BATCH:,}), chunks adapt to 50 to 100 ms each anyway."
            )
        return cls(
            batch=batch,
            max_replica_lag=_seconds(spec, "max_replica_lag", MAX_REPLICA_LAG, least=0.0),
            # 0 would be PostgreSQL's word for "for ever", with the rows of the chunk locked
            lock_timeout=_seconds(spec, "lock_timeout", LOCK_TIMEOUT, least=0.001),
            pause=_seconds(spec, "pause", 0.0, least=0.0),
        )


def check_request(spec: Mapping[str, Any]) -> None:
    """Check what needs no database.

    Raises:
        OperationError: The request contradicts itself, or has something of the wrong type.
    """
    unknown = sorted(set(spec) - WHAT - TUNABLE)
    if unknown:
        raise OperationError(
            f"A backfill has no option {', '.join(unknown)}. Suggestion: use "
            f"{', '.join(sorted(WHAT | TUNABLE))}."
        )
    for name in ("table", "set", "where"):
        text = spec.get(name)
        if text is not None and (not isinstance(text, str) or not text.strip() or "\0" in text):
            raise OperationError(f"{name} is {text!r}. Suggestion: give SQL, or leave it out.")
    if not spec.get("table"):
        raise OperationError("A backfill needs a table. Suggestion: name it.")
    if (spec.get("set") is None) == (not spec.get("delete")):
        raise OperationError(
            "A backfill needs either set= or delete=True. Suggestion: "
            'set="email = lower(email)" changes rows, delete=True deletes them.'
        )
    if spec.get("sweep") and spec.get("where") is None:
        raise OperationError(
            "sweep=True needs a condition: it goes over the table until no row fulfils it. "
            "Suggestion: give where=, a condition that the change makes false."
        )
    key = spec.get("key")
    if key is not None and (
        isinstance(key, str)
        or not key
        or not all(isinstance(column, str) for column in key)
        or len(set(key)) < len(key)
    ):
        raise OperationError(
            f"key is {key!r}. Suggestion: give a list of different columns, or leave it out for "
            "the primary key."
        )
    Throttle.of(spec)


def _seconds(spec: Mapping[str, Any], name: str, default: float, *, least: float) -> float:
    value = spec.get(name, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not least <= value <= LONGEST
    ):
        raise OperationError(
            f"{name} is {value!r}; it is a number of seconds from {least:g} to {LONGEST:g}. "
            f"Suggestion: leave it out ({default:g})."
        )
    return float(value)
