"""Random faults under two worker processes: nothing lost, nothing doubled, all of it done."""

from __future__ import annotations

import pytest

from tests.operations.faults.chaos import FAULTS, run_episode

SEED = 20261130


@pytest.mark.slow
@pytest.mark.asyncio
async def test_two_workers_lose_and_double_nothing_in_ten_seconds_of_chaos(
    crashable_postgres, tmp_path, record_property
):
    """Loads, exports, backfills and steps; see also ``python -m tests.operations.faults.soak``."""
    least = len(FAULTS) // 2
    episode = await run_episode(crashable_postgres, tmp_path, seed=SEED, seconds=8, least=least)
    assert not episode.findings, str(episode)
    assert episode.operations >= 4
    assert episode.outages
    record_property("chaos", str(episode))
