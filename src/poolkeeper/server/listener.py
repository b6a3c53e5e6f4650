"""The listening socket: bound before anything else is opened, with a clear word if it cannot be."""

from __future__ import annotations

import errno
import socket
import sys

from poolkeeper.port_holder import find_port_holder

_BACKLOG = 2048


class ListenError(Exception):
    """The server cannot listen there; the message says why and what to do.

    Attributes:
        host: As the user wrote it.
        port: As the user wrote it.
        holder_pid: Process that listens there already, where it can be known.
    """

    def __init__(
        self, message: str, *, host: str, port: int, holder_pid: int | None = None
    ) -> None:
        super().__init__(message)
        self.host = host
        self.port = port
        self.holder_pid = holder_pid


def bind(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listen on every address ``host`` stands for, on one port; 0 picks a free one.

    Nothing is accepted before a server takes the sockets over; until then clients wait in the
    kernel's queue.

    Args:
        host: Address or name.
        port: From 1 to 65535, or 0.
        reuse_port: Share the port with other processes of this user that ask for the same; the
            kernel spreads the connections.

    Raises:
        ListenError: An address does not exist here or is not free; nothing stays bound.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in _resolve(host, port):
            # One port for all addresses, also where the kernel chose the first.
            wanted = sockets[0].getsockname()[1] if sockets else port
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            _listen(sock, address, wanted, reuse_port=reuse_port)
    except OSError as error:
        _close(sockets)
        raise _explain(error, host, port) from error
    except BaseException:
        _close(sockets)
        raise
    return sockets


def is_loopback(sockets: list[socket.socket]) -> bool:
    """Whether only this machine can reach the sockets."""
    # A socket with a path is guarded by the file's mode.
    network = {socket.AF_INET, socket.AF_INET6}
    addresses = [sock.getsockname()[0] for sock in sockets if sock.family in network]
    return all(address == "::1" or address.startswith("127.") for address in addresses)


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except (OSError, UnicodeError) as error:
        raise ListenError(
            f"Cannot start server: {host!r} is not an address or a known host name ({error}). "
            "Suggestion: use --host 127.0.0.1, or --host 0.0.0.0 for every interface.",
            host=host,
            port=port,
        ) from error
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _listen(sock: socket.socket, address: str, port: int, *, reuse_port: bool) -> None:
    # A port in TIME_WAIT is free for a new server; on Windows this option would mean stealing it.
    if sys.platform != "win32":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    sock.listen(_BACKLOG)
    sock.settimeout(0)


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _explain(error: OSError, host: str, port: int) -> ListenError:
    pid = None
    if error.errno == errno.EADDRINUSE:
        holder = find_port_holder(port)
        pid = holder.pid if holder else None
        by = f" by {holder}" if holder else ""
        message = (
            f"port {port} on {host} is already in use{by}. "
            "Suggestion: stop that process or choose another port with --port."
        )
    elif error.errno == errno.EACCES:
        message = (
            f"this user may not listen on port {port} on {host}; ports below 1024 are reserved. "
            "Suggestion: choose a higher port with --port, for example --port 8020."
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        message = (
            f"{host} is not an address of this machine. "
            "Suggestion: use --host 127.0.0.1, or --host 0.0.0.0 for every interface."
        )
    else:
        message = (
            f"listening on port {port} on {host} failed: {error.strerror or error}. "
            "Suggestion: choose another address with --host or another port with --port."
        )
    return ListenError(f"Cannot start server: {message}", host=host, port=port, holder_pid=pid)
