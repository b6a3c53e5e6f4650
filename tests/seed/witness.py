"""What can be seen of a pool from outside: its events as they happen, its log, its health."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import structlog

from poolkeeper import ConnectionPoolManager
from poolkeeper.observability.health import HealthReport
from poolkeeper.observability.logs import configure_logging

PATIENCE = 60.0
"""Seconds until a test gives up waiting for something that never comes."""


class Witness:
    """Remembers every event of a pool and when it came."""

    def __init__(self, pool: ConnectionPoolManager) -> None:
        self.events: list[Any] = []
        self.times: list[float] = []
        self._news = asyncio.Event()
        pool.add_event_listener(self._note)

    def _note(self, event: Any) -> None:
        self.events.append(event)
        self.times.append(asyncio.get_running_loop().time())
        self._news.set()

    def named(self, *names: str) -> list[Any]:
        """The events of these names so far, in order."""
        return [event for event in self.events if event.name in names]

    async def saw(self, name: str, count: int = 1) -> float:
        """Wait until ``count`` events of that name have come; when the last of them came."""
        async with asyncio.timeout(PATIENCE):
            while len(found := self._times_of(name)) < count:
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    def _times_of(self, name: str) -> list[float]:
        pairs = zip(self.events, self.times, strict=True)
        return [time for event, time in pairs if event.name == name]


class HealthLog:
    """Health reports taken one after another, each with its time."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, HealthReport]] = []

    def between(self, start: float, end: float) -> list[HealthReport]:
        """The reports taken in that time."""
        return [report for time, report in self.reports if start < time < end]


@asynccontextmanager
async def health_watched(pool: ConnectionPoolManager) -> AsyncIterator[HealthLog]:
    """Ask the pool for its health all the time, as a load balancer would, only more often."""
    log = HealthLog()
    loop = asyncio.get_running_loop()

    async def watch() -> None:
        while True:
            log.reports.append((loop.time(), await pool.health_check()))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    try:
        yield log
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until_healthy(pool: ConnectionPoolManager) -> float:
    """Wait until the pool says that all is well again; when it did."""
    async with asyncio.timeout(PATIENCE):
        while (await pool.health_check()).status != "healthy":
            await asyncio.sleep(0.02)
    return asyncio.get_running_loop().time()


@contextmanager
def json_log(path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Log into a file as the server does; gives a function that reads the records back."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    before = structlog.get_config() if structlog.is_configured() else None
    with path.open("w", encoding="utf-8") as stream:
        configure_logging(stream=stream)
        try:
            yield lambda: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        finally:
            logging.captureWarnings(capture=False)
            root.handlers, _ = handlers, root.setLevel(level)
            structlog.reset_defaults()
            if before is not None:
                structlog.configure(**before)


def check_outage_log(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Check that the log tells one outage from beginning to end; give its last record."""
    story = [
        record
        for record in records
        if record["event"]
        in {"database_connection_lost", "reconnect_attempt", "database_reconnected"}
    ]
    names = [record["event"] for record in story]
    assert names[0] == "database_connection_lost"
    assert names[-1] == "database_reconnected"
    lost, *attempts, back = story
    assert {record["event"] for record in attempts} == {"reconnect_attempt"}
    assert [record["timestamp"] for record in story] == sorted(
        record["timestamp"] for record in story
    )
    assert lost["level"] == "error"
    assert 0 <= lost["detection_time_seconds"] < 5
    assert lost["connections_lost"] > 0
    assert [record["attempt"] for record in attempts] == list(range(1, len(attempts) + 1))
    assert all(record["delay_seconds"] >= 0 for record in attempts)
    # why the attempt before it failed
    assert all(record["error"] for record in attempts[1:])
    assert back["attempts"] == len(attempts)
    assert back["outage_seconds"] > 0
    return back


def measured(**facts: object) -> None:
    """Tell a person who looks (``pytest -rP``) what the machine did; nothing depends on it."""
    sys.stdout.write("measured: " + ", ".join(f"{k}={v}" for k, v in facts.items()) + "\n")
