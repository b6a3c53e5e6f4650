"""A contender without a database: it does what a test tells it to."""

import asyncio

from poolkeeper.drill.contender import Address, Contender, fate_by_sqlstate
from poolkeeper.drill.terms import Terms, thing


class Scripted(Contender):
    """Reads and writes succeed at once, unless a test puts something else in their place."""

    name = "scripted"
    bounded = True

    def __init__(self, terms: Terms | None = None) -> None:
        super().__init__(Address("postgresql://nobody@nowhere/", lambda: ""), terms or Terms())
        self.stored: list[int] = []

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def read(self, key: int) -> str:
        await asyncio.sleep(0.001)
        return thing(key)

    async def write(self, number, sent) -> None:
        await asyncio.sleep(0.001)
        sent()
        self.stored.append(number)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def fate(self, error, *, sent):
        return fate_by_sqlstate(error, sent=sent)
