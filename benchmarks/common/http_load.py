"""A process that asks one HTTP server as fast as it answers; cheap, and the same for everybody.

Reads its job as JSON from standard input and writes what it saw as JSON to standard output.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from time import perf_counter
from typing import Any

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Client(asyncio.Protocol):
    """One connection kept alive: a request, its answer, the next request."""

    def __init__(self, requests: list[bytes], first: int, count: int) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self.sample = b""
        self._requests = requests
        self._next = first
        self._left = count
        self._begun = 0.0
        self._received = b""
        self._expected = 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))

    def ask(self) -> None:
        self._next = (self._next + 1) % len(self._requests)
        self._begun = perf_counter()
        self._transport.write(self._requests[self._next])

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data if self._received else data
        if not self._expected:
            body = received.find(b"\r\n\r\n") + 4
            if body < 4:
                return
            length = _LENGTH.search(received, 0, body)
            if length is None:
                self.done.set_exception(ValueError(f"no Content-Length: {received[:body]!r}"))
                return
            self._expected = body + int(length[1])
        if len(received) < self._expected:
            return
        self.latencies.append(perf_counter() - self._begun)
        status = received[9:12].decode()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.sample = received
        self._received = b""
        self._expected = 0
        self._left -= 1
        if self._left > 0:
            self.ask()
        elif not self.done.done():
            self.done.set_result(None)


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Each connection does its equal share of the requests; all begin together."""
    loop = asyncio.get_running_loop()
    requests = [request.encode() for request in job["requests"]]
    connections = job["connections"]
    share = max(1, job["count"] // connections)
    clients = []
    for number in range(connections):
        first = number * len(requests) // connections
        _, client = await loop.create_connection(
            lambda first=first: Client(requests, first, share),  # type: ignore[misc]
            job["host"],
            job["port"],
        )
        clients.append(client)
    gc.disable()
    started = perf_counter()
    for client in clients:
        client.ask()
    await asyncio.gather(*(client.done for client in clients))
    seconds = perf_counter() - started
    latencies = sorted(latency for client in clients for latency in client.latencies)
    statuses: dict[str, int] = {}
    for client in clients:
        for status, count in client.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return {
        "seconds": seconds,
        "latencies": latencies,
        "statuses": statuses,
        "sample": clients[0].sample.decode(),
    }


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(run(json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()
