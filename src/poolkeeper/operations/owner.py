"""Who claims operations."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from uuid import UUID

LEASE_SECONDS = 15.0
"""How long a worker may give no sign of life before another one takes over."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One worker.

    Attributes:
        lease_seconds: How long its claims hold without a sign of life.
        id: Of this worker and no other one ever.
        place: Host and process, for people.
        at_work: The epoch of each claim it knows to have. Any other operation that is said to be
            its own is nobody's: the answer to the claim was lost, or it could not be laid down.
    """

    lease_seconds: float = LEASE_SECONDS
    id: str = field(default_factory=lambda: uuid4().hex)
    place: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    at_work: dict[UUID, int] = field(default_factory=dict, compare=False)

    @property
    def heartbeat_seconds(self) -> float:
        """How often it gives one: several times per lease, so that one may fail."""
        return min(2.0, self.lease_seconds / 4)

    def begins(self, operation: UUID, epoch: int) -> None:
        """It has claimed an operation, and knows."""
        # Answers to two claims may come in the wrong order.
        self.at_work[operation] = max(epoch, self.at_work.get(operation, 0))

    def ends(self, operation: UUID, epoch: int) -> None:
        """It does not work on that claim any more; a later one of its own stays."""
        if self.at_work.get(operation) == epoch:
            del self.at_work[operation]
