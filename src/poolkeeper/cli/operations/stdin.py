"""Signals of a command that reads standard input: they end it whenever they arrive."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

    from poolkeeper.operations.load.spool import Readable

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Lets signals end the process by exceptions inside a ``with`` block, so that it can tidy up.

    Attributes:
        code: What a process that ends because of one exits with; None before.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Begin to listen."""
        for number in _ENDING:
            before = signal.getsignal(number)
            # nohup is respected. A shell lets whatever it puts into the background ignore SIGINT,
            # though; as the rest of these commands hears it all the same, so does this.
            if before is signal.SIG_DFL or number is signal.SIGINT:
                self._before[number] = signal.signal(number, self._end)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the signals to whoever had them."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def check(self) -> None:
        """Raise what a signal should have raised.

        Python drops an exception that a signal raises in the middle of a finalizer or a callback.
        """
        if self.code is not None:
            raise SystemExit(self.code)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.code = 128 + number
        raise SystemExit(self.code)


@contextlib.contextmanager
def heedful(fd: int, ending: Ending) -> Iterator[Readable]:
    """Read a file, and end by a signal also if that arrives right before a read that blocks.

    The system writes to a pipe when a signal arrives, and the pipe is waited for together with the
    file: what was written before the waiting begins ends it at once.
    """
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield _Heedful(fd, woken, ending)
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(wake)


class _Heedful:
    def __init__(self, fd: int, woken: int, ending: Ending) -> None:
        self._fd = fd
        self._woken = woken
        self._ending = ending

    def read(self, size: int) -> bytes:
        while True:
            ready, _, _ = select.select([self._fd, self._woken], [], [])
            if self._woken in ready:
                # before the look: a signal after it writes again
                os.read(self._woken, 512)
            self._ending.check()
            if self._fd in ready:
                return os.read(self._fd, size)
