"""Compressed output in pieces: each is a gzip member or Zstandard frame of its own.

A file of such pieces is a valid one for every tool, and it can be cut after any of them.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, Protocol

from poolkeeper.operations.codecs import zstd_module
from poolkeeper.operations.export.errors import ExportError

GZIP_LEVEL: Final = 6
ZSTD_LEVEL: Final = 3


class Compressor(Protocol):
    """Compresses one piece after another."""

    def compress(self, data: bytes) -> bytes:
        """What of the file is ready after ``data``; perhaps nothing yet."""

    def end_piece(self) -> bytes:
        """The rest of the piece; nothing if there was nothing in it."""


class Plain:
    """Leaves everything as it is."""

    def compress(self, data: bytes) -> bytes:
        """Give back ``data``."""
        return data

    def end_piece(self) -> bytes:
        """Nothing is held back."""
        return b""


class Gzip:
    """Members of a ``.gz`` file. The same data gives the same bytes: there is no time in them."""

    def __init__(self) -> None:
        self._member: Any = None

    def compress(self, data: bytes) -> bytes:
        """See `Compressor`."""
        if self._member is None:
            self._member = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        ready: bytes = self._member.compress(data)
        return ready

    def end_piece(self) -> bytes:
        """See `Compressor`."""
        if self._member is None:
            return b""
        rest: bytes = self._member.flush()
        self._member = None
        return rest


class Zstandard:
    """Frames of a ``.zst`` file."""

    def __init__(self) -> None:
        self._zstd = _zstd()
        self._frame: Any = None

    def compress(self, data: bytes) -> bytes:
        """See `Compressor`."""
        if self._frame is None:
            self._frame = self._zstd.ZstdCompressor(level=ZSTD_LEVEL)
        ready: bytes = self._frame.compress(data)
        return ready

    def end_piece(self) -> bytes:
        """See `Compressor`."""
        if self._frame is None:
            return b""
        rest: bytes = self._frame.flush(self._zstd.ZstdCompressor.FLUSH_FRAME)
        self._frame = None
        return rest


def compressor(compression: str) -> Compressor:
    """The one for ``none``, ``gzip`` or ``zstd``.

    Raises:
        ExportError: Zstandard is not installed.
    """
    if compression == "none":
        return Plain()
    return Gzip() if compression == "gzip" else Zstandard()


def _zstd() -> Any:
    module = zstd_module()
    if module is None:
        raise ExportError(
            "Zstandard (.zst) needs Python 3.14 or the package 'backports.zstd', and there is "
            "neither. Suggestion: pip install 'poolkeeper[zstd]', or export to .gz."
        )
    return module
