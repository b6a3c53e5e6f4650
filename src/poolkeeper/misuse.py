"""A pool belongs to one event loop: what to say to a call from anywhere else."""

from __future__ import annotations

import os
import threading

from poolkeeper.exceptions import PoolUsageError


class Home:
    """The process and thread a pool was opened in."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._thread = threading.get_ident()

    def stranger(self) -> PoolUsageError:
        """The error for a caller that is not at home, by what sets it apart."""
        if os.getpid() != self._pid:
            return PoolUsageError(
                f"This pool was opened in process {self._pid} and is used in process "
                f"{os.getpid()}: connections cannot be shared across a fork. Suggestion: open a "
                "pool in each process, after the fork."
            )
        if threading.get_ident() != self._thread:
            return PoolUsageError(
                "This pool belongs to the event loop of another thread. Suggestion: hand the work "
                "to that loop with asyncio.run_coroutine_threadsafe(), or open a pool here."
            )
        return PoolUsageError(
            "This pool belongs to another event loop than the running one. Suggestion: open the "
            "pool inside the loop that uses it; with pytest-asyncio give fixture and test the "
            "same loop scope."
        )
