"""One crash of the server for many points: each is at its segment when it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from poolkeeper.testing.proxy import Direction, Segment, Verdict
from tests.faults.points import Point, World

ARRIVE_SECONDS = 30.0
CALL_SECONDS = 15.0
"""What a call may take through a crash: others are at theirs, and the server has to restart."""


class Crash:
    """Ends the server when all have come to their segment, and starts it again.

    Requests are delivered right before, so that the server may be anywhere in carrying them out;
    no answer to them is. Answers that were struck are not delivered either.

    Args:
        end: How the server ends.
        start: How it comes back.
        number: How many points there are.
    """

    def __init__(self, end: Callable[[], None], start: Callable[[], object], number: int) -> None:
        self._end = end
        self._start = start
        self._missing = number
        self._all_here = asyncio.Event()
        self._delivering = 0
        self._delivered = asyncio.Event()
        self._ended = asyncio.Event()
        self.took: list[float] = []

    async def strike(self, segment: Segment) -> Verdict:
        """The fault of each point."""
        self._missing -= 1
        request = segment.direction is Direction.TO_SERVER
        self._delivering += request
        if not self._missing:
            self._all_here.set()
        await self._all_here.wait()
        if request:
            # What it answers until the crash stays here.
            segment.link.hold(Direction.TO_CLIENT)
            await segment.link.deliver(segment)
            self._delivering -= 1
        if not self._delivering:
            self._delivered.set()
        await self._ended.wait()
        segment.link.reset()
        return Verdict.PASS if request else Verdict.LOSE

    async def happen(self) -> None:
        """Wait for all, end the server, start it."""
        try:
            async with asyncio.timeout(ARRIVE_SECONDS):
                await self._all_here.wait()
                await self._delivered.wait()
            began = monotonic()
            await asyncio.to_thread(self._end)
            self.took.append(monotonic() - began)
        finally:
            self._all_here.set()
            self._ended.set()
            began = monotonic()
            await asyncio.to_thread(self._start)
            self.took.append(monotonic() - began)


async def crash_once(world: World, points: Sequence[Point]) -> None:
    """Bring every point to its segment, crash the server there, and judge each."""
    crash = Crash(world.server.crash, world.server.start, len(points))
    try:
        await all_of(crash.happen(), *(world.run(p, crash.strike, CALL_SECONDS) for p in points))
    except BaseException as error:
        error.add_note(f"ending and starting the server took {crash.took} s")
        raise


async def all_of(*works: Awaitable[None]) -> None:
    """Run them to the end, then raise what failed."""
    results = await asyncio.gather(*works, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise BaseExceptionGroup(f"{len(errors)} of {len(results)}", errors)
