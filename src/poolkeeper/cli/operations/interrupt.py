"""Ctrl-C and SIGTERM: the first one asks to lay the work down, the second one means now."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Interrupt:
    """Listens to both signals inside a ``with`` block, in the running event loop.

    Args:
        at_once: What to do at the second one, before the process ends by it.
        heard: What to do at the first one.

    Attributes:
        stop: Set by the first one.
        exit_code: What a process that ends because of it exits with; None before.
    """

    def __init__(
        self,
        at_once: Callable[[], object] | None = None,
        heard: Callable[[], object] | None = None,
    ) -> None:
        self.stop = asyncio.Event()
        self.exit_code: int | None = None
        self._at_once = at_once
        self._heard = heard

    def __enter__(self) -> Self:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the signals to the system again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.exit_code is not None:
            if self._at_once is not None:
                self._at_once()
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.exit_code = 128 + number
        self.stop.set()
        if self._heard is not None:
            self._heard()
