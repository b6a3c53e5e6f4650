"""Timing many operations of many tasks, the same way for everybody."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from statistics import median
from time import perf_counter, process_time

Operation = Callable[[int], Awaitable[float]]
"""Borrow, query, give back. Takes the number of the task, returns when it had the connection."""


@dataclass(frozen=True)
class Cell:
    """One contender, one number of tasks, one round. Seconds; percentiles are nearest rank.

    ``cpu`` is this process's own time per operation: what is left of a figure on a busy machine.
    """

    throughput: float
    cpu: float
    p50: float
    p99: float
    longest: float
    wait_p50: float
    wait_p99: float

    @property
    def spread(self) -> float:
        return self.p99 / self.p50


@contextmanager
def without_collections() -> Iterator[None]:
    """Nobody pays for the garbage of the one before, and no collection lands in a short cell."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def run_tasks(operation: Operation, *, tasks: int, operations: int) -> Cell:
    """Start ``tasks`` at once; each does its equal share of ``operations``, one after another.

    A fixed amount of work and not a fixed time: in a fixed time, a request that starves would not
    appear in the figures at all.
    """
    each = max(1, operations // tasks)
    waits: list[float] = []
    latencies: list[float] = []

    async def work(task: int) -> None:
        for _ in range(each):
            began = perf_counter()
            acquired = await operation(task)
            ended = perf_counter()
            waits.append(acquired - began)
            latencies.append(ended - began)

    with without_collections():
        cpu, started = process_time(), perf_counter()
        await asyncio.gather(*(work(task) for task in range(tasks)))
        elapsed, cpu = perf_counter() - started, process_time() - cpu
    waits.sort()
    latencies.sort()
    return Cell(
        throughput=len(latencies) / elapsed,
        cpu=cpu / len(latencies),
        p50=percentile(latencies, 50),
        p99=percentile(latencies, 99),
        longest=latencies[-1],
        wait_p50=percentile(waits, 50),
        wait_p99=percentile(waits, 99),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[ceil(len(ordered) * percent / 100) - 1]


@dataclass(frozen=True)
class Figure:
    """The median of some rounds, and how far they were apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, numerators: Sequence[float], denominators: Sequence[float]) -> Figure:
        """Ratio first, median second: what slows a machine down slows down neighbours alike."""
        return cls.of([n / d for n, d in zip(numerators, denominators, strict=True)])
