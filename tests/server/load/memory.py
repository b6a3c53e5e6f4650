"""The memory of a process over time."""

import asyncio
import statistics
from contextlib import asynccontextmanager

import psutil

MEBIBYTE = 1024 * 1024


class Memory:
    """Resident memory in MiB, looked at a few times a second."""

    def __init__(self) -> None:
        self.samples: list[float] = []

    @property
    def growth(self) -> float:
        """From the second quarter to the last one, by their medians: the first is warming up."""
        quarter = len(self.samples) // 4
        assert quarter, "too short to tell"
        before = self.samples[quarter : 2 * quarter]
        return statistics.median(self.samples[-quarter:]) - statistics.median(before)

    def __str__(self) -> str:
        first, last = self.samples[0], self.samples[-1]
        return f"{first:.1f} -> {last:.1f} MiB, at most {max(self.samples):.1f}"


@asynccontextmanager
async def memory_watched(pid: int):
    """Watch a process for the length of the block."""
    memory = Memory()
    process = psutil.Process(pid)

    async def watch():
        while True:
            memory.samples.append(process.memory_info().rss / MEBIBYTE)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(watch())
    try:
        yield memory
    finally:
        task.cancel()
        await asyncio.wait({task})
