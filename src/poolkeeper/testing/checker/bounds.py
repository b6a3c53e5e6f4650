"""Nobody waits longer than promised, service comes back, and resources add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.testing.checker.evidence import Finding, Kind
from poolkeeper.testing.history import NEMESIS, OBSERVER, Type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poolkeeper.testing.checker.evidence import Evidence

STATES = ("idle", "active", "connecting", "validating", "resetting", "closing")
"""The states of a connection in a ``PoolSnapshot``; they add up to its ``total``."""


def calls_end_in_time(evidence: Evidence) -> Iterator[Finding]:
    """No call outlives the ``deadline`` noted with it by more than ``Bounds.overtime``."""
    events = evidence.history.events
    now = events[-1].time if events else 0.0
    for operation in evidence.operations:
        deadline = operation.fact("deadline")
        if deadline is None:
            continue
        ended = operation.completion
        took = (now if ended is None else ended.time) - operation.invoke.time
        if took > deadline + evidence.bounds.overtime:
            what = "has not come back after" if ended is None else "took"
            yield Finding(
                Kind.LATE, f"{operation.f} {what} {took:.3f} s of {deadline:g} s", operation.events
            )


def service_returns(evidence: Evidence) -> Iterator[Finding]:
    """After a ``heal`` somebody succeeds within ``Bounds.recovery``, if no fault comes before."""
    recovery = evidence.bounds.recovery
    if recovery is None:
        return
    events = evidence.history.events
    successes = [e for e in events if e.type is Type.OK and isinstance(e.process, int)]
    faults = list(evidence.history.notes(NEMESIS, "fault"))
    end = events[-1].time if events else 0.0
    for heal in evidence.history.notes(NEMESIS, "heal"):
        until = heal.time + recovery
        later = (fault for fault in faults if fault.index > heal.index)
        if end < until or any(fault.time < until for fault in later):
            continue
        if not any(e.index > heal.index and e.time <= until for e in successes):
            yield Finding(
                Kind.NO_SERVICE, f"nobody succeeded within {recovery:g} s after healing", (heal,)
            )


def resources_add_up(evidence: Evidence) -> Iterator[Finding]:
    """In every noted ``resources`` the parts are the whole, the whole is allowed, none is left.

    A note holds the fields of a ``PoolSnapshot``, and ``sessions`` on the server where they were
    counted.
    """
    for note in evidence.history.notes(OBSERVER, "resources"):
        size = note.value
        parts = sum(size[state] for state in STATES)
        if parts != size["total"]:
            yield Finding(
                Kind.RESOURCES, f"{parts} connections by state, {size['total']} in total", (note,)
            )
        if size["total"] > size["max_size"]:
            yield Finding(
                Kind.RESOURCES, f"{size['total']} connections of {size['max_size']}", (note,)
            )
        if size.get("sessions", 0) > size["max_size"]:
            yield Finding(
                Kind.RESOURCES, f"{size['sessions']} sessions of {size['max_size']}", (note,)
            )
    left = evidence.final.sessions_left
    if left:
        yield Finding(Kind.RESOURCES, f"{left} sessions are left after the pool was closed")
