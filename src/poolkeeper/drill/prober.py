"""Finds out to the millisecond when a PostgreSQL accepts connections again.

This file is executed as a process of its own, with the standard library only, so that neither a
busy event loop nor a driver delays its answer. It reads ``host port`` from standard input, dials
there until the server asks for authentication, and prints the time of the system-wide monotonic
clock. A server that is starting up or full refuses before that point.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

PAUSE_SECONDS = 0.002
# one attempt; what swallowed this one will never answer it
PATIENCE_SECONDS = 0.1
AUTHENTICATION_REQUEST = b"R"
_PARAMETERS = b"user\0poolkeeper-drill-prober\0\0"
_STARTUP = struct.pack("!ii", 8 + len(_PARAMETERS), 3 << 16) + _PARAMETERS


def accepts(host: str, port: int) -> bool:
    """Whether the server got as far as asking who is there."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(_STARTUP)
            return connection.recv(1) == AUTHENTICATION_REQUEST
    except OSError:
        return False


def main() -> None:
    """Answers one line for each line, until its input ends."""
    for line in sys.stdin:
        host, port = line.rsplit(maxsplit=1)
        while not accepts(host, int(port)):
            time.sleep(PAUSE_SECONDS)
        sys.stdout.write(f"{time.monotonic()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
