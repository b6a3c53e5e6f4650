"""Start and stop of a background duty, the same for all of them."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

_logger = logging.getLogger("poolkeeper")

RESTART_SECONDS = 1.0
"""Pause before a duty that failed by a bug is taken up again."""


class Keeper(ABC):
    """A duty that wakes up every ``interval`` seconds while started.

    ``start`` and ``stop`` may be called in any order and any number of times, by several tasks at
    once; ``stop`` before ``start`` does nothing. When ``stop`` returns, nothing of the duty runs.
    A duty decides nothing by itself: it tells the pool that it is time, or what it saw.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the duty is being performed."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Take the duty up in the running event loop."""
        if not self.running:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"poolkeeper {type(self).__name__}"
            )

    async def stop(self) -> None:
        """Lay the duty down and wait until it is; cancelling this does not bring it back."""
        task = self.cancel()
        if task is not None:
            await asyncio.wait({task})

    def cancel(self) -> asyncio.Task[None] | None:
        """Lay the duty down without waiting; returns the task that is ending, if any."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            try:
                await self.perform()
            except Exception:
                # A bug here must not end the pool's self-healing for good, nor stay unseen.
                _logger.exception("%s failed and goes on", type(self).__name__)
                await asyncio.sleep(RESTART_SECONDS)

    @abstractmethod
    async def perform(self) -> None:
        """Do the duty once."""
