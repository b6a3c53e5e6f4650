"""Background duties of an open pool: one each, all with the same start and stop."""

from poolkeeper.keepers.hosts import HostsKeeper
from poolkeeper.keepers.leaks import LeakKeeper
from poolkeeper.keepers.ledger import LedgerKeeper
from poolkeeper.keepers.liveness import LivenessKeeper
from poolkeeper.keepers.reconnect import ReconnectKeeper
from poolkeeper.keepers.retirement import RetirementKeeper
from poolkeeper.keepers.service import Keeper
from poolkeeper.keepers.stalls import StallKeeper

__all__ = [
    "HostsKeeper",
    "Keeper",
    "LeakKeeper",
    "LedgerKeeper",
    "LivenessKeeper",
    "ReconnectKeeper",
    "RetirementKeeper",
    "StallKeeper",
]
