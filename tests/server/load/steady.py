"""Clients that ask at a steady pace, for what the waits of others do to them."""

import asyncio
import math
from dataclasses import dataclass
from typing import Self

from tests.server.load.http import Connection, HungError, NoAnswerError, RefusedError
from tests.server.load.judge import HUNG, LOST, REFUSED


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen of requests that began in a span of time.

    Attributes:
        p99: Seconds; in a short span nearly the longest.
        failures: Every status but 200.
    """

    requests: int
    p50: float
    p99: float
    failures: list[int | str]


class Steady:
    """So many clients, each with a pause after every answer: a load that does not fill a core.

    Args:
        url: Of the server.
        number: How many.
        pause: Seconds between an answer and the next request.
        method: Of the request.
        path: Of the request.
        body: Of the request.
    """

    def __init__(
        self,
        url: str,
        number: int = 5,
        pause: float = 0.01,
        *,
        method: str = "POST",
        path: str = "/sql",
        body: object = None,
    ) -> None:
        self._url = url
        self._number = number
        self._pause = pause
        self._request = (method, path, body)
        self._seen: list[tuple[float, float, int | str]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._number)]
        return self

    async def __aexit__(self, *_error) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self) -> None:
        connection = Connection(self._url)
        time = asyncio.get_running_loop().time
        try:
            while True:
                began = time()
                status: int | str
                try:
                    status = (await connection.ask(*self._request)).status
                except RefusedError:
                    status = REFUSED
                except NoAnswerError:
                    status = LOST
                except HungError:
                    status = HUNG
                self._seen.append((began, time() - began, status))
                await asyncio.sleep(self._pause)
        finally:
            await connection.close()

    async def answers(self, number: int) -> None:
        """Wait until so many more have come."""
        wanted = len(self._seen) + number
        async with asyncio.timeout(60):
            while len(self._seen) < wanted:
                await asyncio.sleep(0.01)

    def window(self, start: float, end: float = math.inf) -> Window:
        """Requests that began between two moments of the event loop's clock."""
        seen = [(took, status) for began, took, status in self._seen if start <= began < end]
        times = sorted(took for took, _ in seen)
        assert times, "no request was made"
        return Window(
            len(times),
            times[len(times) // 2],
            times[math.ceil(0.99 * len(times)) - 1],
            [status for _, status in seen if status != 200],
        )
