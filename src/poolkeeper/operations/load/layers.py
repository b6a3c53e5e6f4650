"""Files as streams of decoded bytes: plain, compressed, and in encodings PostgreSQL cannot take.

Positions in a stream are counted in decoded bytes, so that a cursor means the same whatever the
file is packed in. Going back to one costs decoding what is before it, except in a plain file.
"""

from __future__ import annotations

import codecs
import threading
from typing import Final, Protocol, Self

from poolkeeper.operations.load.compression import COMPRESSIONS, Decompressed
from poolkeeper.operations.load.errors import AbandonedError, SourceError
from poolkeeper.operations.load.forward import Skipping
from poolkeeper.operations.load.raw_file import RawFile

DECODED_BLOCK: Final = 1 << 20
UTF8_BOM: Final = codecs.BOM_UTF8


class Layer(Protocol):
    """A stream of bytes."""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, and only at the end none.

        Raises:
            SourceError: The stream is damaged here.
        """

    def seek(self, offset: int) -> None:
        """Go to a position; one beyond the end is an error."""

    @property
    def raw_position(self) -> int:
        """How many bytes of the file have been used."""

    def close(self) -> None:
        """Close the file."""


class Transcoded(Skipping):
    """A stream of text as UTF-8, for encodings that PostgreSQL does not have."""

    def __init__(self, source: Layer, path: str, codec: str, abandoned: threading.Event) -> None:
        super().__init__(path, abandoned)
        self._source = source
        self._codec = codec
        self._start()

    @property
    def raw_position(self) -> int:
        """How far in the file."""
        return self._source.raw_position

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def _start(self) -> None:
        self._decoder = codecs.getincrementaldecoder(self._codec)()
        self._ended = False
        self._pending = b""
        self._read = 0

    def _restart(self) -> None:
        self._source.seek(0)
        self._start()

    def _decode(self, size: int) -> bytes:
        while not self._pending and not self._ended:
            block = self._source.read(min(max(size, 4096), DECODED_BLOCK))
            self._ended = not block
            try:
                text = self._decoder.decode(block, final=self._ended)
                if not self._read and text.startswith("\N{BYTE ORDER MARK}"):
                    text = text[1:]
                self._pending = text.encode()
            except UnicodeError as error:
                raise self._undecodable(error) from error
            self._read += len(block)
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def _undecodable(self, error: UnicodeError) -> SourceError:
        return SourceError(
            f"{self.path} is not in the encoding {self._codec}: {error} (in the block that begins "
            f"at byte {self._read:,}). Rows committed so far stay. Suggestion: name the "
            "encoding the file really has; `file` may know it.",
            path=self.path,
            offset=self.position,
        )


class Stream:
    """A file with all its layers.

    Attributes:
        path: The file.
        raw_size: Its size in bytes.
        start: Position of the first byte of data: 3 after a byte order mark of UTF-8.
        is_plain: Whether its positions are those of the file.
        abandoned: May be set by another thread: what is done with it then ends soon, with
            `AbandonedError`.
    """

    def __init__(
        self,
        path: str,
        compression: str | None,
        transcode_from: str | None,
        abandoned: threading.Event | None = None,
    ) -> None:
        self.path = path
        self.abandoned = threading.Event() if abandoned is None else abandoned
        self._raw = RawFile(path)
        self.raw_size = self._raw.size
        self.is_plain = compression is None and transcode_from is None
        try:
            layer: Layer = self._raw
            if compression is not None:
                layer = Decompressed(self._raw, COMPRESSIONS[compression](path), self.abandoned)
            if transcode_from is not None:
                layer = Transcoded(layer, path, transcode_from, self.abandoned)
            self.start = 0 if transcode_from is not None else _bom_size(layer)
            self._layer = layer
            layer.seek(self.start)
        except BaseException:
            self._raw.close()
            raise

    def read(self, size: int) -> bytes:
        """``size`` bytes; fewer only at the end.

        Raises:
            AbandonedError: Nobody waits for it any more.
            SourceError: The file is damaged here, or has changed.
        """
        if self.abandoned.is_set():
            raise AbandonedError
        data = self._layer.read(size)
        if len(data) == size or not data:
            return data
        parts = [data]
        missing = size - len(data)
        while missing and (data := self._layer.read(missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def seek(self, offset: int) -> None:
        """Go to a position in the decoded stream; before ``start`` is ``start``."""
        self._layer.seek(max(offset, self.start))

    @property
    def raw_position(self) -> int:
        """How many bytes of the file have been used."""
        return self._layer.raw_position

    def check(self) -> None:
        """See that the file has not changed since it was opened; see ``RawFile.check``."""
        self._raw.check()

    def close(self) -> None:
        """Close the file; idempotent."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _bom_size(layer: Layer) -> int:
    head = b""
    while len(head) < len(UTF8_BOM) and (data := layer.read(len(UTF8_BOM) - len(head))):
        head += data
    return len(UTF8_BOM) if head == UTF8_BOM else 0
