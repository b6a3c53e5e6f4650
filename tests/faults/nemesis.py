"""Breaks a server and the way to it, at random and reproducibly: one fault after another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psutil

from poolkeeper.embedded import EmbeddedPostgresError
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.history import History
from poolkeeper.testing.proxy import Direction, FaultProxy, Link, Segment, Verdict

APPLICATION = "chaos"

Fault = Callable[["Nemesis"], Awaitable[bool]]
FAULTS: dict[str, Fault] = {}
"""Name -> what breaks something, and mends it again where it does not mend by itself. False: there
was nothing to break."""

AT_MOST_SECONDS = 1.0
"""How long a fault that strikes a certain message waits for one to come by."""


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


class Nemesis:
    """Chooses faults by a seed, makes them, and notes those that were made.

    The seed decides the order of faults, how long each lasts and the pauses between them; which
    statement it strikes depends on the clients.
    """

    def __init__(
        self, server: FaultyPostgres, proxy: FaultProxy, history: History, seed: int
    ) -> None:
        self.server = server
        self.proxy = proxy
        self.rng = random.Random()
        """For the fault at hand. How often it is asked must not change what comes next."""
        self.made = 0
        self._history = history
        self._seed = seed
        self._order = random.Random(f"nemesis/{seed}")
        self._deck: list[str] = []
        self._drawn = 0

    def draw(self) -> str:
        """The next fault's name. Each comes once before any comes again."""
        if not self._deck:
            self._deck = sorted(FAULTS)
            self._order.shuffle(self._deck)
        self._drawn += 1
        self.rng.seed(f"nemesis/{self._seed}/{self._drawn}")
        return self._deck.pop()

    async def strike(self) -> None:
        """Make the next fault."""
        name = self.draw()
        began = self._history.note("fault begins", name).index
        if await FAULTS[name](self):
            self._history.fault(name, began=began)
            self.made += 1

    async def rest(self, least: float, most: float) -> None:
        """A pause between two faults, in which clients get on."""
        await asyncio.sleep(self._order.uniform(least, most))

    async def lasting(self) -> None:
        """A fault lasts: mostly shorter than anybody would notice, now and then longer."""
        long = self.rng.random() < 0.1
        await asyncio.sleep(self.rng.uniform(1.0, 3.5) if long else self.rng.uniform(0.02, 0.4))

    def some_links(self) -> list[Link]:
        """One or more of the open connections; none if there is none."""
        links = [link for link in self.proxy.links if link.backend_pid is not None]
        if not links:
            return []
        return self.rng.sample(links, self.rng.randint(1, len(links)))

    async def mend(self) -> None:
        """Nothing is broken any more. Connections that lost bytes are cut."""
        await asyncio.to_thread(self.server.thaw)
        await asyncio.to_thread(self.server.start)
        await self.proxy.heal(links=True)


# The server ---------------------------------------------------------------------------------


async def _down(nemesis: Nemesis, stop: Callable[[], None]) -> bool:
    try:
        await asyncio.to_thread(stop)
        await nemesis.lasting()
    finally:
        await asyncio.to_thread(nemesis.server.start)
    return True


@fault
async def crash(nemesis: Nemesis) -> bool:
    return await _down(nemesis, nemesis.server.crash)


@fault
async def stop_immediate(nemesis: Nemesis) -> bool:
    return await _down(nemesis, lambda: nemesis.server.stop("immediate"))


@fault
async def stop_fast(nemesis: Nemesis) -> bool:
    return await _down(nemesis, lambda: nemesis.server.stop("fast"))


@fault
async def freeze(nemesis: Nemesis) -> bool:
    try:
        await asyncio.to_thread(nemesis.server.freeze)
        await nemesis.lasting()
    finally:
        await asyncio.to_thread(nemesis.server.thaw)
    return True


@fault
async def freeze_one_backend(nemesis: Nemesis) -> bool:
    pid = _some_backend(nemesis)
    if pid is None:
        return False
    try:
        await asyncio.to_thread(nemesis.server.freeze, pid)
        await nemesis.lasting()
    except ProcessLookupError:
        return False
    finally:
        # whoever ended it meanwhile, it cannot go before it runs again
        with suppress(ProcessLookupError):
            await asyncio.to_thread(nemesis.server.thaw, pid)
    return True


@fault
async def kill_one_backend(nemesis: Nemesis) -> bool:
    """The postmaster answers by restarting all of them."""
    pid = _some_backend(nemesis)
    if pid is None:
        return False
    try:
        await asyncio.to_thread(nemesis.server.kill_backend, pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
    return True


@fault
async def terminate_backends(nemesis: Nemesis) -> bool:
    try:
        told = await asyncio.to_thread(
            nemesis.server.terminate_backends, application_name=APPLICATION
        )
    except EmbeddedPostgresError:
        # it is still recovering from a killed backend, and has none to end
        return False
    return told > 0


def _some_backend(nemesis: Nemesis) -> int | None:
    links = nemesis.some_links()
    return links[0].backend_pid if links else None


# The network --------------------------------------------------------------------------------


@fault
async def reset(nemesis: Nemesis) -> bool:
    links = nemesis.some_links()
    nemesis.proxy.reset(links)
    return bool(links)


@fault
async def hang_up(nemesis: Nemesis) -> bool:
    links = nemesis.some_links()
    nemesis.proxy.hang_up(links)
    return bool(links)


@fault
async def silence_some(nemesis: Nemesis) -> bool:
    """They stay silent: only the pool can find out and leave them."""
    links = nemesis.some_links()
    nemesis.proxy.silence(links)
    return bool(links)


@fault
async def silence_one_way(nemesis: Nemesis) -> bool:
    """What is sent arrives, and no answer does; or the other way round."""
    direction = nemesis.rng.choice([Direction.TO_SERVER, Direction.TO_CLIENT])
    links = nemesis.some_links()
    nemesis.proxy.silence(links, direction=direction)
    return bool(links)


@fault
async def silence_all(nemesis: Nemesis) -> bool:
    try:
        nemesis.proxy.silence()
        await nemesis.lasting()
    finally:
        await nemesis.proxy.heal(links=True)
    return True


@fault
async def hold(nemesis: Nemesis) -> bool:
    links = None if nemesis.rng.random() < 0.5 else nemesis.some_links()
    try:
        nemesis.proxy.hold(links)
        await nemesis.lasting()
    finally:
        nemesis.proxy.release()
    return links is None or bool(links)


@fault
async def latency(nemesis: Nemesis) -> bool:
    try:
        nemesis.proxy.shape(latency=nemesis.rng.uniform(0.01, 0.1), jitter=0.02, slice_bytes=7)
        await nemesis.lasting()
    finally:
        nemesis.proxy.shape()
    return True


@fault
async def refuse(nemesis: Nemesis) -> bool:
    try:
        await nemesis.proxy.refuse()
        nemesis.proxy.reset(nemesis.some_links())
        await nemesis.lasting()
    finally:
        await nemesis.proxy.accept()
    return True


@fault
async def flap(nemesis: Nemesis) -> bool:
    try:
        for _ in range(nemesis.rng.randint(2, 4)):
            await nemesis.proxy.refuse()
            nemesis.proxy.reset()
            await asyncio.sleep(nemesis.rng.uniform(0.02, 0.2))
            await nemesis.proxy.accept()
            await asyncio.sleep(nemesis.rng.uniform(0.02, 0.2))
    finally:
        await nemesis.proxy.accept()
    return True


# One message --------------------------------------------------------------------------------


def _is_commit(segment: Segment) -> bool:
    return segment.direction is Direction.TO_SERVER and "commit" in (segment.text or "").lower()


async def _strike_at(nemesis: Nemesis, policy: Callable[[Segment], object]) -> bool:
    """Put a policy in force until it has struck; whether it did in time."""
    struck = asyncio.get_running_loop().create_future()

    async def once(segment: Segment) -> Verdict:
        verdict = Verdict.PASS if struck.done() else policy(segment)
        if verdict is not Verdict.PASS and not struck.done():
            struck.set_result(None)
        return verdict

    nemesis.proxy.policy = once
    done, _waiting = await asyncio.wait({struck}, timeout=AT_MOST_SECONDS)
    nemesis.proxy.policy = None
    return bool(done)


@fault
async def lose_a_commit(nemesis: Nemesis) -> bool:
    return await _strike_at(
        nemesis, lambda segment: Verdict.LOSE if _is_commit(segment) else Verdict.PASS
    )


@fault
async def lose_the_answer_to_a_commit(nemesis: Nemesis) -> bool:
    asked: set[Link] = set()

    def policy(segment: Segment) -> Verdict:
        if _is_commit(segment):
            asked.add(segment.link)
        elif segment.link in asked and segment.direction is Direction.TO_CLIENT:
            return Verdict.LOSE
        return Verdict.PASS

    return await _strike_at(nemesis, policy)


@fault
async def drop_the_answer_to_a_commit(nemesis: Nemesis) -> bool:
    """The connection goes silent at the worst moment."""
    asked: set[Link] = set()

    def policy(segment: Segment) -> Verdict:
        if _is_commit(segment):
            asked.add(segment.link)
        elif segment.link in asked and segment.direction is Direction.TO_CLIENT:
            return Verdict.DROP
        return Verdict.PASS

    return await _strike_at(nemesis, policy)


@fault
async def crash_at_a_commit(nemesis: Nemesis) -> bool:
    """All of the server dies while it works on a COMMIT that has reached it."""
    arrived = nemesis.proxy.wait_for_segment(_is_commit)
    done, _waiting = await asyncio.wait({arrived}, timeout=AT_MOST_SECONDS)
    if not done:
        arrived.cancel()
        return False
    return await crash(nemesis)
