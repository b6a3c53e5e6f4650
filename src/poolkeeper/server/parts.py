"""What the endpoints of one server share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.server.access import Access
    from poolkeeper.server.activity import Activity
    from poolkeeper.server.lifecycle import Lifecycle
    from poolkeeper.server.limits import Limits
    from poolkeeper.server.metrics import ServerMetrics
    from poolkeeper.server.neon.identity import Identity
    from poolkeeper.server.operations.watch import Watches
    from poolkeeper.server.operations.work import OperationsWork
    from poolkeeper.server.outages import OutageHistory
    from poolkeeper.server.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Parts:
    """Made once per server, before its first request."""

    pool: ConnectionPoolManager
    settings: ServerSettings
    lifecycle: Lifecycle
    access: Access
    metrics: ServerMetrics
    activity: Activity
    outages: OutageHistory
    identity: Identity
    limits: Limits
    operations: OperationsWork
    watches: Watches
