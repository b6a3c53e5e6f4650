"""What does a SELECT by primary key cost over HTTP, and do probes answer in trouble?"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.common import http_contenders as servers
from benchmarks.common.http_health import Health, measure_health
from benchmarks.common.machine import describe, sentence
from benchmarks.common.measuring import Figure
from benchmarks.common.report import Goal, figure, number, table
from poolkeeper.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common.http_contenders import Cell, Contender

CONNECTIONS = 32
DOCS = Path(__file__).parents[1] / "docs" / "reference" / "http.md"
BEGIN, END = "<!-- http-table -->\n", "<!-- /http-table -->"

CONTENDERS: tuple[type[Contender], ...] = (
    servers.Sql,
    servers.FastAPIAsyncpg,
    servers.StarlettePsycopg,
    servers.Query,
    servers.Hello,
)


@dataclass(frozen=True)
class Effort:
    """How much is done: requests of one cell."""

    rounds: int
    requests: int
    probes: int


FULL = Effort(rounds=7, requests=16_000, probes=10_000)
QUICK = Effort(rounds=3, requests=4_000, probes=2_000)

Results = dict[str, list["Cell"]]


def measure(url: str, postmaster: int, effort: Effort, only: str | None) -> Results:
    """Rounds are interleaved: A B C A B C …, so that a busy minute hits everybody alike."""
    results: Results = {}
    kinds = [kind for kind in CONTENDERS if only is None or only in kind.name]
    with ExitStack() as stack:
        running = [stack.enter_context(kind(url)) for kind in kinds]
        for contender in running:
            _measure(contender, postmaster, effort.requests // 8)
        for _ in range(effort.rounds):
            for contender in running:
                cell = _measure(contender, postmaster, effort.requests)
                results.setdefault(contender.name, []).append(cell)
    return results


def _measure(contender: Contender, postmaster: int, count: int) -> Cell:
    return servers.measure(contender, postmaster, connections=CONNECTIONS, count=count)


def _figure(results: Results, name: str, field: str) -> Figure:
    return Figure.of([getattr(cell, field) for cell in results[name]])


def _ratio(results: Results, name: str, other: str) -> Figure:
    return Figure.of_ratios(
        [cell.throughput for cell in results[name]], [cell.throughput for cell in results[other]]
    )


def goals(results: Results, health: Sequence[Health]) -> list[Goal]:
    reached = []
    mine, peer = servers.Sql.name, servers.FastAPIAsyncpg.name
    if mine in results and peer in results:
        ratio = _ratio(results, mine, peer)
        reached.append(Goal("/sql ÷ FastAPI + asyncpg.Pool", ratio, 2, at_least=True))
    for each in health:
        what = f"{each.path}, {each.trouble}"
        reached += [
            Goal(f"{what}: requests/s", Figure.of(each.throughput), 1000, at_least=True),
            Goal(f"{what}: p99, ms", Figure.of(each.p99_ms), 10, at_least=False),
        ]
    return reached


def throughput_table(results: Results) -> str:
    peer = servers.FastAPIAsyncpg.name
    return table(
        [
            *("medians", "requests/s (min – max)", "÷ FastAPI (min – max)"),
            *("CPU µs", "PostgreSQL's", "p50 ms", "p99 ms"),
        ],
        [
            [
                name,
                figure(_figure(results, name, "throughput")),
                figure(_ratio(results, name, peer)) if peer in results else "",
                number(_figure(results, name, "cpu").median * 1e6),
                number(_figure(results, name, "database_cpu").median * 1e6),
                number(_figure(results, name, "p50").median * 1e3),
                number(_figure(results, name, "p99").median * 1e3),
            ]
            for name in results
        ],
    )


def health_table(health: Sequence[Health]) -> str:
    return table(
        ["path", "trouble", "status", "requests/s (min – max)", "p50 ms", "p99 ms (min – max)"],
        [
            [
                *(each.path, each.trouble, each.status, figure(Figure.of(each.throughput))),
                *(number(Figure.of(each.p50_ms).median), figure(Figure.of(each.p99_ms))),
            ]
            for each in health
        ],
    )


def report(results: Results, health: Sequence[Health]) -> str:
    parts = []
    if results:
        parts += [
            f"## `{servers.STATEMENT}`, {CONNECTIONS} connections kept alive",
            throughput_table(results),
        ]
    if health:
        parts += ["## Probes in trouble", health_table(health)]
    parts += [
        "## Goals",
        table(
            ["goal", "bound", "measured", ""],
            [goal.row() for goal in goals(results, health)],
        ),
    ]
    return "\n\n".join(parts)


def write_docs(machine: str, results: Results, health: Sequence[Health]) -> None:
    """Replace what stands between the markers of the reference page."""
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"{DOCS} has no line {BEGIN.strip()} with {END} below it")
    parts = [throughput_table(results), health_table(health), machine]
    body = "\n\n".join(part for part in parts if part)
    DOCS.write_text(f"{before}{BEGIN}{body}\n{END}{after}", encoding="utf-8")


def fill(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE accounts (id int PRIMARY KEY, owner text NOT NULL, balance bigint NOT"
            " NULL)"
        )
        connection.execute(
            "INSERT INTO accounts SELECT n, 'owner ' || n, n * 100 FROM generate_series(1, %s) n",
            [servers.ROWS],
        )
        connection.execute("VACUUM ANALYZE accounts")


def profile(url: str, postmaster: int, effort: Effort) -> None:
    """Where the server's time goes, seen from outside by a sampling profiler (py-spy)."""
    with servers.Sql(url) as contender, tempfile.TemporaryDirectory() as directory:
        _measure(contender, postmaster, effort.requests // 4)
        raw = Path(directory) / "stacks"
        spy = subprocess.Popen(
            [
                *("py-spy", "record", "--format=raw", "--rate=500", "--native", "--duration=6"),
                *(f"--pid={contender.pid}", f"--output={raw}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while spy.poll() is None:
            _measure(contender, postmaster, effort.requests)
        print(hottest(raw.read_text(encoding="utf-8")))


def hottest(stacks: str, functions: int = 45) -> str:
    """Own and total shares of samples by function."""
    own: dict[str, int] = {}
    total: dict[str, int] = {}
    samples = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        samples += int(count)
        own[frames[-1]] = own.get(frames[-1], 0) + int(count)
        for frame in set(frames):
            total[frame] = total.get(frame, 0) + int(count)
    by_total = sorted(total.items(), key=lambda item: -item[1])[:functions]
    rows = [
        [name, f"{count / samples:.1%}", f"{own.get(name, 0) / samples:.1%}"]
        for name, count in by_total
    ]
    return table(["function", "with callees", "own"], rows)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks http", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, and less exact")
    parser.add_argument("--rounds", type=int, help="how often each cell is measured")
    parser.add_argument("--contender", metavar="TEXT", help="only servers whose name has this")
    parser.add_argument("--only-health", action="store_true", help="nothing but the probes")
    parser.add_argument("--no-health", action="store_true", help="leave the probes out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every cell of every round")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("--profile", action="store_true", help="instead: profile with py-spy")
    parser.add_argument("--write-docs", action="store_true", help="update docs/reference/http.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = Effort(options.rounds, effort.requests, effort.probes)
    logging.getLogger("poolkeeper").setLevel(logging.ERROR)
    health: list[Health] = []
    with (
        tempfile.TemporaryDirectory(prefix="poolkeeper-benchmark-") as directory,
        EmbeddedPostgres(directory, durable=False) as postgres,
    ):
        url = postgres.dsn()
        assert postgres.pid is not None
        fill(url)
        if options.profile:
            profile(url, postgres.pid, effort)
            return 0
        with psycopg.connect(url) as connection:
            version = connection.info.parameter_status("server_version") or ""
        facts = describe(loop="uvloop", postgres=version)
        machine = sentence(facts)
        print(f"{machine}\n", flush=True)
        started = time.monotonic()
        results = (
            {} if options.only_health else measure(url, postgres.pid, effort, options.contender)
        )
        if not options.no_health:
            health = measure_health(postgres, effort.rounds, effort.probes)
    print(
        f"{report(results, health)}\n\n{effort.rounds} rounds in "
        f"{time.monotonic() - started:.0f} s."
    )
    if options.write_docs:
        write_docs(machine, results, health)
    reached = goals(results, health)
    if options.json:
        everything: dict[str, Any] = {
            "machine": facts,
            "effort": asdict(effort),
            "cells": {name: [asdict(cell) for cell in cells] for name, cells in results.items()},
            "health": [asdict(each) for each in health],
            "goals": [asdict(goal) | {"reached": goal.reached} for goal in reached],
        }
        options.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    return int(options.strict and not all(goal.reached for goal in reached))


if __name__ == "__main__":
    sys.exit(main())
