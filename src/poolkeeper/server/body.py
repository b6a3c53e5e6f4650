"""Reads the body of a request, within its limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from poolkeeper.server.departure import ClientGoneError
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.status import BodyTimeoutError, BodyTooLargeError, TooManyBytesError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive

    from poolkeeper.server.settings import ServerSettings
    from poolkeeper.server.timers import Timers

TIMEOUT_HEADER = "x-timeout-ms"

# Of all requests that are being read or wait or run. Bodies that fit into what is read of a
# connection at once are as many as there are connections, and not counted.
MOST_BYTES = 128 * 1024 * 1024
_SMALL = 64 * 1024


class Bodies:
    """Counts the bytes of all large bodies that a server has in its memory.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self.held = 0

    def grow(self, by: int) -> None:
        """More has arrived; `free` must follow.

        Raises:
            TooManyBytesError: There is no room for it; it is not counted.
        """
        if self.held + by > self._most:
            raise TooManyBytesError(self._most)
        self.held += by

    def free(self, size: int) -> None:
        """So many bytes are not needed any more."""
        self.held -= size


class Holding:
    """What one request has of `Bodies`, until `end`."""

    __slots__ = ("_bodies", "_size")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = 0

    def reach(self, size: int) -> None:
        """The body is as long as this by now.

        Raises:
            TooManyBytesError: There is no room for it.
        """
        if size > _SMALL:
            self._bodies.grow(size - self._size)
            self._size = size

    def end(self) -> None:
        """The request is over."""
        self._bodies.free(self._size)
        self._size = 0


def time_limit(headers: Mapping[str, str], settings: ServerSettings) -> float:
    """Seconds the request may take: the server's limit, or less if the client says so.

    Raises:
        BadRequestError: ``X-Timeout-Ms`` is not a number of milliseconds.
    """
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return settings.request_timeout
    if not (given.isascii() and given.isdigit() and len(given) <= 12) or int(given) == 0:
        raise BadRequestError(
            f"X-Timeout-Ms is {given[:40]!r}, which is not a number of milliseconds above 0. "
            f"Suggestion: send X-Timeout-Ms: 5000; more than "
            f"{settings.request_timeout * 1000:.0f} is not granted."
        )
    return min(int(given) / 1000, settings.request_timeout)


async def read_body(
    receive: Receive,
    headers: Mapping[str, str],
    *,
    limit: int,
    holding: Holding,
    deadline: float,
    seconds: float,
    timers: Timers,
) -> bytes:
    """The whole body, refused as soon as it is known to be too long.

    Args:
        receive: Where it comes from.
        headers: Of the request.
        limit: In bytes.
        holding: Counts what has arrived; its end is the caller's.
        deadline: In the event loop's time.
        seconds: What the deadline was made from, for people.
        timers: Of the event loop.

    Raises:
        BodyTooLargeError: It is longer than the limit.
        TooManyBytesError: With the bodies of other requests it is more than the server holds.
        BodyTimeoutError: It was not complete at the deadline.
        ClientGoneError: The client left before it was complete.
    """
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise BodyTooLargeError(limit)
    task = asyncio.current_task()
    assert task is not None
    too_late = False

    def give_up() -> None:
        nonlocal too_late
        too_late = True
        task.cancel()

    # What asyncio.timeout does, at a fraction of its price: every request comes this way.
    timer = timers.call_at(deadline, give_up)
    try:
        return await _read(receive, limit, holding)
    except asyncio.CancelledError as cancelled:
        if too_late and task.uncancel() == 0:
            raise BodyTimeoutError(seconds) from cancelled
        raise
    finally:
        timer.cancel()


async def _read(receive: Receive, limit: int, holding: Holding) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(limit)
        holding.reach(size)
        if not message.get("more_body", False):
            return b"".join([*chunks, chunk]) if chunks else chunk
        chunks.append(chunk)
