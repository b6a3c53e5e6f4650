"""Who claims operations."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from uuid import uuid4

LEASE_SECONDS = 15.0
"""How long a worker may give no sign of life before another one takes over."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One worker.

    Attributes:
        lease_seconds: How long its claims hold without a sign of life.
        id: Of this worker and no other one ever.
        place: Host and process, for people.
    """

    lease_seconds: float = LEASE_SECONDS
    id: str = field(default_factory=lambda: uuid4().hex)
    place: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")

    @property
    def heartbeat_seconds(self) -> float:
        """How often it gives one: several times per lease, so that one may fail."""
        return min(2.0, self.lease_seconds / 4)
