"""Clients that read and write without a pause, and the account of every call they made."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Literal

from poolkeeper.drill.contender import Fate
from poolkeeper.drill.terms import THINGS, thing

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from poolkeeper.drill.contender import Contender

HUNG = "hung"
WRONG = "wrong answer"
WATCH_SECONDS = 0.1
# a cancelled call gets so long to end when its pool is closed already
LEAVE_SECONDS = 2.0

Kind = Literal["read", "write", "slow"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: from when to when, and how it failed if it did."""

    kind: Kind
    started: float
    ended: float
    error: str | None = None


@dataclass(slots=True)
class Writes:
    """Numbers of the rows, by what their writers were told."""

    acknowledged: set[int] = field(default_factory=set)
    denied: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)


class _Client:
    """One task and the call it is in."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.since: float | None = None
        self.kind: Kind = "read"
        self.row = -1
        self.given_up = False


class Clients:
    """Half of them read, the other half insert rows that no other inserts, until told to stop.

    A call that takes longer than the clients' patience is counted as hung and given up: its task
    is cancelled, and another client takes the place, since a pool may not let the first one go.
    """

    def __init__(self, contender: Contender, *, seed: int = 0) -> None:
        self._contender = contender
        self._terms = contender.terms
        self._random = random.Random(seed)  # noqa: S311 - which row is read, no secrets
        self._rows = itertools.count()
        self._working: set[_Client] = set()
        self._given_up: set[asyncio.Task[None]] = set()
        self._watchdog: asyncio.Task[None] | None = None
        self._stopping = False
        self.calls: list[Call] = []
        self.writes = Writes()
        self.hung = 0
        self.errors = 0
        self.examples: dict[str, str] = {}
        """The first message of each type of error."""

    async def start(self) -> None:
        """Start, and return when there have been as many successes as there are clients."""
        for number in range(self._terms.clients):
            self._place("read" if number % 2 else "write")
        self._watchdog = asyncio.create_task(self._watch())
        while len(self.calls) - self.errors < self._terms.clients:  # noqa: ASYNC110 - and bounded
            await asyncio.sleep(0.01)

    def _place(self, kind: Kind) -> None:
        client = _Client()
        client.kind = kind
        client.task = asyncio.create_task(self._work(client))
        self._working.add(client)

    async def _work(self, client: _Client) -> None:
        step = self._read if client.kind == "read" else self._write
        while not self._stopping and not client.given_up:
            error = await step(client)
            if error is not None:
                await asyncio.sleep(self._terms.pause_after_error)
        self._working.discard(client)

    async def _read(self, client: _Client) -> str | None:
        key = self._random.randrange(THINGS)
        return await self._call(client, self._checked(key))

    async def _checked(self, key: int) -> None:
        if await self._contender.read(key) != thing(key):
            raise WrongAnswer

    async def _write(self, client: _Client) -> str | None:
        row = client.row = next(self._rows)
        was_sent = False

        def sent() -> None:
            nonlocal was_sent
            was_sent = True

        failure: list[BaseException] = []
        error = await self._call(client, self._contender.write(row, sent), failure)
        if client.given_up:
            return error
        if error is None:
            self.writes.acknowledged.add(row)
        elif self._contender.fate(failure[0], sent=was_sent) is Fate.UNKNOWN:
            self.writes.unknown.add(row)
        else:
            self.writes.denied.add(row)
        return error

    async def _call(
        self, client: _Client, call: Awaitable[None], failure: list[BaseException] | None = None
    ) -> str | None:
        client.since = started = monotonic()
        error = None
        try:
            await call
        except (Exception, asyncio.CancelledError) as problem:
            if client.task is not None and client.task.cancelling():
                raise
            error = WRONG if isinstance(problem, WrongAnswer) else type(problem).__name__
            self.examples.setdefault(error, str(problem))
            if failure is not None:
                failure.append(problem)
        client.since = None
        if not client.given_up:
            self._note(Call(client.kind, started, monotonic(), error))
        return error

    def _note(self, call: Call) -> None:
        self.calls.append(call)
        if call.error is not None:
            self.errors += 1

    async def slow_statement(self, seconds: float) -> None:
        """Run one slow statement and note how it went."""
        client = _Client()
        client.kind = "slow"
        await self._call(client, self._contender.sleep(seconds))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = monotonic()
            for client in list(self._working):
                if client.since is not None and now - client.since > self._terms.patience:
                    self._give_up(client, now)

    def _give_up(self, client: _Client, now: float) -> None:
        assert client.since is not None
        assert client.task is not None
        client.given_up = True
        self.hung += 1
        self._note(Call(client.kind, client.since, now, HUNG))
        if client.kind == "write":
            self.writes.unknown.add(client.row)
        self._working.discard(client)
        client.task.cancel()
        self._given_up.add(client.task)
        if not self._stopping:
            self._place(client.kind)

    def oldest_call(self) -> float | None:
        """When the call that has been going on for longest began."""
        return min((c.since for c in self._working if c.since is not None), default=None)

    def latest_success(self) -> float:
        """When the latest one was; there has been one once `start` has returned."""
        return next(c.ended for c in reversed(self.calls) if c.error is None and c.kind != "slow")

    async def stop(self) -> None:
        """Let each end its call, or be given up."""
        self._stopping = True
        while tasks := [client.task for client in self._working if client.task is not None]:
            await asyncio.wait(tasks, timeout=WATCH_SECONDS)
        if self._watchdog is not None:
            self._watchdog.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watchdog

    def abort(self) -> None:
        """Cancel everything, for a drill that ends before its time."""
        for task in (self._watchdog, *(client.task for client in self._working)):
            if task is not None:
                task.cancel()

    async def leave(self) -> int:
        """After the pool was closed: wait shortly for the calls given up; how many still hang."""
        if self._given_up:
            await asyncio.wait(self._given_up, timeout=LEAVE_SECONDS)
        for task in self._given_up:
            if task.done() and not task.cancelled():
                task.exception()
        return sum(not task.done() for task in self._given_up)


class WrongAnswer(Exception):
    """A read returned something else than what is stored."""
