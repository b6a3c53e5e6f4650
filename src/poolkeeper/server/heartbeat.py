"""Tells whether the event loop still turns."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL = 0.5


class Heartbeat:
    """A timer of the event loop that notes when it last ran, and tells whoever listens."""

    def __init__(self, interval: float = _INTERVAL) -> None:
        self._interval = interval
        self._beat_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: list[Callable[[], object]] = []

    def add_listener(self, listener: Callable[[], object]) -> None:
        """Call ``listener`` at every beat, in the event loop; it must not block."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Beat from now on, in the running event loop."""
        self.stop()
        self._beat()

    def stop(self) -> None:
        """Beat no more; the age is 0 from here on."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._beat_at = None

    def age(self) -> float:
        """Seconds since the latest beat; 0 before the first one."""
        return 0.0 if self._beat_at is None else time.monotonic() - self._beat_at

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._beat)
        for listener in self._listeners:
            listener()
