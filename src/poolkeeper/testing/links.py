"""A connection through the fault proxy: two lanes, each passing on what one side sends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from poolkeeper.testing.lanes import Lane
from poolkeeper.testing.segments import End, Unread
from poolkeeper.testing.sockets import Side, dial
from poolkeeper.testing.wire import Conversation, Direction

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from poolkeeper.testing.proxy import FaultProxy
    from poolkeeper.testing.segments import Segment
    from poolkeeper.testing.wire import Group

# after these the server waits for the client, though a request is not answered in full
_TURNS: Final = frozenset("ZRGW")


class Link:
    """A client's connection, and the proxy's own to the server on its behalf.

    Attributes:
        id: 1, 2, 3, … in the order of connecting.
        segments: How many segments arrived, both directions.
    """

    def __init__(self, proxy: FaultProxy, number: int, client: socket.socket) -> None:
        self.id = number
        self.segments = 0
        self.is_closed = False
        self._proxy = proxy
        self._conversation = Conversation()
        self._client = Side(client)
        self._server: Side | None = None
        self._to_server = Lane(self, Direction.TO_SERVER)
        self._to_client = Lane(self, Direction.TO_CLIENT)
        self._to_server.source = self._to_client.target = self._client
        self._left = False  # one of the sides has ended
        self._broken = False  # one of them cannot be written to
        self._given_up = False  # nothing is passed on any more, whatever heals
        self._farewell = False  # the client is gone, the server's answer is awaited
        self._tasks: dict[asyncio.Task[None], Lane] = {}

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Link {self.id}, backend {self.backend_pid}, {self.segments} segments, {state}>"

    @property
    def backend_pid(self) -> int | None:
        """The server process, from BackendKeyData; None before."""
        return self._conversation.backend_pid

    @property
    def is_open(self) -> bool:
        """Neither side has ended it, nor has the proxy. A silent link is open."""
        return not (self._left or self.is_closed)

    @property
    def is_damaged(self) -> bool:
        """Bytes were swallowed; it can never pass anything sensible again."""
        return self._to_server.damaged or self._to_client.damaged

    @property
    def unreadable(self) -> str | None:
        """Why its segments cannot be told, such as encryption; None if they can."""
        return self._conversation.unreadable

    async def deliver(self, segment: Segment) -> None:
        """Pass a segment on at once; only for a policy, about the segment it was asked about.

        Returns when the kernel has the bytes. The verdict is then about what follows.

        Raises:
            FaultProxyError: It is not this segment's turn.
        """
        await self._lane(segment.direction).deliver_now(segment)

    def reset(self) -> None:
        """RST to both sides."""
        if not self.is_closed:
            self._client.reset()
            if self._server is not None:
                self._server.reset()
            self._forget()

    def hang_up(self) -> None:
        """FIN to both sides; what they still send is ignored."""
        self._left = self._given_up = True
        for lane in (self._to_server, self._to_client):
            lane.silence()
            if lane.target is not None:
                lane.target.finish()
        if self._server is None:
            self.close()

    def close(self) -> None:
        """Let go of both sides."""
        if not self.is_closed:
            self._client.close()
            if self._server is not None:
                self._server.close()
            self._forget()

    def silence(self, direction: Direction) -> None:
        """Swallow what comes from now on, and what is on its way."""
        for lane in self._lanes(direction):
            lane.silence()

    def hold(self, direction: Direction) -> None:
        """Keep back what comes from now on, and what is on its way."""
        for lane in self._lanes(direction):
            lane.hold()

    def release(self) -> None:
        """Let go of what was held, in order."""
        for lane in self._lanes(Direction.BOTH):
            lane.release()

    def heal(self, *, reset: bool = False) -> None:
        """Pass everything again, where nothing was swallowed; with `reset` end it otherwise."""
        if self._given_up:
            # it ends by itself, once the server has answered; COPY has no answer to give
            if reset:
                self.close()
            return
        if self.is_damaged and (reset or self._left):
            self.reset()
        for lane in self._lanes(Direction.BOTH):
            lane.silent = lane.damaged
            lane.release()
            lane.hurry()

    def _lanes(self, direction: Direction) -> list[Lane]:
        return [lane for lane in (self._to_server, self._to_client) if lane.direction in direction]

    def _lane(self, direction: Direction) -> Lane:
        return self._to_server if direction is Direction.TO_SERVER else self._to_client

    def _start(self, silent: Direction, held: Direction) -> None:
        for lane in self._lanes(silent):
            lane.silence()
        for lane in self._lanes(held):
            lane.hold()
        self._client.receive(self._from_client)
        if silent is Direction.BOTH:
            # nobody there to answer, so nobody to ask; what would have been said is lost
            self._to_server.damaged = self._to_client.damaged = True
            return
        self._spawn(self._connect(), self._to_server)

    def _spawn(self, work: Coroutine[None, None, None], lane: Lane) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = lane
        task.add_done_callback(self._tasks.pop)
        self._proxy._own(task)

    async def _connect(self) -> None:
        try:
            self._server = await dial(*self._proxy._target)
        except OSError:
            self.reset()
            return
        self._to_server.target = self._to_client.source = self._server
        self._server.receive(self._from_server)
        self._spawn(self._to_client.pump(), self._to_client)
        await self._to_server.pump()

    def _from_client(self, received: bytes | OSError) -> None:
        if self._server is None and not isinstance(received, bytes):
            self.reset()
        elif self._server is None and not received:
            self.close()
        else:
            self._received(self._to_server, received)

    def _from_server(self, received: bytes | OSError) -> None:
        if self._farewell:
            self._hear_answer(received)
        else:
            self._received(self._to_client, received)

    def _received(self, lane: Lane, received: bytes | OSError) -> None:
        ended = isinstance(received, OSError) or not received
        if ended:
            self._left = True
        if lane.silent or lane.finished:
            lane.damaged |= lane.silent
            if ended:
                self._finish(lane)
            return
        if not ended:
            assert isinstance(received, bytes)
            self._put(self._feed(lane, received))
            return
        self._put(self._conversation.end_of(lane.direction))
        lane.put(End(received if isinstance(received, OSError) else None))

    def _feed(self, lane: Lane, data: bytes) -> list[Group]:
        was_readable = self.unreadable is None
        if lane is self._to_server:
            groups = self._conversation.from_client(data)
        else:
            groups = self._conversation.from_server(data)
        if was_readable and self.unreadable is not None:
            self._proxy._became_unreadable(self.unreadable)
        return groups

    def _put(self, groups: list[Group]) -> None:
        for group in groups:
            lane = self._lane(group.direction)
            if self.unreadable is not None and not group.messages:
                lane.put(Unread(group.data, self.unreadable))
                continue
            self.segments += 1
            segment = self._proxy._number(self, group)
            lane.put(segment)
            self._proxy._seen(segment)

    def _pass_end(self, lane: Lane, error: OSError | None) -> None:
        if error is not None:
            self.reset()
            return
        assert lane.target is not None
        lane.target.finish()
        self._finish(lane)

    def _pass_broken(self, lane: Lane) -> None:
        """The target cannot be written to. What it has said before still goes the other way."""
        self._broken = True
        self._left = True
        self._finish(lane)

    def _finish(self, lane: Lane) -> None:
        lane.finished = True
        if self._to_server.finished and self._to_client.finished:
            if self._broken:
                self.reset()
            else:
                self.close()

    def _reset_client(self, lane: Lane) -> None:
        if lane is self._to_client:
            self.reset()
            return
        self._left = self._given_up = True
        self._client.reset()
        self._to_client.silence()
        self._to_server.silence()
        self._farewell = True
        if not self._conversation.awaits_answer:
            self.close()

    def _hear_answer(self, received: bytes | OSError) -> None:
        if isinstance(received, OSError) or not received:
            self.close()
            return
        for group in self._conversation.from_server(received):
            last = group.messages[-1].type if group.messages else "Z"
            if last in _TURNS or not self._conversation.awaits_answer:
                self.close()

    def _forget(self) -> None:
        self.is_closed = True
        current = asyncio.current_task()
        for task, lane in list(self._tasks.items()):
            # a policy is the user's: it runs to its end, though there is nothing left to decide
            if task is not current and not lane.in_policy:
                task.cancel()
        self._proxy._links.pop(self.id, None)
