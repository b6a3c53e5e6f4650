"""How fast the probes of poolkeeper's server answer when something is wrong."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from benchmarks.common.http_contenders import SIZE, Sql, get, load
from benchmarks.common.measuring import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poolkeeper.embedded import EmbeddedPostgres

PATHS = ("/livez", "/readyz", "/health")
# As many as the monitoring of a large installation may have.
_CONNECTIONS = 8
_WAITERS = 20
_ENOUGH = 60


@dataclass
class Health:
    """One path in one trouble, a list entry per round."""

    path: str
    trouble: str
    status: str = ""
    throughput: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


class _Server(Sql):
    name: ClassVar[str] = "poolkeeper"
    command = (*Sql.command, "--statement-timeout=0", f"--request-timeout={_ENOUGH * 10}")


def measure_health(postgres: EmbeddedPostgres, rounds: int, count: int) -> list[Health]:
    """Exhaust the pool and ask; then stop the database and ask. It stays stopped."""
    found: list[Health] = []
    with _Server(postgres.dsn()) as server:
        with _exhausted(server):
            found += _ask(server, "the pool exhausted", rounds, count)
        postgres.stop()
        _until(server, "unhealthy")
        found += _ask(server, "the database down", rounds, count)
    return found


def _ask(server: Sql, trouble: str, rounds: int, count: int) -> list[Health]:
    rows = [Health(path, trouble) for path in PATHS]
    for _ in range(rounds):
        for row in rows:
            seen = load(server.address, [get(row.path)], connections=_CONNECTIONS, count=count)
            row.status = ", ".join(seen["statuses"])
            latencies = seen["latencies"]
            row.throughput.append(len(latencies) / seen["seconds"])
            row.p50_ms.append(percentile(latencies, 50) * 1e3)
            row.p99_ms.append(percentile(latencies, 99) * 1e3)
    return rows


@contextmanager
def _exhausted(server: Sql) -> Iterator[None]:
    """All connections lent to statements that sleep, and more requests waiting."""
    for _ in range(SIZE + _WAITERS):
        threading.Thread(target=_sleep, args=(server,), daemon=True).start()
    while _report(server)["database"]["pool"]["waiting"] < _WAITERS:
        time.sleep(0.05)
    yield


def _sleep(server: Sql) -> None:
    body = json.dumps({"query": f"SELECT pg_sleep({_ENOUGH * 10})"}).encode()
    try:
        urllib.request.urlopen(f"{_url(server)}/sql", body).read()
    except OSError:
        # The database was stopped under it, which is what happens next.
        return


def _until(server: Sql, status: str) -> None:
    deadline = time.monotonic() + _ENOUGH
    while _report(server)["status"] != status:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server did not become {status}: {_report(server)}")
        time.sleep(0.05)


def _report(server: Sql) -> dict:
    try:
        with urllib.request.urlopen(f"{_url(server)}/health") as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return json.load(error)


def _url(server: Sql) -> str:
    return "http://{}:{}".format(*server.address)
