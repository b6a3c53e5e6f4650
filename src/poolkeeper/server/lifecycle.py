"""Where the server is in its life; probes and the drain read it, the runner moves it on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Lifecycle:
    """Started means that the pool was opened once; draining never ends but in the exit."""

    started: bool = False
    draining: bool = False
