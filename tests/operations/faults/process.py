"""A worker in a process of its own: ``python -m tests.operations.faults.process URL LEASE``.

It says on standard output, a word a line, what is of interest: ``ready``, ``claimed``, ``fenced``
(a chunk is not committed, or not begun, because the claim was lost), ``follows``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import Self

from poolkeeper.operations import Step, runner
from poolkeeper.operations.store import Store
from tests.operations.faults.jobs import Custom, Fixed
from tests.operations.faults.world import manager_on


class Paced(Custom):
    """Goes on for as long as a test needs, a few milliseconds a row."""

    rows = 10_000

    @staticmethod
    async def step(connection, cursor, table, rows):
        n = cursor or 0
        await connection.execute(f"INSERT INTO {table} (n) SELECT {n} FROM pg_sleep(0.003)")
        return Step(n + 1, rows=1, done=n + 1 >= rows)


def _say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


async def _work(url: str, lease: float) -> None:
    manager = manager_on(url, stall_after=0.5)
    async with manager:
        operations = manager.operations
        operations.lease_seconds = lease
        operations.custom("count")(Paced.step)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        owner = operations._owner.id
        manager.add_event_listener(
            lambda event: _say("claimed") if event.name == "operation_claimed" else None
        )

        def see(report: runner.Report) -> None:
            if report.status.owner not in {owner, None}:
                _say("follows")

        _say(f"ready {owner}")
        await operations.work(concurrency=2, report=see, stop=stop)


class _Telling(Store):
    """Says when a chunk, or what should become one, finds that the claim was lost."""

    @staticmethod
    async def attach(*arguments, **options):
        status = await Store.attach(*arguments, **options)
        if status is None:
            _say("fenced")
        return status

    @staticmethod
    async def checkpoint(*arguments, **options):
        after = await Store.checkpoint(*arguments, **options)
        if after is None:
            _say("fenced")
        return after


def main() -> None:
    """Work until SIGTERM."""
    url, lease = sys.argv[1:3]
    runner.Store = _Telling
    # bytes of a load, rows of the others
    runner.ChunkSize = lambda sizing: Fixed(2_000 if sizing.smallest > 10_000 else 20)
    asyncio.run(_work(url, float(lease)))


class WorkerProcess:
    """One of them, seen from its parent.

    Attributes:
        said: Every word so far.
    """

    def __init__(self, url: str, lease: float) -> None:
        self._command = [sys.executable, "-m", "tests.operations.faults.process", url, f"{lease}"]
        self.said: list[str] = []
        self.owner = ""
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
        await self._reading

    async def start(self) -> None:
        """Start it, again if need be."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        before = len(self.said)
        self._reading = asyncio.create_task(self._read())
        await self.has_said("ready", before)
        self.owner = next(w for w in self.said[before:] if w.startswith("ready")).split()[1]

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()
        await self._reading

    async def has_said(self, word: str, since: int = 0) -> None:
        """Wait for a word."""
        async with self._news:
            await self._news.wait_for(
                lambda: any(said.startswith(word) for said in self.said[since:])
            )

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            async with self._news:
                self.said.append(line.decode().strip())
                self._news.notify_all()
        await self._process.wait()


if __name__ == "__main__":
    main()
