"""Where the server is in its life; probes and the drain read it, the runner moves it on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poolkeeper.server.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.server.siblings import Siblings


@dataclass(slots=True)
class Lifecycle:
    """What all parts of a server may know of its state.

    Attributes:
        started: The pool was opened once.
        draining: No way back but the exit; ``/readyz`` says so from here on.
        paused_at: Unix time since which an operator holds requests back; None while work goes on.
        born_at: Unix time at which this was made.
        stop: Set by whoever wants the server to drain and exit.
        heartbeat: Tells whether the event loop still turns.
        connections: How many connections of clients are open.
        siblings: The processes behind the same port; None where this is the only one.
        refused: Connections that were turned away before they were requests, by reason.
    """

    started: bool = False
    draining: bool = False
    paused_at: float | None = None
    born_at: float = field(default_factory=time.time)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    connections: Callable[[], int] = lambda: 0
    siblings: Siblings | None = None
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def paused(self) -> bool:
        """Whether an operator holds requests back."""
        return self.paused_at is not None

    @property
    def state(self) -> str:
        """Starting, serving, paused or draining."""
        if self.draining:
            return "draining"
        if not self.started:
            return "starting"
        return "paused" if self.paused else "serving"
