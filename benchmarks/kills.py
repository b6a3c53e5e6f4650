"""Does a load arrive whole when its worker and its database are killed again and again?"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import asyncpg

from benchmarks.common.machine import describe, sentence
from benchmarks.common.measuring import Figure
from benchmarks.common.orders import Source, flights, orders
from benchmarks.common.report import figure, table
from poolkeeper.testing.embedded import FaultyPostgres

if TYPE_CHECKING:
    from collections.abc import Sequence

GOAL_SECONDS = 2.0
WHOLE = (
    "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text,"
    " coalesce(sum(hashtextextended(t::text, 1)::numeric), 0)::text FROM {} t"
)
"""Rows and two hashes that do not depend on their order."""


@dataclass(frozen=True)
class Kill:
    """One kill and what it cost.

    Attributes:
        victim: Worker or database.
        at: Rows committed when it came.
        down: Seconds until PostgreSQL took connections again; 0 for a worker.
        lost: Seconds from the kill, or from the return of PostgreSQL, to the next committed chunk.
    """

    victim: str
    at: int
    down: float
    lost: float


class Trial:
    """One load under fire."""

    def __init__(self, server: FaultyPostgres, source: Source) -> None:
        self.server = server
        self.source = source
        self.worker = self._start()
        self.started = 1

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "poolkeeper", "load", str(self.source.path), "--into",
             self.source.table, "--null", self.source.null, "--quiet"],
            env={**os.environ, "DATABASE_URL": self.server.dsn()},
        )  # fmt: skip

    async def look(self) -> tuple[int, int, str]:
        """Chunks, rows and state, whatever the server is going through."""
        while True:
            try:
                connection = await asyncpg.connect(self.server.dsn(), timeout=2)
            except (OSError, asyncpg.PostgresError, TimeoutError):
                await asyncio.sleep(0.005)
                continue
            try:
                row = await connection.fetchrow(
                    "SELECT seq, rows_done, state FROM poolkeeper.operations"
                )
            except asyncpg.PostgresError:
                row = None
            finally:
                await connection.close()
            if row is not None:
                return tuple(row)
            await asyncio.sleep(0.01)

    async def until(self, condition: Any) -> tuple[int, int, str]:
        while True:
            seen = await self.look()
            if condition(seen):
                return seen
            if self.worker.poll() not in (None, 0, -signal.SIGKILL):
                raise SystemExit(f"the worker ended with {self.worker.returncode}")
            await asyncio.sleep(0.005)

    async def kill(self, victim: str) -> Kill:
        seq, rows, _ = await self.look()
        began = perf_counter()
        down = 0.0
        if victim == "worker":
            self.worker.kill()
            self.worker.wait()
            # at once, as a supervisor would
            self.worker = self._start()
            self.started += 1
        else:
            await asyncio.to_thread(self.server.crash)
            await asyncio.to_thread(self.server.start)
            down = perf_counter() - began
        # a chunk may have been committed between the look and the kill
        seq = max(seq, (await self.look())[0])
        await self.until(lambda seen: seen[0] > seq or seen[2] == "done")
        return Kill(victim, rows, down, perf_counter() - began - down)

    async def run(self, kills: int, rows: int) -> list[Kill]:
        found = []
        for number in range(2 * kills):
            goal = rows * (number + 1) // (2 * kills + 2)
            await self.until(lambda seen, goal=goal: seen[1] >= goal or seen[2] == "done")
            found.append(await self.kill("worker" if number % 2 else "database"))
            print(f"- {found[-1]}", flush=True)
        await self.until(lambda seen: seen[2] == "done")
        await asyncio.to_thread(self.worker.wait)
        return found


async def whole(server: FaultyPostgres, name: str) -> tuple[Any, ...]:
    connection = await asyncpg.connect(server.dsn())
    try:
        return tuple(await connection.fetchrow(WHOLE.format(name)))
    finally:
        await connection.close()


def reference(server: FaultyPostgres, source: Source) -> float:
    """The same file loaded by psql, in one piece; seconds."""
    name = f"{source.table}_by_psql"
    server.psql(source.create.replace(source.table, name, 1))
    began = perf_counter()
    subprocess.run(
        [server.binaries.program("psql"), "-q", "-d", server.dsn(), "-c",
         f"\\copy {name} from '{source.path}' csv header null '{source.null}'"],
        check=True,
    )  # fmt: skip
    return perf_counter() - began


def trial(server: FaultyPostgres, source: Source, kills: int) -> tuple[list[Kill], bool]:
    print(f"\n## {source.name}: {source.path.stat().st_size / 1e6:,.0f} MB\n", flush=True)
    undisturbed = reference(server, source)
    expected = asyncio.run(whole(server, f"{source.table}_by_psql"))
    server.psql(source.create)
    began = perf_counter()
    under_fire = Trial(server, source)
    try:
        found = asyncio.run(under_fire.run(kills, expected[0]))
    finally:
        under_fire.worker.kill()
        under_fire.worker.wait()
    took = perf_counter() - began
    arrived = asyncio.run(whole(server, source.table))
    rows = [
        [
            victim,
            str(len(mine := [kill for kill in found if kill.victim == victim])),
            figure(Figure.of([kill.down for kill in mine])),
            figure(Figure.of([kill.lost for kill in mine])),
        ]
        for victim in ("worker", "database")
    ]
    print(table(["killed", "times", "down, s", "lost until the next chunk, s"], rows))
    print(
        f"\n{expected[0]:,} rows; psql undisturbed {undisturbed:.1f} s, under fire {took:.1f} s, "
        f"{under_fire.started} workers. Count and hashes "
        + ("equal the source." if arrived == expected else f"DIFFER: {arrived} for {expected}.")
    )
    server.psql(f"DROP TABLE {source.table}, {source.table}_by_psql")
    server.psql("DELETE FROM poolkeeper.operations")
    return found, arrived == expected


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks kills", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, five kills each")
    parser.add_argument("--rows", type=int, help="of the generated file; 10,000,000 by default")
    parser.add_argument("--kills", type=int, help="of each victim; 20 by default")
    parser.add_argument(
        "--flights", action="store_true", help="also 336,776 real flights, ten times"
    )
    parser.add_argument("--data", type=Path, help="keep the files to load here")
    parser.add_argument("--json", type=Path, help="write every kill here")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args(arguments)
    kills = options.kills or (5 if options.quick else 20)
    rows = options.rows or (1_000_000 if options.quick else 10_000_000)
    good, found = True, {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        data = options.data or directory
        data.mkdir(parents=True, exist_ok=True)
        sources = [orders(data, rows), *([flights(data)] if options.flights else [])]
        with FaultyPostgres(directory / "server", durable=True) as server:
            machine = describe(loop="asyncio", postgres=server.binaries.version)
            print(f"# kills\n\n{sentence(machine)} fsync on.", flush=True)
            for source in sources:
                found[source.name], whole_ = trial(server, source, kills)
                late = [kill for kill in found[source.name] if kill.lost > GOAL_SECONDS]
                good = good and whole_ and not late
    if options.json:
        cells = {name: [asdict(kill) for kill in kills_] for name, kills_ in found.items()}
        options.json.write_text(json.dumps({"machine": machine, "kills": cells}, indent=2) + "\n")
    return int(options.strict and not good)


if __name__ == "__main__":
    sys.exit(main())
