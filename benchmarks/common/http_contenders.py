"""The servers compared, each a process of its own, and how each is asked for a row."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import psutil

from benchmarks.common.http_apps import SIZE
from benchmarks.common.measuring import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

ROWS = 10_000
# As many different requests as a cell cycles through.
_KEYS = range(1, ROWS + 1, 39)
_PATIENCE = 60
_ADDRESS = re.compile(r"http://(127\.0\.0\.1):(\d+)")

STATEMENT = "SELECT id, owner, balance FROM accounts WHERE id = $1"


@dataclass(frozen=True)
class Cell:
    """One contender in one round. Seconds; percentiles are nearest rank.

    ``cpu`` is the server process's own time per request, ``database_cpu`` that of PostgreSQL.
    """

    throughput: float
    cpu: float
    database_cpu: float
    p50: float
    p99: float


class Contender(ABC):
    """A server process from its start to its end."""

    name: ClassVar[str]
    command: ClassVar[Sequence[str]]

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self.command],
            env={**os.environ, "DATABASE_URL": url},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self._wait_until_it_serves()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put(line)
        self._lines.put("")

    def _wait_until_it_serves(self) -> tuple[str, int]:
        seen = []
        while line := self._lines.get(timeout=_PATIENCE):
            seen.append(line)
            found = _ADDRESS.search(line)
            if found is not None:
                return found[1], int(found[2])
        raise RuntimeError(f"{self.name} did not start:\n{''.join(seen)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE)

    @property
    def pid(self) -> int:
        return self._process.pid

    def requests(self) -> list[str]:
        """What clients send, one text per request."""
        raise NotImplementedError

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


class _Uvicorn(Contender, ABC):
    def __init_subclass__(cls) -> None:
        cls.command = (
            *("uvicorn", *cls.command),
            *("--port=0", "--loop=uvloop", "--http=httptools", "--no-access-log"),
        )

    def requests(self) -> list[str]:
        return [get(f"/accounts/{key}") for key in _KEYS]


class FastAPIAsyncpg(_Uvicorn):
    name = "FastAPI + asyncpg.Pool"
    command = ("benchmarks.common.http_apps:fastapi_asyncpg", "--factory")


class StarlettePsycopg(_Uvicorn):
    name = "Starlette + psycopg_pool"
    command = ("benchmarks.common.http_apps:starlette_psycopg", "--factory")


class Hello(_Uvicorn):
    name = "plain ASGI hello, no database"
    command = ("benchmarks.common.http_apps:hello",)


class Sql(Contender):
    """``POST /sql`` as ``@neondatabase/serverless`` sends it."""

    name = "poolkeeper, /sql"
    command = (
        "poolkeeper",
        "serve",
        "--port=0",
        f"--max-size={SIZE}",
        "--log-format=json",
        "--no-access-log",
    )

    def requests(self) -> list[str]:
        return [
            post(
                "/sql",
                {"query": STATEMENT, "params": [str(key)]},
                "Content-Type: text/plain;charset=UTF-8\r\n"
                "Neon-Connection-String: postgresql://postgres:secret@127.0.0.1/postgres\r\n"
                "Neon-Raw-Text-Output: true\r\n"
                "Neon-Array-Mode: true\r\n",
            )
            for key in _KEYS
        ]


class Query(Sql):
    """``POST /v1/query``, the protocol of poolkeeper's own."""

    name = "poolkeeper, /v1/query"

    def requests(self) -> list[str]:
        return [
            post(
                "/v1/query",
                {"query": STATEMENT, "params": [key]},
                "Content-Type: application/json\r\n",
            )
            for key in _KEYS
        ]


def get(path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"


def post(path: str, body: Any, headers: str) -> str:
    text = json.dumps(body, separators=(",", ":"))
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n{headers}"
        f"Content-Length: {len(text)}\r\n\r\n{text}"
    )


def load(
    address: tuple[str, int], requests: list[str], *, connections: int, count: int
) -> dict[str, Any]:
    """Ask a server from a process of its own; returns what that saw."""
    host, port = address
    job = {
        "host": host,
        "port": port,
        "requests": requests,
        "connections": connections,
        "count": count,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.common.http_load"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def measure(contender: Contender, postmaster: int, *, connections: int, count: int) -> Cell:
    """One cell.

    Raises:
        RuntimeError: A request was not answered with 200.
    """
    cpu, database_cpu = contender.cpu_seconds(), cpu_below(postmaster)
    seen = load(contender.address, contender.requests(), connections=connections, count=count)
    cpu = contender.cpu_seconds() - cpu
    database_cpu = cpu_below(postmaster) - database_cpu
    if set(seen["statuses"]) != {"200"}:
        raise RuntimeError(f"{contender.name} answered {seen['statuses']}: {seen['sample']}")
    latencies = seen["latencies"]
    return Cell(
        throughput=len(latencies) / seen["seconds"],
        cpu=cpu / len(latencies),
        database_cpu=database_cpu / len(latencies),
        p50=percentile(latencies, 50),
        p99=percentile(latencies, 99),
    )


def cpu_below(pid: int) -> float:
    """CPU seconds of a process and its descendants that live."""
    total = 0.0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
