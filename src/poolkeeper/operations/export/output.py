"""The files of an export as they are written: they grow chunk by chunk, and can be cut back.

Nothing here waits for an event loop or knows of SQL: an export calls it from a thread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from poolkeeper.operations.export.compression import compressor
from poolkeeper.operations.export.errors import ExportFileMissingError
from poolkeeper.operations.export.growing import GrowingFile, sync_directory
from poolkeeper.operations.export.ownership import is_marked
from poolkeeper.operations.export.position import Finished, Written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from poolkeeper.operations.export.target import Target


class Output:
    """The files of one export in one process.

    Args:
        target: Their names.
        compression: ``none``, ``gzip`` or ``zstd``.
        part_bytes: A file of at least so many bytes, uncompressed, is followed by another one;
            None: there is one file only.
        whole_chunks: Whether files only end where chunks do.
        published_as_written: Whether files are published as they are, so that one can be gone on
            with that has its final name already.
    """

    def __init__(
        self,
        target: Target,
        *,
        compression: str,
        part_bytes: int | None,
        whole_chunks: bool = False,
        published_as_written: bool = True,
    ) -> None:
        self._target = target
        self._whole_chunks = whole_chunks
        self._published_as_written = published_as_written
        self.header = b""
        """What each file begins with; to be set before the first row."""
        self._compressor = compressor(compression)
        self._compression = compression
        self._part_bytes = part_bytes
        self._file: GrowingFile | None = None
        self._written = Written()
        self._raw = 0
        self._attempt = 0
        self._new_names = False
        self._grown = 0

    def open(self, written: Written) -> None:
        """Be where a checkpoint says, forgetting everything since; no file is changed.

        Raises:
            ExportError: What is committed is not there.
        """
        self.close()
        # a new one: the old one may hold the beginning of a piece that does not count
        self._compressor = compressor(self._compression)
        self._written = written
        self._raw = written.raw
        self._new_names = False
        self._grown = 0
        if written.attempt is not None:
            self._file = self._reopen(written, written.attempt)

    def latest_attempt(self) -> int:
        """The last attempt of which there are files."""
        return max((file.attempt for file in self._target.unfinished_files()), default=0)

    def take(self, attempt: int, finished: Sequence[Finished]) -> None:
        """Cut off what was written after the checkpoint and make ready to write.

        Only for an attempt that has made sure that no other one can commit anything any more.

        Args:
            attempt: Its number, which no other attempt has.
            finished: Files that are being given their names.

        Raises:
            ExportError: The file cannot be written.
        """
        self._attempt = attempt
        self._remove_leftovers(finished)
        self._written = replace(self._written, finished=())
        if self._file is not None:
            old = self._file.path
            self._file.take(self._target.unfinished(self._written.part, attempt))
            if self._file.path != old:
                self._new_names = True
                self._written = replace(self._written, attempt=attempt)

    def write(self, buffers: Sequence[bytes]) -> None:
        """Append whole rows.

        Raises:
            ExportError: The disk is full, or anything else is wrong with it.
        """
        for buffer in buffers:
            if self._is_full() and not self._whole_chunks:
                self._finish_file()
            self._append(buffer)

    def checkpoint(self) -> tuple[Written, int]:
        """Bring everything written to disk; where that is, and what is new since the last time.

        Returns how far the files are, with those finished since, and by how many bytes they grew.

        Raises:
            ExportError: The disk is full, or anything else is wrong with it.
        """
        if self._whole_chunks and self._is_full():
            self._finish_file()
        if self._file is not None:
            self._end_piece(self._file)
        if self._new_names:
            sync_directory(self._target.directory)
            self._new_names = False
        written, grown = self._state(), self._grown
        self._written = replace(self._written, finished=())
        self._grown = 0
        return written, grown

    def finish(self) -> tuple[Written, int]:
        """Bring everything to disk and begin no file any more; there is one even without rows.

        Raises:
            ExportError: The disk is full, or anything else is wrong with it.
        """
        if self._file is not None or not (self._written.finished or self._written.part > 1):
            if self._file is None:
                self._append(b"")
            self._finish_file()
        return self.checkpoint()

    def close(self) -> None:
        """Let go of the file. Harmless when there is none."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _reopen(self, written: Written, attempt: int) -> GrowingFile:
        try:
            path = self._target.unfinished(written.part, attempt)
            return GrowingFile.reopen(path, written.offset)
        except ExportFileMissingError:
            # Perhaps a failover has lost checkpoints, and the file has gone its way since: its
            # beginning still is what this checkpoint counts.
            for path in self._successors(written.part, attempt):
                return GrowingFile.reopen(path, written.offset, copying=True)
            raise

    def _successors(self, part: int, attempt: int) -> Iterator[Path]:
        """Files in which an unfinished one that is gone may have been continued."""
        for file in list(self._target.unfinished_files()):
            if file.part == part and file.attempt > attempt and not file.extra:
                yield file.path
        final = self._target.final(part)
        if self._published_as_written and is_marked(final, self._target.export, part):
            yield final

    def _is_full(self) -> bool:
        return (
            self._file is not None
            and self._part_bytes is not None
            and self._raw >= self._part_bytes
        )

    def _append(self, data: bytes) -> None:
        if self._file is None:
            path = self._target.unfinished(self._written.part, self._attempt)
            self._file = GrowingFile.create(path)
            self._new_names = True
            self._written = Written(
                self._written.part, self._attempt, finished=self._written.finished
            )
            self._raw = 0
            data = self.header + data
        self._raw += len(data)
        self._grown += self._file.write((self._compressor.compress(data),))

    def _end_piece(self, file: GrowingFile) -> None:
        self._grown += file.write((self._compressor.end_piece(),))
        file.sync()

    def _finish_file(self) -> None:
        assert self._file is not None, "there is no file to finish"
        self._end_piece(self._file)
        written = self._written
        assert written.attempt is not None, "an open file has been made by somebody"
        done = Finished(written.part, written.attempt, self._file.size)
        self.close()
        self._written = Written(written.part + 1, finished=(*written.finished, done))
        self._raw = 0

    def _state(self) -> Written:
        written = self._written
        size = 0 if self._file is None else self._file.size
        return Written(written.part, written.attempt, size, self._raw, written.finished)

    def _remove_leftovers(self, finished: Sequence[Finished]) -> None:
        """Delete what earlier attempts have written and not committed."""
        kept = {self._target.unfinished(file.part, file.attempt) for file in finished}
        if self._file is not None:
            kept.add(self._file.path)
        for file in list(self._target.unfinished_files()):
            # never one of a later attempt: this one may have been frozen and believed dead
            if file.attempt <= self._attempt and file.path not in kept:
                file.path.unlink(missing_ok=True)
