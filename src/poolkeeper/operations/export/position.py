"""How far an export is; what its checkpoints hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Finished:
    """A file that is complete and on disk, under its unfinished name.

    Attributes:
        part: Its number, from 1.
        attempt: The attempt that made it.
        size: Its length in bytes.
    """

    part: int
    attempt: int
    size: int


@dataclass(frozen=True, slots=True)
class Written:
    """How far the files are.

    Attributes:
        part: Number of the file being written, from 1.
        attempt: The attempt that made it; None: it has not been made.
        offset: Bytes of it that are on disk.
        raw: How many those were before compression, header included.
        finished: Files that are complete and may not have their final names yet.
    """

    part: int = 1
    attempt: int | None = None
    offset: int = 0
    raw: int = 0
    finished: tuple[Finished, ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """A checkpoint.

    Attributes:
        export: The export's id, a part of the names of its unfinished files.
        attempt: How many attempts have been made to go on, including the present one.
        after: The last key exported, as texts; None: nothing is.
        exhausted: Whether all rows are in the files, so that only names are left to give.
        bytes: Bytes in all files.
        written: How far the files are.
        part_after: Where files end with chunks: the last key before the file being written.
        part_rows: Where files end with chunks: how many rows are in it.
        again: How many rows come that have been counted before; see `rewound`.
    """

    export: str
    attempt: int = 0
    after: tuple[str, ...] | None = None
    exhausted: bool = False
    bytes: int = 0
    written: Written = Written()
    part_after: tuple[str, ...] | None = None
    part_rows: int = 0
    again: int = 0

    def to_cursor(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def of(cls, cursor: dict[str, Any]) -> Self:
        """The other way round."""
        written = dict(cursor["written"])
        written["finished"] = tuple(Finished(**file) for file in written["finished"])
        keys = {
            name: None if cursor[name] is None else tuple(cursor[name])
            for name in ("after", "part_after")
        }
        return cls(**cursor | keys | {"written": Written(**written)})

    def next_attempt(self, seen: int) -> Self:
        """The same place, taken by a new attempt.

        Args:
            seen: The last attempt known of; a database that went back may not know it any more.
        """
        return replace(self, attempt=max(self.attempt, seen) + 1)

    def moved(
        self,
        written: Written,
        *,
        rows: int,
        more: int,
        after: Sequence[str] | None,
        exhausted: bool,
    ) -> Self:
        """The place after a chunk of ``rows`` rows and ``more`` bytes."""
        key = self.after if after is None else tuple(after)
        same = written.part == self.written.part
        return replace(
            self,
            after=key,
            exhausted=exhausted,
            bytes=self.bytes + more,
            written=written,
            part_after=self.part_after if same else key,
            part_rows=self.part_rows + rows if same else 0,
            again=max(0, self.again - rows),
        )

    def rewound(self) -> Self:
        """The place where the file being written began, for files that end with chunks."""
        written = self.written
        return replace(
            self,
            after=self.part_after,
            bytes=self.bytes - written.offset,
            written=Written(written.part, finished=written.finished),
            part_rows=0,
            again=self.again + self.part_rows,
        )
