"""What does a pool cost, idle and with 1, 50 and 500 tasks on ten connections?"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import pstats
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from benchmarks.common import contenders as pools
from benchmarks.common.machine import describe, sentence
from benchmarks.common.measuring import Cell, Figure, run_tasks, without_collections
from benchmarks.common.report import Goal, figure, number, table
from poolkeeper.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

CONTENDERS: tuple[type[pools.Contender], ...] = (
    pools.RawAsyncpg,
    pools.Poolkeeper,
    pools.AsyncpgPool,
    pools.AsyncpgPoolWithoutReset,
    pools.RawPsycopg,
    pools.PsycopgPool,
    pools.SQLAlchemyEngine,
)
IDLE: tuple[type[pools.Contender], ...] = (
    pools.Poolkeeper,
    pools.AsyncpgPool,
    pools.AsyncpgPoolWithoutReset,
    pools.PsycopgPool,
    pools.SQLAlchemyEngine,
    pools.SQLAlchemyPool,
)


@dataclass(frozen=True)
class Effort:
    """How much is done: operations of one cell by number of tasks."""

    rounds: int
    borrowings: int
    operations: dict[int, int]


FULL = Effort(rounds=5, borrowings=2_000, operations={1: 1_200, 50: 3_000, 500: 5_000})
QUICK = Effort(rounds=3, borrowings=300, operations={1: 100, 50: 400, 500: 1_000})


class Results:
    """All cells of all rounds; figures are taken from them."""

    def __init__(self) -> None:
        self.idle: dict[str, list[float]] = {}
        self.idle_cpu: dict[str, list[float]] = {}
        self.cells: dict[int, dict[str, list[Cell]]] = {}

    def values(self, tasks: int, name: str, field: str) -> list[float]:
        return [getattr(cell, field) for cell in self.cells[tasks][name]]

    def figure(self, tasks: int, name: str, field: str) -> Figure:
        return Figure.of(self.values(tasks, name, field))

    def ratio(self, tasks: int, name: str, other: str) -> Figure:
        """Throughput of ``name`` ÷ throughput of ``other`` in the same round."""
        return Figure.of_ratios(
            self.values(tasks, name, "throughput"), self.values(tasks, other, "throughput")
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "idle_seconds": self.idle,
            "idle_cpu_seconds": self.idle_cpu,
            "cells": {
                str(tasks): {name: [asdict(cell) for cell in cells] for name, cells in row.items()}
                for tasks, row in self.cells.items()
            },
        }


class Field:
    """The contenders of one run, opened when first asked for and closed together."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._open: dict[type[pools.Contender], pools.Contender] = {}

    async def get(self, kind: type[pools.Contender]) -> pools.Contender:
        if kind not in self._open:
            contender = kind(self._url)
            await contender.open()
            self._stack.push_async_callback(contender.close)
            self._open[kind] = contender
        return self._open[kind]


async def measure_idle(field: Field, effort: Effort, results: Results) -> None:
    for kind in _rounds(IDLE, effort.rounds):
        contender = await field.get(kind)
        await contender.borrow(effort.borrowings // 10)
        with without_collections():
            cpu, started = process_time(), perf_counter()
            await contender.borrow(effort.borrowings)
            elapsed, cpu = perf_counter() - started, process_time() - cpu
        results.idle.setdefault(contender.name, []).append(elapsed / effort.borrowings)
        results.idle_cpu.setdefault(contender.name, []).append(cpu / effort.borrowings)


async def measure_contention(field: Field, effort: Effort, results: Results) -> None:
    for tasks, operations in effort.operations.items():
        cells = results.cells.setdefault(tasks, {})
        for kind in _rounds(CONTENDERS, effort.rounds):
            contender = await field.get(kind)
            cell = await _cell(contender, tasks, operations)
            cells.setdefault(contender.name, []).append(cell)


async def _cell(contender: pools.Contender, tasks: int, operations: int) -> Cell:
    working = contender.tasks(tasks)
    # Connections left alone meanwhile may want a check first; statements want to be prepared.
    await run_tasks(contender.operation, tasks=working, operations=max(working, 100))
    return await run_tasks(contender.operation, tasks=working, operations=operations)


def _rounds(kinds: Sequence[type[pools.Contender]], rounds: int) -> Iterator[type[pools.Contender]]:
    """A B C A B C …: a minute in which the machine was busy elsewhere hits everybody alike."""
    for _ in range(rounds):
        yield from kinds


def goals(results: Results) -> list[Goal]:
    mine, ratio = pools.Poolkeeper.name, results.ratio
    idle = Figure.of([seconds * 1e6 for seconds in results.idle[mine]])
    raw, asyncpg, psycopg = (
        kind.name for kind in (pools.RawAsyncpg, pools.AsyncpgPool, pools.PsycopgPool)
    )
    return [
        Goal("idle acquire + release, µs", idle, 5, at_least=False),
        Goal("50 tasks ÷ ten raw connections", ratio(50, mine, raw), 0.95, at_least=True),
        Goal("50 tasks ÷ asyncpg.Pool", ratio(50, mine, asyncpg), 2.5, at_least=True),
        Goal("50 tasks ÷ psycopg_pool", ratio(50, mine, psycopg), 2.5, at_least=True),
        Goal("500 tasks, p99 ÷ p50", results.figure(500, mine, "spread"), 2, at_least=False),
    ]


def report(results: Results) -> str:
    parts = [
        "## Idle pool: acquire + release",
        table(
            ["pool", "µs, median (min – max)", "of it CPU of the client"],
            [
                [name, figure(Figure.of(each), 1e6), figure(Figure.of(results.idle_cpu[name]), 1e6)]
                for name, each in results.idle.items()
            ],
        ),
    ]
    for tasks, cells in results.cells.items():
        plural = "task" if tasks == 1 else "tasks"
        parts += [
            f"## {tasks} {plural} on {pools.SIZE} connections: `{pools.QUERY}`",
            table(
                [
                    *("medians", "op/s (min – max)", "÷ raw", "CPU µs/op", "p50 ms", "p99 ms"),
                    *("p99÷p50", "longest ms", "wait p50 ms", "wait p99 ms"),
                ],
                [_row(results, tasks, name) for name in cells],
            ),
        ]
    parts += [
        "## Goals",
        table(["goal", "bound", "measured", ""], [goal.row() for goal in goals(results)]),
    ]
    return "\n\n".join(parts)


def _row(results: Results, tasks: int, name: str) -> list[str]:
    psycopg = name in {pools.RawPsycopg.name, pools.PsycopgPool.name}
    raw = pools.RawPsycopg.name if psycopg else pools.RawAsyncpg.name

    def of(field: str, scale: float = 1e3) -> str:
        return number(results.figure(tasks, name, field).median * scale)

    return [
        name,
        figure(results.figure(tasks, name, "throughput")),
        number(results.ratio(tasks, name, raw).median),
        of("cpu", 1e6),
        *(of("p50"), of("p99"), of("spread", 1), of("longest")),
        *(of("wait_p50"), of("wait_p99")),
    ]


async def measure(url: str, effort: Effort) -> Results:
    results = Results()
    async with AsyncExitStack() as stack:
        field = Field(url, stack)
        await measure_idle(field, effort, results)
        await measure_contention(field, effort, results)
    return results


async def profile(url: str, effort: Effort) -> str:
    """Where poolkeeper's own time goes; a profiler slows small functions down most."""
    texts = []
    async with AsyncExitStack() as stack:
        contender = await Field(url, stack).get(pools.Poolkeeper)
        await contender.borrow(100)
        profiler = cProfile.Profile()
        with profiler:
            await contender.borrow(effort.borrowings * 10)
        texts += ["## Idle acquire + release", _top(profiler)]
        profiler = cProfile.Profile()
        with profiler:
            await run_tasks(contender.operation, tasks=50, operations=effort.operations[50] * 3)
        texts += ["## 50 tasks on ten connections", _top(profiler)]
    return "\n\n".join(texts)


def _top(profiler: cProfile.Profile, functions: int = 25) -> str:
    stats = pstats.Stats(profiler).strip_dirs()
    calls: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in calls.values())
    ordered = sorted(calls.items(), key=lambda item: -item[1][2])[:functions]
    rows = [
        [f"{name} ({file}:{line})", f"{entry[1]:,}", f"{entry[2] / total:.1%}"]
        for (file, line, name), entry in ordered
    ]
    return table(["function", "calls", "own time"], rows)


def run(work: Callable[[], Coroutine[Any, Any, Any]], loop: str) -> Any:
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work())


async def _server_version(url: str) -> str:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        text: str = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return text


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks acquire", description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--quick", action="store_true", help="under 30 s, and less exact")
    parser.add_argument("--rounds", type=int, help="how often each cell is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every cell of every round")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("--profile", action="store_true", help="profile poolkeeper instead")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = Effort(options.rounds, effort.borrowings, effort.operations)
    # An exhausted pool is what is measured here, not news.
    logging.getLogger("poolkeeper").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory(prefix="poolkeeper-benchmark-") as directory,
        EmbeddedPostgres(directory, durable=False) as postgres,
    ):
        url = postgres.dsn()
        if options.profile:
            print(run(lambda: profile(url, effort), options.loop))
            return 0
        version = run(lambda: _server_version(url), options.loop)
        machine = describe(loop=options.loop, postgres=version)
        print(f"{sentence(machine)}\n", flush=True)
        started = time.monotonic()
        results = run(lambda: measure(url, effort), options.loop)
    print(f"{report(results)}\n\n{effort.rounds} rounds in {time.monotonic() - started:.0f} s.")
    reached = goals(results)
    if options.json:
        facts = {
            "machine": machine,
            "effort": asdict(effort),
            **results.to_dict(),
            "goals": [asdict(goal) | {"reached": goal.reached} for goal in reached],
        }
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return int(options.strict and not all(goal.reached for goal in reached))


if __name__ == "__main__":
    sys.exit(main())
