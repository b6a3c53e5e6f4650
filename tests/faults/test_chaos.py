"""Random faults under load: nothing lost, nothing doubled, nobody waits for ever."""

from __future__ import annotations

import pytest

from tests.faults.chaos import run_episode
from tests.faults.nemesis import FAULTS, Nemesis

SEED = 20261122


@pytest.mark.slow
@pytest.mark.asyncio
async def test_fifty_clients_lose_and_double_nothing_in_twenty_seconds_of_chaos(
    crashable_postgres,
):
    """Crashes, frozen processes, silent and broken connections; see also ``make soak``."""
    episode = await run_episode(crashable_postgres, seed=SEED, seconds=14, overtime=3.0)
    report = episode.report
    assert report.ok, str(report)
    assert len(report.faults) > len(FAULTS) / 2
    assert report.acked > 500
    # the ways out of doubt were taken: by the pool at once, by the client afterwards
    assert episode.resolved
    assert report.resolved


def test_the_same_seed_gives_the_same_faults():
    """In the same order, and each with the same dice."""

    def drawn(seed):
        nemesis = Nemesis(None, None, None, seed)
        return [(nemesis.draw(), nemesis.rng.random()) for _ in range(3 * len(FAULTS))]

    def disturbed(seed):
        nemesis = Nemesis(None, None, None, seed)
        for _ in range(3 * len(FAULTS)):
            yield nemesis.draw(), nemesis.rng.random()
            # a fault that finds many connections asks for more
            nemesis.rng.sample(range(1000), 500)

    assert drawn(1) == list(disturbed(1))
    assert drawn(1) != drawn(2)
    names = [name for name, _dice in drawn(1)]
    assert sorted(names[: len(FAULTS)]) == sorted(FAULTS)
