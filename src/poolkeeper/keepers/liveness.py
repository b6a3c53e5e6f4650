"""Ask a resting connection now and then whether the database is still there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.keepers.service import Keeper

if TYPE_CHECKING:
    from poolkeeper.pool import Pool


FRESH_SECONDS = 0.5
"""A connection heard from this recently needs no question."""


class LivenessKeeper(Keeper):
    """Probe the idle connection not heard from for longest, one per ``interval``.

    A silent peer sends no FIN and no RST; only a question finds it. The probed connection is out
    of circulation meanwhile, so a probe and a borrower never share one. With an idle pool a
    silent database is known to be down after at most ``interval`` + ``timeout`` seconds; half a
    second more if it fell silent right after a use.
    """

    def __init__(self, pool: Pool, interval: float, timeout: float) -> None:
        super().__init__(interval)
        self._pool = pool
        self._timeout = timeout

    async def perform(self) -> None:
        """Probe one connection, unless every idle one has just been heard from."""
        unheard_for = min(FRESH_SECONDS, self.interval / 2)
        slot = self._pool.state.reserve_for_probe(self._pool.now(), unheard_for)
        if slot is not None:
            await self._pool.errands.probe(slot, self._timeout)
