"""Faults in a sequence that a seed decides: the same seed, the same sequence.

For chaos, and for a network that comes and goes::

    schedule = Schedule(seed=7)
    await schedule.run(proxy, steps=20)          # any fault, every 0.05 to 0.5 s

    await Schedule.flapping(seed=7).run(proxy, steps=5)

What the seed cannot decide is where the program under test is when a fault comes. Where that
matters, let a policy of the proxy break one segment after the other.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from poolkeeper.testing.proxy import FaultProxy, Link

    Fault = Callable[[FaultProxy, Sequence[Link]], Awaitable[None] | None]


class Step(NamedTuple):
    """One fault of a sequence.

    Attributes:
        delay: Seconds of peace before it.
        fault: Its name.
        lasting: Seconds until everything is healed.
        share: Which part of the open links it hits, where it hits links: above 0, up to 1.
        pick: Seed of the choice of those links.
    """

    delay: float
    fault: str
    lasting: float
    share: float
    pick: int

    def choose(self, links: Sequence[Link]) -> list[Link]:
        """The links it hits: at least one, if there is one."""
        count = min(len(links), max(1, round(self.share * len(links))))
        chosen = random.Random(self.pick).sample(range(len(links)), count)
        return [links[index] for index in sorted(chosen)]


async def _refuse(proxy: FaultProxy, links: Sequence[Link]) -> None:
    del links
    await proxy.refuse()


async def _cut(proxy: FaultProxy, links: Sequence[Link]) -> None:
    del links
    await proxy.refuse()
    proxy.reset()


def _silence_all(proxy: FaultProxy, links: Sequence[Link]) -> None:
    del links
    proxy.silence()


def _slow(proxy: FaultProxy, links: Sequence[Link]) -> None:
    del links
    proxy.shape(latency=0.02, jitter=0.02, slice_bytes=7)


FAULTS: Final[Mapping[str, Fault]] = {
    "refuse": _refuse,
    "cut": _cut,
    "reset": lambda proxy, links: proxy.reset(links),
    "hang_up": lambda proxy, links: proxy.hang_up(links),
    "silence": lambda proxy, links: proxy.silence(links),
    "silence_all": _silence_all,
    "hold": lambda proxy, links: proxy.hold(links),
    "slow": _slow,
}
"""What a schedule does if it is told nothing else. `cut`: no network, old connections reset."""


class Schedule:
    """An endless sequence of steps; each iteration begins anew, with the same steps.

    Args:
        seed: Decides everything.
        faults: By name; a fault is called, and awaited if it returns something to await, with the
            proxy and the links the step hits.
        every: Seconds of peace before a fault: least and most.
        lasting: Seconds a fault lasts: least and most.
    """

    def __init__(
        self,
        seed: int,
        *,
        faults: Mapping[str, Fault] = FAULTS,
        every: tuple[float, float] = (0.05, 0.5),
        lasting: tuple[float, float] = (0.05, 0.5),
    ) -> None:
        if not faults:
            raise ValueError("A schedule needs a fault. Suggestion: leave out faults= for all.")
        self.seed = seed
        self.faults = dict(faults)
        self._every = every
        self._lasting = lasting

    @classmethod
    def flapping(cls, seed: int = 0, *, up: float = 0.5, down: float = 0.5) -> Self:
        """The network comes and goes: `up` seconds there, `down` seconds refused and reset."""
        return cls(seed, faults={"cut": _cut}, every=(up, up), lasting=(down, down))

    def __repr__(self) -> str:
        return f"<Schedule seed={self.seed}, {len(self.faults)} faults>"

    def __iter__(self) -> Iterator[Step]:
        dice = random.Random(self.seed)
        names = sorted(self.faults)
        while True:
            yield Step(
                dice.uniform(*self._every),
                dice.choice(names),
                dice.uniform(*self._lasting),
                1.0 - dice.random(),
                dice.getrandbits(32),
            )

    async def run(
        self,
        proxy: FaultProxy,
        *,
        steps: int,
        begun: Callable[[Step], object] | None = None,
    ) -> None:
        """Carry out the first `steps`; each ends with `proxy.heal(links=True)`, also if cancelled.

        `begun` is called with each step when its fault is there: to report it.
        """
        for _, step in zip(range(steps), self, strict=False):
            await asyncio.sleep(step.delay)
            try:
                waiting = self.faults[step.fault](proxy, step.choose(proxy.links))
                if inspect.isawaitable(waiting):
                    await waiting
                if begun is not None:
                    begun(step)
                await asyncio.sleep(step.lasting)
            finally:
                await proxy.heal(links=True)
