"""Ctrl-C and SIGTERM: the first asks to finish, the second means now."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stop_requests() -> Iterator[asyncio.Event]:
    """An event that the first signal sets; the second ends the process as the signal itself would.

    Then the kernel closes every connection, and an embedded PostgreSQL notices and stops.
    """
    loop = asyncio.get_running_loop()
    requested = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if requested.is_set():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        requested.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield requested
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
