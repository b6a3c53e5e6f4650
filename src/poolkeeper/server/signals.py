"""What signals do: SIGTERM and Ctrl-C ask to finish, the second one means now."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_STOP = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def on_signals(
    stop: asyncio.Event,
    others: Mapping[signal.Signals, Callable[[], object]],
    *,
    at_once: Callable[[], object] | None = None,
) -> Iterator[None]:
    """Set ``stop`` at the first SIGTERM or SIGINT; the second ends the process as it would have.

    Then the kernel closes every connection, and an embedded PostgreSQL notices and stops.

    Args:
        stop: May be set by others as well; signals count by themselves.
        others: What to do at other signals, in the event loop.
        at_once: What to do at the second one, before the end.
    """
    loop = asyncio.get_running_loop()
    heard = False

    def on_stop(number: signal.Signals) -> None:
        nonlocal heard
        if heard:
            if at_once is not None:
                at_once()
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        heard = True
        stop.set()

    for number in _STOP:
        loop.add_signal_handler(number, on_stop, number)
    for number, action in others.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in (*_STOP, *others):
            loop.remove_signal_handler(number)
