"""Named points where a fake driver pauses, so that a test can put any two events in any order."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gate:
    """A point that tasks pass while it is open and stand at while it is closed.

    Every gate is open at first. ``arrivals`` counts everybody who ever came.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.arrivals = 0
        self._closed = False
        self._standing: deque[asyncio.Future[None]] = deque()
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many stand here now."""
        return sum(not place.done() for place in self._standing)

    def close(self) -> None:
        """Let nobody through from now on."""
        self._closed = True

    def open(self) -> None:
        """Let everybody through, those who stand here first."""
        self._closed = False
        self.let_through(len(self._standing))

    def let_through(self, count: int = 1) -> None:
        """Let ``count`` of those who stand here through, first come first; the gate stays as is."""
        while count and self._standing:
            place = self._standing.popleft()
            if not place.done():
                place.set_result(None)
                count -= 1

    def queue_up(self) -> asyncio.Future[None] | None:
        """Come to the gate: None means go on, otherwise await the place.

        Whoever owns the place may also end the wait with an exception.
        """
        self.arrivals += 1
        place = None
        if self._closed:
            place = asyncio.get_running_loop().create_future()
            self._standing.append(place)
        for count, watcher in self._watchers:
            if self.waiting >= count and not watcher.done():
                watcher.set_result(None)
        return place

    async def enter(self) -> None:
        """Pass, or wait until let through."""
        place = self.queue_up()
        if place is not None:
            await place

    async def reached(self, count: int = 1) -> None:
        """Wait until ``count`` tasks stand at the closed gate."""
        if self.waiting >= count:
            return
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (count, watcher)
        self._watchers.append(entry)
        try:
            await watcher
        finally:
            self._watchers.remove(entry)


class Gates:
    """Gates by name, made when first asked for."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    def __getitem__(self, name: str) -> Gate:
        if name not in self._gates:
            self._gates[name] = Gate(name)
        return self._gates[name]

    def __iter__(self) -> Iterator[Gate]:
        return iter(list(self._gates.values()))

    @contextmanager
    def closed(self, name: str) -> Iterator[Gate]:
        """Keep the gate ``name`` closed for a block of code."""
        gate = self[name]
        gate.close()
        try:
            yield gate
        finally:
            gate.open()
