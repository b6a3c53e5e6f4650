"""Replace connections that are old, close those nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.keepers.service import Keeper

if TYPE_CHECKING:
    from poolkeeper.pool import Pool

LONGEST_INTERVAL = 1.0
SHORTEST_INTERVAL = 0.05


class RetirementKeeper(Keeper):
    """Let the pool look at the age of its idle connections often enough for its limits."""

    def __init__(self, pool: Pool, *limits: float | None) -> None:
        shortest = min((limit for limit in limits if limit), default=LONGEST_INTERVAL)
        per_connection = shortest / max(1, pool.state.limits.max_size) / 2
        super().__init__(min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, per_connection)))
        self._pool = pool

    async def perform(self) -> None:
        """Retire what is due."""
        self._pool.housekeep()
