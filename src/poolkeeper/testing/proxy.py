"""A TCP proxy for PostgreSQL that breaks connections at a chosen message.

It stands between a program and its server, understands the messages of PostgreSQL's protocol and
can lose exactly one of them, or be the network on a bad day::

    async with FaultProxy.to(url) as proxy:
        connection = await asyncpg.connect(proxy.url)
        proxy.policy = lambda segment: (
            Verdict.LOSE if segment.direction is Direction.TO_CLIENT else Verdict.PASS
        )
        await connection.execute("INSERT …")  # done by the server, its answer never arrives

The proxy lives in the event loop in which it was started: no threads. Links that are encrypted pass
and can be refused, silenced, held, reset and slowed down, but have no segments; where a policy or
`wait_for_segment()` would need them, `FaultProxyError` says so.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from poolkeeper.testing.links import Link
from poolkeeper.testing.segments import FaultProxyError, Segment, Shape, Verdict, unreadable
from poolkeeper.testing.sockets import Listener, Side
from poolkeeper.testing.wire import Direction, Message
from poolkeeper.urls import mask_url

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    from poolkeeper.testing.wire import Group

__all__ = [
    "Direction",
    "FaultProxy",
    "FaultProxyError",
    "Link",
    "Message",
    "Segment",
    "SilentServer",
    "Verdict",
]

_DEFAULT_PORT = 5432
_NOWHERE = Direction(0)


class FaultProxy:
    """A proxy in front of one PostgreSQL; see the module.

    Attributes:
        policy: Called with every segment before it is delivered, in order within a link and
            direction; returns a `Verdict`, or None for `PASS`. A coroutine function keeps only its
            own link and direction waiting. A policy that raises resets the link, and `stop()`
            raises its exception.
        errors: What `stop()` will raise the first of.
    """

    policy: Callable[[Segment], Verdict | Awaitable[Verdict | None] | None] | None

    def __init__(self, url: str, *, seed: int = 0) -> None:
        self._url = url
        self._target = _endpoint(url)
        self.policy = None
        self.errors: list[Exception] = []
        self._random = random.Random(seed)
        self._shape = Shape()
        self._listener: Listener | None = None
        self._links: dict[int, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchers: dict[asyncio.Future[Segment], Callable[[Segment], object]] = {}
        self._silent = _NOWHERE
        self._held = _NOWHERE
        self._last_link = 0
        self._next_index = 0
        self._unreadable: str | None = None

    @classmethod
    def to(cls, url: str, *, seed: int = 0) -> Self:
        """A proxy to the server of a URL, not started yet: use it as `async with`.

        Args:
            url: `postgresql://…` with one TCP host.
            seed: Of the jitter; the same seed gives the same delays.

        Raises:
            ValueError: The URL names no host, or several.
        """
        return cls(url, seed=seed)

    def __repr__(self) -> str:
        host, port = self._target
        here = f"{self._listener.host}:{self._listener.port}" if self._listener else "stopped"
        return f"<FaultProxy {here} to {host}:{port}, {len(self.links)} links>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.stop()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"The fault proxy failed as well: {failure}")

    async def start(self) -> None:
        """Listen on a port of its own on 127.0.0.1; does nothing if it does already."""
        if self._listener is None:
            self._listener = Listener("127.0.0.1", self._accepted)
            self._listener.listen()

    async def stop(self) -> None:
        """Close everything. No socket and no task is left, also if this is cancelled.

        Raises:
            Exception: What a policy raised first, or `FaultProxyError` for a policy that could not
                be asked about an encrypted link.
        """
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for link in list(self._links.values()):
            link.close()
        for watcher in list(self._watchers):
            self._fail(watcher, FaultProxyError(
                "The proxy was stopped before such a segment came. Suggestion: check the predicate."
            ))  # fmt: skip
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.errors:
            error, self.errors = self.errors[0], []
            raise error

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._started().host

    @property
    def port(self) -> int:
        """Where it listens, or refuses; the same until `stop()`."""
        return self._started().port

    @property
    def url(self) -> str:
        """The server's URL with the proxy's host and port."""
        listener = self._started()
        parts = urlsplit(self._url)
        user, at, _hosts = parts.netloc.rpartition("@")
        query = [
            (name, value)
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
            if name not in {"host", "hostaddr", "port"}
        ]
        return parts._replace(
            netloc=f"{user}{at}{listener.host}:{listener.port}",
            query=urlencode(query, quote_via=quote),
        ).geturl()

    @property
    def accepted(self) -> int:
        """How many connections were accepted since the start; refused ones never get here."""
        return len(self._started().attempts)

    def attempts(self) -> list[float]:
        """When each connection was accepted, by `time.monotonic()`."""
        return list(self._started().attempts)

    @property
    def links(self) -> list[Link]:
        """The open ones, oldest first."""
        return [link for link in self._links.values() if link.is_open]

    async def refuse(self) -> None:
        """Stop listening: connection refused. Open links live on."""
        self._started().refuse()

    async def accept(self) -> None:
        """Listen again, on the same port."""
        self._started().listen()

    def silence(
        self,
        links: Link | Iterable[Link] | None = None,
        *,
        direction: Direction = Direction.BOTH,
    ) -> None:
        """Swallow every byte and every goodbye, and keep the sockets open.

        Like a middlebox that acknowledges for a dead server: keepalives do not notice. Without
        `links` also for connections to come, which are then accepted and nothing more. A server
        side whose client has gone meanwhile is kept, too, until `heal()`.
        """
        if links is None:
            self._silent |= direction
        for link in self._chosen(links):
            link.silence(direction)

    def hold(
        self,
        links: Link | Iterable[Link] | None = None,
        *,
        direction: Direction = Direction.BOTH,
    ) -> None:
        """Keep segments back until `release()`; without `links` also those of connections to come.

        The policy is asked about a segment when it comes, not when it is let go.
        """
        if links is None:
            self._held |= direction
        for link in self._chosen(links):
            link.hold(direction)

    def release(self, links: Link | Iterable[Link] | None = None) -> None:
        """Let go of what is held, in order, and hold nothing more."""
        if links is None:
            self._held = _NOWHERE
        for link in self._chosen(links):
            link.release()

    def reset(self, links: Link | Iterable[Link] | None = None) -> None:
        """RST to both sides at once; bytes on their way are lost."""
        for link in self._chosen(links):
            link.reset()

    def hang_up(self, links: Link | Iterable[Link] | None = None) -> None:
        """FIN to both sides at once; bytes on their way are lost."""
        for link in self._chosen(links):
            link.hang_up()

    def shape(
        self,
        latency: float = 0.0,
        jitter: float = 0.0,
        bandwidth: float | None = None,
        slice_bytes: int | None = None,
    ) -> None:
        """Be slow, on all links from the next segment on; without arguments be quick again.

        Args:
            latency: Seconds each segment takes, each way.
            jitter: Seconds it may take in addition; the order stays.
            bandwidth: Bytes per second of each link, each way.
            slice_bytes: Bytes sent at a time, so that the receiver gets messages in pieces.

        Raises:
            ValueError: A number is negative, or zero where it would stop everything.
        """
        limits = [limit for limit in (bandwidth, slice_bytes) if limit is not None]
        if latency < 0 or jitter < 0 or any(limit <= 0 for limit in limits):
            raise ValueError(
                f"latency={latency}, jitter={jitter}, bandwidth={bandwidth}, "
                f"slice_bytes={slice_bytes} cannot be. Suggestion: use silence() to stop all bytes."
            )
        self._shape = Shape(latency, jitter, bandwidth, slice_bytes)

    async def heal(self, *, links: bool = False) -> None:
        """End every fault: listen, pass, release, be quick; the policy is taken away.

        A link that lost bytes (`Link.is_damaged`) stays silent: passing on what follows would make
        nonsense of it. With `links=True` such links are reset, so that both sides learn of it.
        Those one side of which has gone are reset in any case.
        """
        self.policy = None
        self._silent = self._held = _NOWHERE
        self._shape = Shape()
        for link in list(self._links.values()):
            link.heal(reset=links)
        self._started().listen()

    def retarget(self, url: str) -> None:
        """Take later connections to another server, as a failover behind one address would.

        User, password and database stay those of the client. Open links are left alone.
        """
        self._target = _endpoint(url)

    def restart_count(self) -> None:
        """Number segments from 0 again."""
        self._next_index = 0

    def wait_for_segment(self, predicate: Callable[[Segment], object]) -> asyncio.Future[Segment]:
        """The next segment for which the predicate is true, to be awaited.

        It watches from the call on, not from the `await` on, and is done when the segment has
        arrived as a whole, before the policy is asked and whether or not it is delivered. So call
        it, then begin what sends the segment, then await it.

        Raises:
            FaultProxyError: By the awaiting: a link is encrypted, or the proxy was stopped.
        """
        watcher: asyncio.Future[Segment] = asyncio.get_running_loop().create_future()
        self._watchers[watcher] = predicate
        watcher.add_done_callback(lambda done: self._watchers.pop(done, None))
        if self._unreadable is not None:
            self._fail(watcher, unreadable(self._unreadable))
        return watcher

    def _started(self) -> Listener:
        if self._listener is None:
            raise FaultProxyError(
                "The proxy is not running. Suggestion: async with FaultProxy.to(url) as proxy: …"
            )
        return self._listener

    def _chosen(self, links: Link | Iterable[Link] | None) -> list[Link]:
        if links is None:
            return list(self._links.values())
        return [links] if isinstance(links, Link) else list(links)

    def _accepted(self, client: socket.socket) -> None:
        self._last_link += 1
        link = Link(self, self._last_link, client)
        self._links[link.id] = link
        link._start(self._silent, self._held)

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._disown)

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._record(error)

    def _record(self, error: Exception) -> None:
        self.errors.append(error)

    def _number(self, link: Link, group: Group) -> Segment:
        index = self._next_index
        self._next_index += 1
        return Segment(index, link, group.direction, group.messages, group.text, group.data)

    def _seen(self, segment: Segment) -> None:
        for watcher, predicate in list(self._watchers.items()):
            try:
                wanted = predicate(segment)
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
                self._fail(watcher, error)
                continue
            if wanted and not watcher.done():
                watcher.set_result(segment)

    def _became_unreadable(self, reason: str) -> None:
        self._unreadable = reason
        for watcher in list(self._watchers):
            self._fail(watcher, unreadable(reason))

    def _fail(self, watcher: asyncio.Future[Segment], error: Exception) -> None:
        if not watcher.done():
            watcher.set_exception(error)
            watcher.exception()  # nobody has to await it


class SilentServer:
    """A peer that accepts connections and never says anything: `async with SilentServer() as …`.

    Attributes:
        url: A URL that leads to it.
    """

    def __init__(self) -> None:
        self._listener: Listener | None = None
        self._clients: set[Side] = set()

    async def __aenter__(self) -> Self:
        self._listener = Listener("127.0.0.1", self._accepted)
        self._listener.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close everything."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        while self._clients:
            self._clients.pop().close()

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._started().host

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._started().port

    @property
    def url(self) -> str:
        """A URL that leads to it."""
        return f"postgresql://nobody@{self.host}:{self.port}/nothing"

    @property
    def accepted(self) -> int:
        """How many connections were accepted since the start."""
        return len(self._started().attempts)

    @property
    def connected(self) -> int:
        """How many clients have not gone."""
        return len(self._clients)

    def attempts(self) -> list[float]:
        """When each connection was accepted, by `time.monotonic()`."""
        return list(self._started().attempts)

    def _started(self) -> Listener:
        if self._listener is None:
            raise FaultProxyError(
                "The server is not running. Suggestion: async with SilentServer() as server: …"
            )
        return self._listener

    def _accepted(self, client: socket.socket) -> None:
        side = Side(client)
        self._clients.add(side)
        side.receive(lambda received: self._received(side, received))

    def _received(self, side: Side, received: bytes | OSError) -> None:
        if isinstance(received, OSError) or not received:
            side.close()
            self._clients.discard(side)


def _endpoint(url: str) -> tuple[str, int]:
    """Host and port of the one server a URL names."""
    parts = urlsplit(url)
    named = dict(parse_qsl(parts.query))
    hosts = parts.netloc.rpartition("@")[2]
    if "," not in hosts + named.get("host", ""):
        host = named.get("hostaddr") or named.get("host") or parts.hostname
        if host and not host.startswith("/"):
            return host, int(named.get("port") or parts.port or _DEFAULT_PORT)
    raise ValueError(
        f"A proxy needs a URL with one TCP host, not {mask_url(url)}. Suggestion: "
        "postgresql://user:password@127.0.0.1:5432/app, and a proxy for each host."
    )
