"""Delete what the ledger of transactions need not remember any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.keepers.service import Keeper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONGEST_INTERVAL = 600.0
ROUNDS_PER_RETENTION = 10.0


class LedgerKeeper(Keeper):
    """Purge the ledger ten times per retention, every ten minutes at the least.

    So it holds at most a fifth more than what must be kept. Only pools that have run a transaction
    have this duty, and of all processes on a database one at a time performs it.
    """

    def __init__(self, purge: Callable[[], Awaitable[int]], retention: float) -> None:
        super().__init__(min(LONGEST_INTERVAL, retention / ROUNDS_PER_RETENTION))
        self._purge = purge

    async def perform(self) -> None:
        """Purge once, unless the pool has no connection to spare."""
        try:
            await self._purge()
        except (ConnectionPoolError, OSError):
            # An outage, or a pool that is closing: the next round will do.
            return
