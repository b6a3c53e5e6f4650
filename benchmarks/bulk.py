"""How fast are load and export beside psql's \\copy with fsync on, and with how much memory?"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.common.machine import describe, sentence
from benchmarks.common.measuring import Figure
from benchmarks.common.orders import Source, flights, orders
from benchmarks.common.report import Goal, figure, table
from poolkeeper.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOAD_GOAL = EXPORT_GOAL = 0.85
ROWS = 10_000_000
QUICK_ROWS = 1_000_000


@dataclass(frozen=True)
class Pair:
    """One round: seconds of each whole process, and the most memory ours took."""

    what: str
    psql: float
    ours: float
    peak_mib: float

    @property
    def ratio(self) -> float:
        return self.psql / self.ours


class Bench:
    """A server, and what is run against it."""

    def __init__(self, server: EmbeddedPostgres, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self._psql = [server.binaries.program("psql"), "--no-psqlrc", "-q", "-v", "ON_ERROR_STOP=1"]

    def sql(self, text: str) -> str:
        command = [*self._psql, "-At", "-d", self.server.dsn(), "-c", text]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def psql(self, meta: str) -> float:
        began = perf_counter()
        subprocess.run([*self._psql, "-d", self.server.dsn(), "-c", meta], check=True)
        return perf_counter() - began

    def poolkeeper(self, *arguments: str) -> tuple[float, float]:
        """Seconds and peak MiB of one command."""
        # Installed packages come compiled; where this is set, a checkout is compiled at each start.
        compiled = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        began = perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "poolkeeper", *arguments, "--quiet"],
            env={**compiled, "DATABASE_URL": self.server.dsn()},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"poolkeeper {' '.join(arguments)} ended with {process.returncode}")
        return perf_counter() - began, usage.ru_maxrss / 1024

    def load(self, source: Source, turn: int) -> Pair:
        """Both load the file into a new table; who is first changes from round to round."""

        def empty() -> None:
            self.sql(f"DROP TABLE IF EXISTS {source.table}; {source.create}")
            self.sql("CHECKPOINT")

        def theirs() -> float:
            empty()
            return self.psql(
                f"\\copy {source.table} from '{source.path}' csv header null '{source.null}'"
            )

        def ours() -> tuple[float, float]:
            empty()
            options = ("--into", source.table, "--null", source.null, "--again")
            return self.poolkeeper("load", str(source.path), *options)

        psql, (seconds, peak) = _in_turn(theirs, ours, turn)
        return Pair(f"load {source.name}", psql, seconds, peak)

    def export(self, source: Source, turn: int) -> Pair:
        """Both write the table to a file."""
        columns = self.sql(
            "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
            f" WHERE attrelid = '{source.table}'::regclass AND attnum > 0"
        )
        target = self.directory / "out.csv"

        def theirs() -> float:
            # what the other one has left to the kernel to write must not cost this one
            target.unlink(missing_ok=True)
            os.sync()
            query = f"select {columns} from {source.table}"
            return self.psql(f"\\copy ({query}) to '{target}' csv header")

        def ours() -> tuple[float, float]:
            os.sync()
            return self.poolkeeper("export", source.table, "--to", str(target), "--overwrite")

        psql, (seconds, peak) = _in_turn(theirs, ours, turn)
        return Pair(f"export {source.name}", psql, seconds, peak)


def _in_turn(
    theirs: Callable[[], float], ours: Callable[[], tuple[float, float]], turn: int
) -> tuple[float, tuple[float, float]]:
    if turn % 2:
        mine = ours()
        return theirs(), mine
    psql = theirs()
    return psql, ours()


def run(bench: Bench, sources: Sequence[Source], rounds: int) -> list[Pair]:
    pairs = []
    for source in sources:
        for turn in range(rounds):
            pairs.append(bench.load(source, turn))
            print(f"- {pairs[-1].what}: {pairs[-1].ratio:.2f}", flush=True)
        if source.key == "id":
            bench.sql(f"ALTER TABLE {source.table} ADD PRIMARY KEY ({source.key})")
            bench.sql(f"VACUUM ANALYZE {source.table}")
            for turn in range(rounds):
                pairs.append(bench.export(source, turn))
                print(f"- {pairs[-1].what}: {pairs[-1].ratio:.2f}", flush=True)
        bench.sql(f"DROP TABLE {source.table}")
    return pairs


def report(pairs: Sequence[Pair]) -> list[Goal]:
    rows, goals = [], []
    for what in dict.fromkeys(pair.what for pair in pairs):
        mine = [pair for pair in pairs if pair.what == what]
        ratio = Figure.of([pair.ratio for pair in mine])
        rows.append(
            [
                what,
                figure(Figure.of([pair.psql for pair in mine])),
                figure(Figure.of([pair.ours for pair in mine])),
                figure(ratio),
                figure(Figure.of([pair.peak_mib for pair in mine])),
            ]
        )
        bound = LOAD_GOAL if what.startswith("load") else EXPORT_GOAL
        goals.append(Goal(f"{what} ÷ psql's \\copy", ratio, bound, at_least=True))
    print("\n" + table(["", "psql \\copy, s", "poolkeeper, s", "speed ratio", "peak MiB"], rows))
    print("\n" + table(["goal", "bound", "median (low – high)", ""], [g.row() for g in goals]))
    return goals


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks bulk", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, three rounds")
    parser.add_argument("--rows", type=int, help="of the generated file; 10,000,000 by default")
    parser.add_argument("--rounds", type=int, help="pairs; 5 by default")
    parser.add_argument(
        "--flights", action="store_true", help="also 336,776 real flights, ten times"
    )
    parser.add_argument("--data", type=Path, help="keep the files to load here")
    parser.add_argument("--json", type=Path, help="write every round here")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args(arguments)
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    rounds = options.rounds or (3 if options.quick else 5)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        data = options.data or directory
        data.mkdir(parents=True, exist_ok=True)
        sources = [orders(data, rows), *([flights(data)] if options.flights else [])]
        with EmbeddedPostgres(directory / "server", durable=True) as server:
            machine = describe(loop="asyncio", postgres=server.binaries.version)
            size = sources[0].path.stat().st_size / 1e6
            print(f"# bulk\n\n{sentence(machine)} fsync on; {rows:,} orders, {size:,.0f} MB.\n")
            pairs = run(Bench(server, directory), sources, rounds)
    goals = report(pairs)
    if options.json:
        found = {"machine": machine, "pairs": [asdict(pair) for pair in pairs]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(options.strict and not all(goal.reached for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
