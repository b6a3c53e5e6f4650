"""One direction of a link through the fault proxy: delivers what arrives, in order."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from typing import TYPE_CHECKING, Final

from poolkeeper.testing.segments import End, FaultProxyError, Segment, Unread, Verdict, unreadable
from poolkeeper.testing.wire import Direction

if TYPE_CHECKING:
    from poolkeeper.testing.links import Link
    from poolkeeper.testing.sockets import Side

_HIGH_WATER: Final = 4 << 20  # bytes a lane keeps before it lets TCP slow the sender down
_PIECES_PER_SECOND: Final = 50  # of a stream whose bandwidth is limited


class Lane:
    """One direction of a link.

    Attributes:
        silent: Everything is swallowed.
        damaged: Something was, so that the stream has a hole.
        finished: Nothing more will be delivered.
    """

    def __init__(self, link: Link, direction: Direction) -> None:
        self.link = link
        self.direction = direction
        self.silent = False
        self.damaged = False
        self.finished = False
        self.source: Side | None = None
        self.target: Side | None = None
        self.in_policy = False
        self._queue: deque[tuple[float, Segment | Unread | End]] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._current: Segment | Unread | End | None = None
        self._delivered = False
        self._nap: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    def put(self, item: Segment | Unread | End) -> None:
        """Take what the source has sent."""
        self._queue.append((self._loop.time(), item))
        self._queued += len(item.data)
        if self._queued > _HIGH_WATER and self.source is not None:
            self.source.pause()
        self._arrived.set()

    def hold(self) -> None:
        """Deliver nothing until released."""
        self._free.clear()

    def release(self) -> None:
        """Deliver what waits."""
        self._free.set()

    def silence(self) -> None:
        """Swallow what waits and what comes."""
        self.silent = True
        if self._queue or self._current is not None:
            self.damaged = True
        self._queue.clear()
        self._queued = 0
        if self.source is not None:
            self.source.resume()

    def hurry(self) -> None:
        """Cut a wait for latency or bandwidth short."""
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    async def pump(self) -> None:
        """Deliver what arrives until the end."""
        while not self.link.is_closed and not self.finished:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            arrived, self._current = self._queue.popleft()
            self._queued -= len(self._current.data)
            if self._queued <= _HIGH_WATER and self.source is not None:
                self.source.resume()
            self._delivered = False
            try:
                await self._handle(arrived, self._current)
            finally:
                self._current = None

    async def _handle(self, arrived: float, item: Segment | Unread | End) -> None:
        verdict = Verdict.PASS
        if isinstance(item, Segment):
            verdict = await self._ask(item)
        elif isinstance(item, Unread) and self.link._proxy.policy is not None:
            self.link._proxy._record(unreadable(item.reason))
            verdict = Verdict.LOSE
        if verdict is Verdict.HOLD:
            self.hold()
        if self.link.is_closed:
            return
        if verdict is Verdict.LOSE:
            self.link.reset()
            return
        if verdict is Verdict.DROP:
            self.link.silence(Direction.BOTH)
            return
        if not self._delivered:
            shape = self.link._proxy._shape
            wait = shape.latency + shape.jitter * self.link._proxy._random.random()
            await self._sleep_until(arrived + wait)
        await self._free.wait()
        if self.silent:
            self.damaged = True
        elif isinstance(item, End):
            self.link._pass_end(self, item.error)
        else:
            arrives = self._delivered or await self._write(item.data)
            if arrives and verdict is Verdict.DELIVER_THEN_RESET:
                self.link._reset_client(self)

    async def deliver_now(self, segment: Segment) -> None:
        """Deliver the segment the policy is being asked about."""
        if self._current is not segment or not self.in_policy:
            raise FaultProxyError(
                f"{segment.link!r} cannot deliver segment {segment.index} now. Suggestion: call "
                "deliver() within the policy that is asked about the segment, and await it."
            )
        if not self._delivered and not self.silent and not self.link.is_closed:
            self._delivered = True
            await self._write(segment.data)

    async def _ask(self, segment: Segment) -> Verdict:
        policy = self.link._proxy.policy
        if policy is None:
            return Verdict.PASS
        self.in_policy = True
        try:
            answer = policy(segment)
            if inspect.isawaitable(answer):
                answer = await answer
            return Verdict.PASS if answer is None else Verdict(answer)
        except Exception as error:  # noqa: BLE001 - whoever stops the proxy gets it
            self.link._proxy._record(error)
            return Verdict.LOSE
        finally:
            self.in_policy = False

    async def _write(self, data: bytes) -> bool:
        """Give bytes to the target; whether it took all of them."""
        assert self.target is not None
        shape = self.link._proxy._shape
        piece = shape.slice_bytes or len(data)
        if shape.bandwidth is not None:
            piece = min(piece, max(1, int(shape.bandwidth / _PIECES_PER_SECOND)))
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            if shape.bandwidth is not None:
                await self._sleep_until(self._loop.time() + len(part) / shape.bandwidth)
            if self.silent or self.link.is_closed:
                self.damaged = True
                return False
            try:
                await self.target.send(part)
            except OSError:
                self.link._pass_broken(self)
                return False
            if start + piece < len(data):
                await asyncio.sleep(0)
        return True

    async def _sleep_until(self, when: float) -> None:
        if when <= self._loop.time():
            return
        self._nap = self._loop.create_future()
        timer = self._loop.call_at(when, self.hurry)
        try:
            await self._nap
        finally:
            timer.cancel()
            self._nap = None
