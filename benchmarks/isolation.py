"""Do clients of one server notice what happens to another server's database?"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, ClassVar

from benchmarks.common.http_apps import SIZE
from benchmarks.common.http_contenders import Sql, load
from benchmarks.common.machine import describe, sentence
from benchmarks.common.measuring import percentile
from benchmarks.common.report import number, table
from poolkeeper.testing.embedded import FaultyPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Two cores are shared by both servers, both databases and all clients: more would measure those.
CONNECTIONS = 2
VICTIMS = 8
# Of the median ratio; the control, in which nothing happens, shows how much of it is noise.
GOAL = 1.5
SETTLE = 0.3

SELECT = {"query": "select $1::int as one", "params": ["1"]}


class _Server(Sql):
    command: ClassVar[Sequence[str]] = (*Sql.command, "--request-timeout=5")

    def post(self, body: object) -> None:
        request = urllib.request.Request(
            "http://{}:{}/sql".format(*self.address), json.dumps(body).encode()
        )
        try:
            urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError as error:
            error.read()
            time.sleep(0.05)


@contextmanager
def left_alone(_server: _Server, _postgres: FaultyPostgres) -> Iterator[None]:
    yield


@contextmanager
def killed(_server: _Server, postgres: FaultyPostgres) -> Iterator[None]:
    postgres.crash()
    yield
    postgres.start()


@contextmanager
def frozen(_server: _Server, postgres: FaultyPostgres) -> Iterator[None]:
    postgres.freeze()
    yield
    postgres.thaw()


@contextmanager
def exhausted(server: _Server, _postgres: FaultyPostgres) -> Iterator[None]:
    sleep = {"query": "select pg_sleep(2)"}
    sleepers = [
        threading.Thread(target=server.post, args=(sleep,), daemon=True) for _ in range(2 * SIZE)
    ]
    for sleeper in sleepers:
        sleeper.start()
    yield
    for sleeper in sleepers:
        sleeper.join()


FAULTS: tuple[Callable, ...] = (left_alone, killed, frozen, exhausted)


@contextmanager
def victims_of(server: _Server) -> Iterator[None]:
    """Clients of the struck server, all the time."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            server.post(SELECT)
            time.sleep(0.01)

    clients = [threading.Thread(target=ask) for _ in range(VICTIMS)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        stop.set()
        for client in clients:
            client.join()


def p99_at(server: _Server, count: int) -> float:
    """The p99 of the spared server's clients, in milliseconds; every answer must be a 200."""
    seen = load(server.address, server.requests(), connections=CONNECTIONS, count=count)
    if set(seen["statuses"]) != {"200"}:
        raise RuntimeError(f"the spared server answered {seen['statuses']}: {seen['sample']}")
    return percentile(seen["latencies"], 99) * 1e3


def measure(rounds: int, count: int) -> dict[str, list[tuple[float, float]]]:
    """Pairs of p99 before and during each fault, faults interleaved."""
    found: dict[str, list[tuple[float, float]]] = {fault.__name__: [] for fault in FAULTS}
    with ExitStack() as stack:
        databases = []
        for name in ("struck", "spared"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-")))
            folder.chmod(0o711)
            databases.append(stack.enter_context(FaultyPostgres(folder)))
        for postgres in databases:
            postgres.psql(
                "create table accounts as select id, 'somebody' as owner, 0 as balance"
                " from generate_series(1, 10000) id"
            )
            postgres.psql("alter table accounts add primary key (id)")
        struck, spared = (stack.enter_context(_Server(p.dsn())) for p in databases)
        stack.enter_context(victims_of(struck))
        p99_at(spared, count)
        for _ in range(rounds):
            for fault in FAULTS:
                before = p99_at(spared, count)
                with fault(struck, databases[0]):
                    time.sleep(SETTLE)
                    found[fault.__name__].append((before, p99_at(spared, count)))
                time.sleep(SETTLE)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks isolation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every pair of every round")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a goal is missed")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    rounds, count = (3, 1_000) if options.quick else (9, 3_000)
    pairs = measure(rounds, count)
    print("## isolation\n")
    print(f"{sentence(describe(loop='uvloop', postgres='18'))}\n")
    rows = []
    reached = True
    for name, seen in pairs.items():
        ratios = [during / before for before, during in seen]
        ratio = median(ratios)
        reached = reached and (name == "left_alone" or ratio <= GOAL)
        before, during = (median(column) for column in zip(*seen, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append([name, number(before), number(during), f"{ratio:.2f}", spread])
    header = ["the other database is", "p99 before, ms", "p99 meanwhile, ms", "ratio", "of rounds"]
    print(table(header, rows))
    print(f"\nGoal: every ratio at most {GOAL:g}: {'reached' if reached else 'MISSED'}.")
    if options.json:
        options.json.write_text(json.dumps(pairs), encoding="utf-8")
    return 0 if reached or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())
