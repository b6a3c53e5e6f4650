"""Seeking in a stream that only goes forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poolkeeper.operations.load.errors import AbandonedError
from poolkeeper.operations.load.raw_file import beyond_the_end

if TYPE_CHECKING:
    import threading

SKIP_BLOCK: Final = 1 << 20


class Skipping:
    """Seeking in a stream that only goes forward: skip, or start over and skip.

    Args:
        path: The file, for errors.
        abandoned: Set when nobody waits for it any more; a long way is not gone to its end then.
    """

    def __init__(self, path: str, abandoned: threading.Event) -> None:
        self.path = path
        self._abandoned = abandoned
        self.position = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, and only at the end none."""
        data = self._decode(size)
        self.position += len(data)
        return data

    def seek(self, offset: int) -> None:
        """Go to a position; one beyond the end is an error.

        Raises:
            AbandonedError: Nobody waits for it any more.
        """
        if offset < self.position:
            self._restart()
            self.position = 0
        while self.position < offset:
            if self._abandoned.is_set():
                raise AbandonedError
            if not self.read(min(SKIP_BLOCK, offset - self.position)):
                raise beyond_the_end(self.path, offset, self.position)

    def _decode(self, size: int) -> bytes:
        raise NotImplementedError

    def _restart(self) -> None:
        raise NotImplementedError
