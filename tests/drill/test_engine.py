"""One drill from its beginning to its end, of a pool that is made up."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from poolkeeper.drill.arena import Arena, Control
from poolkeeper.drill.engine import Drill, Pace, Prober, Progress
from poolkeeper.drill.faults import Back, Fault
from poolkeeper.drill.terms import Terms
from tests.drill.scripted import Scripted

TERMS = replace(Terms(), clients=4)


class Nowhere(Arena):
    """What was written is what the contender stored."""

    controls = Control(0)

    def __init__(self, contender):
        super().__init__()
        self._contender = contender

    async def __aenter__(self):
        return self

    def direct_url(self):
        return self._contender.address.url

    async def end_sessions(self):
        return 0

    async def forget_writes(self):
        self._contender.stored.clear()

    async def written(self):
        return Counter(self._contender.stored)


class Nothing(Fault):
    """It breaks nothing; calls that begin once it is healed take as long as the test says."""

    name = what = "nothing"
    seconds = 0.0
    needs = Control(0)
    back = Back.MEANWHILE

    def __init__(self, contender, pause):
        self._contender, self._pause = contender, pause

    async def begin(self, scene):
        """Nothing to do."""

    async def heal(self, scene):
        """From now on."""
        self._contender.pause = self._pause


class Pausing(Scripted):
    """Waits before each call as long as it is told to."""

    pause = 0.0

    async def read(self, key):
        await asyncio.sleep(self.pause)
        return await super().read(key)

    async def write(self, number, sent):
        await asyncio.sleep(self.pause)
        await super().write(number, sent)


async def drilled(pause, pace, terms=TERMS):
    """The report on a pool whose calls take so long after the fault."""
    contender = Pausing(terms)
    fault = Nothing(contender, pause)
    drill = Drill(
        fault, contender, Nowhere(contender), prober=Prober(), pace=pace, progress=Progress()
    )
    return await drill.run()


@pytest.mark.asyncio
async def test_a_pool_without_a_success_when_the_time_is_up_is_given_some_more():
    """A busy machine is late with it: a gap as long as it was, and no pool that is gone."""
    report = await drilled(1.0, Pace(before=0.1, after=0.5))
    assert report.recovered_after is not None
    assert report.broken_promises == []


@pytest.mark.asyncio
async def test_a_pool_that_serves_nobody_any_more_never_came_back():
    """Though calls that were under way at the fault did succeed."""
    terms = replace(TERMS, patience=0.5)
    report = await drilled(3600.0, Pace(before=0.1, after=0.1, wait=0.4), terms)
    assert report.recovered_after is None
    assert "never came back" in report.broken_promises
