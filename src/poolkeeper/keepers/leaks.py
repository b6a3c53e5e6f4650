"""Point at connections that do not come back."""

from __future__ import annotations

import traceback
from io import StringIO
from typing import TYPE_CHECKING, Any

from poolkeeper.keepers.service import Keeper
from poolkeeper.observability.events import ConnectionLeakResolved, ConnectionLeakSuspected

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from poolkeeper.observability.events import Event
    from poolkeeper.pool import Pool

SHORTEST_INTERVAL = 0.05
STACK_DEPTH = 20


class LeakKeeper(Keeper):
    """Warn once about each connection held longer than ``threshold``, note when it comes back."""

    def __init__(self, pool: Pool, threshold: float, emit: Callable[[Event], None]) -> None:
        super().__init__(max(SHORTEST_INTERVAL, min(1.0, threshold / 4)))
        self._pool = pool
        self._threshold = threshold
        self._emit = emit
        self._suspects: dict[Any, tuple[int, float, str]] = {}

    async def perform(self) -> None:
        """Look at every connection in use."""
        now = self._pool.now()
        held = set()
        for slot in self._pool.state.slots.values():
            lease = slot.borrow
            if lease is None or now - slot.taken_at < self._threshold:
                continue
            held.add(lease)
            if lease not in self._suspects:
                task = lease._task
                name = "code outside any task" if task is None else task.get_name()
                self._suspects[lease] = (slot.id, slot.taken_at, name)
                self._emit(
                    ConnectionLeakSuspected(
                        pool=self._pool.name,
                        held_seconds=now - slot.taken_at,
                        task=name,
                        acquired_at=site(lease._code, lease._lasti),
                        running_now=current_stack(task),
                        last_query=slot.connection.describe_use(lease),
                        connection_id=slot.id,
                    )
                )
        for lease in [lease for lease in self._suspects if lease not in held]:
            slot_id, taken_at, name = self._suspects.pop(lease)
            self._emit(
                ConnectionLeakResolved(
                    pool=self._pool.name,
                    held_seconds=now - taken_at,
                    task=name,
                    connection_id=slot_id,
                )
            )


def site(code: CodeType, lasti: int) -> str:
    """``file:line in function`` of an instruction."""
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= lasti < end and number is not None:
            line = number
    return f"{code.co_filename}:{line} in {code.co_qualname}"


def current_stack(task: Any) -> str:
    """Where the holder is now, innermost last; says so if it has ended without releasing."""
    if task is None:
        return "unknown: acquired outside any task"
    if task.done():
        return "nowhere: the task has ended without releasing its connection"
    text = StringIO()
    for frame in task.get_stack(limit=STACK_DEPTH):
        entry = traceback.extract_stack(frame, limit=1)
        text.writelines(traceback.format_list(entry))
    return text.getvalue().rstrip() or "unknown"
