"""The operations as open dashboards show them: looked up once for all pages, and only for those."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.operations.model import UNFINISHED
from poolkeeper.outcomes import is_driver_error
from poolkeeper.server.telling import told

if TYPE_CHECKING:
    from uuid import UUID

    from poolkeeper.operations.model import OperationStatus
    from poolkeeper.server.operations.work import OperationsWork

_log = logging.getLogger("poolkeeper.server")

_INTERVAL: Final = 2.0
_LOOKED_AT: Final = 100
_FINISHED_SHOWN: Final = 10
_PACE_SECONDS: Final = 15.0
"""A rate is that of the last few seconds: chunks come one by one."""


class Overview:
    """Kept up while pages are open; without any, and without operations, nothing is asked.

    Args:
        work: The operations of this process.
    """

    def __init__(self, work: OperationsWork) -> None:
        self._work = work
        self._looking: asyncio.Task[None] | None = None
        self._due_at = 0.0
        self._latest: list[OperationStatus] = []
        self._trouble: str | None = None
        self._paces: dict[UUID, Pace] = {}

    def content(self) -> dict[str, Any]:
        """What is known, looked up at most a few seconds ago; looks again if it is time."""
        idle = self._looking is None or self._looking.done()
        if self._work.known and idle and monotonic() >= self._due_at:
            self._due_at = monotonic() + _INTERVAL
            self._looking = asyncio.create_task(self._look())
        unfinished = [one for one in self._latest if one.state in UNFINISHED]
        finished = [one for one in self._latest if one.state not in UNFINISHED]
        shown = [self._document(one) for one in [*unfinished, *finished[:_FINISHED_SHOWN]]]
        return {"operations": shown, "trouble": self._trouble if shown else None}

    async def _look(self) -> None:
        try:
            self._latest = list(await self._work.operations.list(limit=_LOOKED_AT))
        except (ConnectionPoolError, OSError) as error:
            self._trouble = told(error)
        except Exception as error:  # noqa: BLE001 - the page says it, and goes on
            self._trouble = told(error)
            if not is_driver_error(error):
                _log.error("operations_overview_failed", exc_info=error)
        else:
            self._trouble = None
            known = {status.id: self._paces.get(status.id) or Pace() for status in self._latest}
            self._paces = known
            for status in self._latest:
                known[status.id].take(status)

    def _document(self, status: OperationStatus) -> dict[str, Any]:
        pace = self._paces[status.id]
        finished_at = status.finished_at
        return {
            "id": str(status.id),
            "name": status.name,
            "kind": status.kind,
            "state": status.state.value,
            "fraction": None if status.fraction is None else round(status.fraction, 4),
            "rows_done": status.rows_done,
            "rows_rejected": status.rows_rejected,
            "rows_per_second": pace.rows_per_second,
            "seconds_left": pace.seconds_left,
            "elapsed_seconds": round(status.elapsed_seconds) if finished_at else None,
            "created_at": status.created_at.timestamp(),
            "finished_at": None if finished_at is None else finished_at.timestamp(),
            "owner": status.owner_place,
            "outages": status.outages,
            "error": status.error,
            "waiting_for": self._work.waiting_for(status.id),
        }


class Pace:
    """How fast one operation goes.

    Attributes:
        rows_per_second: Of the last seconds; None while nobody works on it.
        seconds_left: Until its end, if it goes on so and anybody knows where that is.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, float | None]] = deque()
        self._epoch: int | None = None
        self.rows_per_second: float | None = None
        self.seconds_left: float | None = None

    def take(self, status: OperationStatus) -> None:
        """Add what has just been looked up."""
        if status.state.value != "running" or status.epoch != self._epoch:
            # What lies between two claims says nothing about either.
            self._samples.clear()
            self._epoch = status.epoch
        at = status.at.timestamp()
        self._samples.append((at, status.rows_done, status.fraction))
        while len(self._samples) > 2 and at - self._samples[0][0] > _PACE_SECONDS:
            self._samples.popleft()
        self.rows_per_second = self.seconds_left = None
        began, rows, fraction = self._samples[0]
        seconds = at - began
        if len(self._samples) < 2 or seconds <= 0:
            return
        self.rows_per_second = round((status.rows_done - rows) / seconds, 1)
        if fraction is not None and status.fraction is not None and status.fraction > fraction:
            left = (1 - status.fraction) * seconds / (status.fraction - fraction)
            self.seconds_left = round(left, 1)
