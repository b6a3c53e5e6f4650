"""What systemd wants to hear from a service, and the sockets it hands over; see sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from poolkeeper.server.listener import ListenError

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Self

# The first descriptor that systemd passes, by its protocol.
_FIRST_DESCRIPTOR = 3
_MICROSECONDS = 1_000_000


class Notifier:
    """Tells systemd how the service is doing; says nothing where nobody listens.

    Args:
        address: Path of the datagram socket, ``@`` before an abstract one; None for nobody.
        watchdog_seconds: How soon systemd wants to hear again; None when it does not.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = address
        self.watchdog_seconds = watchdog_seconds

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self:
        """Take the variables out of ``environ``, so that no child process speaks for this one."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        meant_for = environ.pop("WATCHDOG_PID", str(os.getpid()))
        watched = microseconds.isdigit() and meant_for == str(os.getpid())
        return cls(address, int(microseconds) / _MICROSECONDS if watched else None)

    def __bool__(self) -> bool:
        return self._address is not None

    def ready(self, status: str) -> None:
        """The service can be used."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={status}")

    def stopping(self, seconds: float) -> None:
        """The service is going down and needs up to ``seconds`` for it."""
        microseconds = round(seconds * _MICROSECONDS)
        self._send("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={microseconds}")

    def alive(self) -> None:
        """The event loop turns."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        path = self._address
        name = "\0" + path[1:] if path.startswith("@") else path
        text = "\n".join(line.replace("\n", " ") for line in lines)
        # A service does not fail because the one who watches it is gone.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            sock.sendto(text.encode(), name)


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets passed by systemd or a supervisor, ready to accept; often none.

    The variables are taken out of ``environ``: the sockets are this process's only.

    Raises:
        ListenError: What was passed is not a listening stream socket.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        try:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - of the standard library
            sock = socket.socket(fileno=descriptor)
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise _unusable(descriptor, str(error)) from error
        if sock.type != socket.SOCK_STREAM or not listening:
            raise _unusable(descriptor, "it is not a listening stream socket")
        sock.settimeout(0)
        sockets.append(sock)
    return sockets


def _unusable(descriptor: int, why: str) -> ListenError:
    return ListenError(
        f"Cannot start server: descriptor {descriptor}, passed in LISTEN_FDS, cannot be used: "
        f"{why}. Suggestion: use ListenStream= in the socket unit, with Accept=no.",
        host="",
        port=0,
    )
