"""Who holds the connections, and whether they can ever come back."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from poolkeeper.core.state import PoolState
    from poolkeeper.core.waiters import Ticket


def task_name(task: asyncio.Task[Any] | None) -> str:
    """How messages name a holder."""
    return "code outside any task" if task is None else f"task {task.get_name()!r}"


def holders(state: PoolState) -> list[str]:
    """Who has a connection and for how long, the longest first."""
    now = monotonic()
    held = [slot for slot in state.slots.values() if slot.borrow is not None]
    held.sort(key=lambda slot: slot.taken_at)
    return [f"{task_name(slot.borrow._task)} for {now - slot.taken_at:.1f}s" for slot in held]


def youngest_in_deadlock(state: PoolState) -> Ticket | None:
    """The request to refuse when every connection is held by a task that waits for another.

    None while there is any other hope: room for one more connection, one being prepared, a
    holder that does not wait, or a pause that may end.
    """
    if state.paused or len(state.slots) < state.limits.max_size or not state.waiters:
        return None
    waiting = {ticket.owner[1] for ticket in state.waiters}
    tasks = set()
    for slot in state.slots.values():
        lease = slot.borrow
        if lease is None or lease._task not in waiting or slot.connection.is_busy(lease):
            return None
        tasks.add(slot.borrow._task)
    return next(ticket for ticket in reversed(state.waiters) if ticket.owner[1] in tasks)
