"""Sockets that do at once what a fault asks for: reset, say goodbye, stop listening.

A transport of asyncio closes in a later turn of the loop and hides how. These are plain sockets
watched by the loop, the same on asyncio's own and on uvloop; no threads, no tasks.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK: Final = 1 << 18
_BACKLOG: Final = 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Listener:
    """Listens on a port of its own, or refuses there; the port stays reserved until `close()`.

    Attributes:
        attempts: When connections were accepted, by `time.monotonic()`.
    """

    def __init__(self, host: str, receiver: Callable[[socket.socket], None]) -> None:
        self.attempts: list[float] = []
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._socket = _bound(host, 0)
        self._listening = False
        self.host: str = host
        self.port: int = self._socket.getsockname()[1]

    def listen(self) -> None:
        """Accept connections from now on."""
        if not self._listening:
            self._socket.listen(_BACKLOG)
            self._loop.add_reader(self._socket.fileno(), self._accept)
            self._listening = True

    def refuse(self) -> None:
        """Refuse connections from now on; those not accepted yet are reset."""
        if self._listening:
            self.close()
            # bound but not listening: refused, and neither given to another program meanwhile nor
            # to a client as its own end, which would then connect to itself
            self._socket = _bound(self.host, self.port)

    def close(self) -> None:
        """Give the port back."""
        if self._listening:
            self._loop.remove_reader(self._socket.fileno())
            self._listening = False
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_BACKLOG):
            try:
                connection, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            self.attempts.append(time.monotonic())
            self._receiver(connection)
            if not self._listening:
                return


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)  # noqa: FBT003 - its interface
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


class Side:
    """One connected socket: the client's or the server's.

    The receiver gets every chunk; at the end `b""`, or the error with which the peer broke off.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)  # noqa: FBT003 - its interface
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_closed = False
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._receiver: Callable[[bytes | OSError], None] | None = None
        self._reading = False

    def receive(self, receiver: Callable[[bytes | OSError], None]) -> None:
        """Read from now on."""
        self._receiver = receiver
        self.resume()

    def pause(self) -> None:
        """Leave what comes to the kernel, which slows the peer down when it has enough."""
        if self._reading:
            self._loop.remove_reader(self._socket.fileno())
            self._reading = False

    def resume(self) -> None:
        """Read on, unless the peer has ended."""
        if not self._reading and not self.is_closed and self._receiver is not None:
            self._loop.add_reader(self._socket.fileno(), self._readable)
            self._reading = True

    def _readable(self) -> None:
        assert self._receiver is not None
        receiver = self._receiver
        received: bytes | OSError
        try:
            received = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            received = error
        if not received or isinstance(received, OSError):
            self.pause()
            self._receiver = None
        receiver(received)

    async def send(self, data: bytes) -> None:
        """Hand all bytes to the kernel; one call at a time.

        Raises:
            OSError: The peer has reset the connection, or this side was closed.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, InterruptedError):
                await self._writable()

    async def _writable(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._socket.fileno(), _wake, waiter)
        try:
            await waiter
        finally:
            # once closed, the number may be another socket's
            if not self.is_closed:
                self._loop.remove_writer(self._socket.fileno())

    def finish(self) -> None:
        """FIN: nothing more will be sent; the peer may go on."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the peer is gone, or it was done before

    def close(self) -> None:
        """FIN both ways; harmless when repeated."""
        if not self.is_closed:
            self._loop.remove_writer(self._socket.fileno())
            self.pause()
            self.is_closed = True
            self._receiver = None
            self._socket.close()

    def reset(self) -> None:
        """RST, and the peer's unread bytes are lost; harmless when repeated."""
        if not self.is_closed:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.close()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Addresses of a host; a numeric one needs no resolver and does not wait."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _kind, _protocol, _name, address in found]


async def dial(host: str, port: int) -> Side:
    """Connect to a server.

    Raises:
        OSError: Why the last of its addresses could not be reached.
    """
    failure: OSError | None = None
    for family, address in await resolve(host, port):
        dialled = socket.socket(family, socket.SOCK_STREAM)
        try:
            dialled.setblocking(False)  # noqa: FBT003 - its interface
            await asyncio.get_running_loop().sock_connect(dialled, address)
            return Side(dialled)
        except OSError as error:
            dialled.close()
            failure = error
        except BaseException:
            dialled.close()
            raise
    raise failure or OSError(f"{host} has no address")
