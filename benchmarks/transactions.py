"""What does exactly-once cost over a plain transaction of one insert, with fsync on?"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from benchmarks.common.machine import describe, sentence
from benchmarks.common.measuring import Figure, without_collections
from benchmarks.common.report import Goal, figure, table
from poolkeeper import create_pool
from poolkeeper.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

DRIVERS = ("asyncpg", "psycopg")
TABLE = "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL)"
INSERT = {
    "asyncpg": ("INSERT INTO item (text) VALUES ($1)", "some text"),
    "psycopg": ("INSERT INTO item (text) VALUES (%s)", ("some text",)),
}
SELECT = "SELECT 1"
GOAL = 1.10
WRITE = "one insert"
READ = "one SELECT 1, read-only"


@dataclass(frozen=True)
class Effort:
    """Pairs of a round; one pair is a plain and an exactly-once transaction, in turn."""

    rounds: int
    pairs: int


FULL = Effort(rounds=7, pairs=800)
QUICK = Effort(rounds=3, pairs=200)


class Ways:
    """The same transaction with and without ``run_transaction``, on one pool of one connection."""

    def __init__(self, driver: str, pool: Any) -> None:
        self._pool = pool
        self._insert = INSERT[driver]

    async def _write(self, connection: Any) -> None:
        await connection.execute(*self._insert)

    async def _read(self, connection: Any) -> None:
        await connection.execute(SELECT)

    async def plain(self) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await self._write(connection)

    async def exactly_once(self) -> None:
        await self._pool.run_transaction(self._write)

    async def plain_read(self) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await self._read(connection)

    async def read(self) -> None:
        await self._pool.run_transaction(self._read, readonly=True)


@dataclass
class Cell:
    """Seconds of each way in one round: median latency, and CPU of the client per transaction."""

    plain: float
    ours: float
    plain_cpu: float
    ours_cpu: float


async def measure(
    plain: Callable[[], Awaitable[None]], ours: Callable[[], Awaitable[None]], pairs: int
) -> Cell:
    """Alternate the two, so that whatever the disk and the machine do hits both alike."""
    latencies: tuple[list[float], list[float]] = ([], [])
    cpu = [0.0, 0.0]
    ways = (plain, ours)
    for _ in range(pairs // 10):
        await plain()
        await ours()
    with without_collections():
        for pair in range(pairs):
            # Who is first changes: the second of two commits may find the disk busy.
            for way in (0, 1) if pair % 2 else (1, 0):
                burnt, began = process_time(), perf_counter()
                await ways[way]()
                latencies[way].append(perf_counter() - began)
                cpu[way] += process_time() - burnt
    return Cell(*(_median(values) for values in latencies), *(spent / pairs for spent in cpu))


def _median(values: Sequence[float]) -> float:
    return Figure.of(values).median


async def run(url: str, effort: Effort) -> dict[str, dict[str, list[Cell]]]:
    results: dict[str, dict[str, list[Cell]]] = {}
    for driver in DRIVERS:
        cells = results[driver] = {WRITE: [], READ: []}
        async with create_pool(
            url.replace("postgresql", f"postgresql+{driver}", 1), min_size=1, max_size=1
        ) as pool:
            ways = Ways(driver, pool)
            for _ in range(effort.rounds):
                cells[WRITE].append(await measure(ways.plain, ways.exactly_once, effort.pairs))
                cells[READ].append(await measure(ways.plain_read, ways.read, effort.pairs))
    return results


def report(results: dict[str, dict[str, list[Cell]]]) -> list[Goal]:
    rows = []
    goals = []
    for driver, kinds in results.items():
        for kind, cells in kinds.items():
            ratio = Figure.of_ratios([c.ours for c in cells], [c.plain for c in cells])
            rows.append([
                f"{driver}, {kind}",
                figure(Figure.of([c.plain for c in cells]), 1e6),
                figure(Figure.of([c.ours for c in cells]), 1e6),
                figure(ratio),
                figure(Figure.of([c.ours_cpu - c.plain_cpu for c in cells]), 1e6),
            ])  # fmt: skip
            if kind == WRITE:
                goals.append(Goal(f"{driver}, {kind}: ÷ plain", ratio, GOAL, at_least=False))
    header = ["transaction of", "plain µs", "run_transaction µs", "ratio", "CPU µs more"]
    print(table(header, rows))
    print()
    print(table(["goal", "", "measured", ""], [goal.row() for goal in goals]))
    return goals


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks transactions", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--json", type=Path, help="write every cell of every round here")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args(arguments)
    logging.getLogger("poolkeeper").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory), durable=True)
        with server:
            machine = describe(loop=options.loop, postgres=server.binaries.version)
            print(f"# transactions\n\n{sentence(machine)} fsync on.\n")
            results = _run(options.loop, server.dsn(), QUICK if options.quick else FULL)
    goals = report(results)
    if options.json:
        cells = {
            driver: {kind: [vars(cell) for cell in cells] for kind, cells in kinds.items()}
            for driver, kinds in results.items()
        }
        options.json.write_text(json.dumps({"machine": machine, "cells": cells}, indent=2) + "\n")
    return int(options.strict and not all(goal.reached for goal in goals))


def _run(loop: str, url: str, effort: Effort) -> dict[str, dict[str, list[Cell]]]:
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_prepared(url, effort))


async def _prepared(url: str, effort: Effort) -> dict[str, dict[str, list[Cell]]]:
    async with create_pool(url, min_size=1, max_size=1) as pool:
        await pool.execute(TABLE)
    return await run(url, effort)


if __name__ == "__main__":
    sys.exit(main())
