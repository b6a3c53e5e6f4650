"""Compressed files: gzip and zstd."""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from poolkeeper.operations.codecs import zstd_module
from poolkeeper.operations.load.errors import SourceError
from poolkeeper.operations.load.forward import Skipping

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from poolkeeper.operations.load.raw_file import RawFile

RAW_BLOCK: Final = 1 << 18
"""How much of a compressed file is read at a time."""
DECODED_BLOCK: Final = 1 << 20
"""How much of it is decoded at a time, at the most: a file of zeros unpacks a thousandfold."""

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


class Decompressed(Skipping):
    """The contents of a compressed file, of all its members one after another."""

    def __init__(self, raw: RawFile, codec: _Codec, abandoned: threading.Event) -> None:
        super().__init__(raw.path, abandoned)
        self._raw = raw
        self._codec = codec
        self._start()

    @property
    def raw_position(self) -> int:
        """How far in the compressed file."""
        return self._raw.raw_position

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def _start(self) -> None:
        self._member: _Decompressor | None = None
        self._pending = b""
        self._members = 0

    def _restart(self) -> None:
        self._raw.seek(0)
        self._start()

    def _decode(self, size: int) -> bytes:
        while True:
            if self._member is None and not self._next_member():
                return b""
            member = self._member
            assert member is not None
            if not self._pending and member.needs_input:
                self._pending = self._raw.read(RAW_BLOCK)
                if not self._pending:
                    raise self._truncated()
            try:
                data = member.decompress(self._pending, min(size, DECODED_BLOCK))
            except self._codec.errors as error:
                raise self._damaged(error) from error
            self._pending = member.rest
            if member.eof:
                self._member = None
            if data:
                return data

    def _next_member(self) -> bool:
        """Begin the next member; False at the end of the file."""
        while len(self._pending) < len(self._codec.magic):
            block = self._raw.read(RAW_BLOCK)
            if not block:
                break
            self._pending += block
        if self._members and self._codec.zero_padding:
            # gzip allows it: tapes have blocks
            while not self._pending.strip(b"\0"):
                self._pending = self._raw.read(RAW_BLOCK)
                if not self._pending:
                    return False
        if not self._pending:
            if not self._members:
                raise SourceError(
                    f"{self.path} is empty, which no {self._codec.name} file is. Suggestion: "
                    "check how it was made, or name its compression ('none').",
                    path=self.path,
                )
            return False
        if not self._codec.begins(self._pending):
            if self._codec.magic.startswith(self._pending):
                self._pending = b""
                raise self._truncated()
            raise self._garbage()
        self._member = self._codec.new()
        self._members += 1
        return True

    def _place(self) -> str:
        return (
            f"at byte {self._raw.raw_position - len(self._pending):,} of {self._raw.size:,} "
            f"({self.position:,} bytes decompressed)"
        )

    def _truncated(self) -> SourceError:
        self._raw.check()
        return SourceError(
            f"{self.path} is a truncated {self._codec.name} file: it ends {self._place()}, in the "
            "middle of its data. Rows committed so far stay. Suggestion: copy or download the file "
            f"again; `{self._codec.test} {self.path}` tells whether it is whole.",
            path=self.path,
            offset=self.position,
        )

    def _damaged(self, error: Exception) -> SourceError:
        return SourceError(
            f"{self.path} is a damaged {self._codec.name} file: {error} {self._place()}. Rows "
            "committed so far stay. Suggestion: copy or download the file again; "
            f"`{self._codec.test} {self.path}` tells whether it is whole.",
            path=self.path,
            offset=self.position,
        )

    def _garbage(self) -> SourceError:
        if not self._members:
            return SourceError(
                f"{self.path} is no {self._codec.name} file: it begins with "
                f"{self._pending[:8]!r}. Suggestion: name its compression ('none', 'gzip' or "
                "'zstd').",
                path=self.path,
            )
        return SourceError(
            f"{self.path} has something after the end of its {self._codec.name} data, "
            f"{self._place()}: {self._pending[:16]!r}. All rows before it are loaded. Suggestion: "
            "copy or download the file again, or cut the rest off.",
            path=self.path,
            offset=self.position,
        )


class _Decompressor(Protocol):
    needs_input: bool
    eof: bool
    rest: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)
        self.needs_input = True
        self.eof = False
        self.rest = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        result = self._object.decompress(data, max_length)
        self.eof = self._object.eof
        self.rest = self._object.unused_data if self.eof else self._object.unconsumed_tail
        # even without a rest there may be output left inside, when the last call filled max_length
        self.needs_input = len(result) < max_length
        return result


class _Unzstd:
    def __init__(self, module: Any) -> None:
        self._object = module.ZstdDecompressor()
        self.needs_input = True
        self.eof = False
        self.rest = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        result: bytes = self._object.decompress(data, max_length)
        self.eof = self._object.eof
        self.rest = self._object.unused_data if self.eof else b""
        self.needs_input = self._object.needs_input
        return result


class _Codec:
    def __init__(
        self,
        name: str,
        magic: bytes,
        new: Callable[[], _Decompressor],
        errors: tuple[type[Exception], ...],
        *,
        zero_padding: bool,
        test: str,
    ) -> None:
        self.name = name
        self.magic = magic
        self.new = new
        self.errors = errors
        self.zero_padding = zero_padding
        self.test = test

    def begins(self, data: bytes) -> bool:
        if data.startswith(self.magic):
            return True
        # a frame of zstd that carries no data
        return self.name == "zstd" and data[1:4] == b"\x2a\x4d\x18" and data[0] & 0xF0 == 0x50


def _gzip_codec(_path: str) -> _Codec:
    return _Codec("gzip", GZIP_MAGIC, _Gunzip, (zlib.error,), zero_padding=True, test="gzip -t")


def _zstd_codec(path: str) -> _Codec:
    module = zstd_module()
    if module is None:
        raise SourceError(
            f"{path} is compressed with zstd, which this Python cannot read by itself. Suggestion: "
            "pip install 'poolkeeper[zstd]', or use Python 3.14.",
            path=path,
        )
    return _Codec(
        "zstd",
        ZSTD_MAGIC,
        partial(_Unzstd, module),
        (module.ZstdError,),
        zero_padding=False,
        test="zstd -t",
    )


COMPRESSIONS: Final[dict[str, Callable[[str], _Codec]]] = {
    "gzip": _gzip_codec,
    "zstd": _zstd_codec,
}
