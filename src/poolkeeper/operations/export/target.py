"""Where an export goes: one file or numbered part files, and their names while unfinished."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Unfinished(NamedTuple):
    """An unfinished file.

    Attributes:
        path: Where it is.
        part: Its number, from 1.
        attempt: The attempt that made it.
        extra: What else its name says.
    """

    path: Path
    part: int
    attempt: int
    extra: str


@dataclass(frozen=True, slots=True)
class Target:
    """Names of the files of one export.

    An unfinished file is called ``.part-000001.csv.1f2e3d4c-7.tmp`` or
    ``out.csv.1f2e3d4c-7.partial``: the export's id, so that two exports to one place do not touch
    each other's, and the attempt that has made it, so that no worker that was believed dead
    touches those of its successor.

    Attributes:
        directory: Where the files are.
        file: Name of the one file; None for part files.
        suffix: What the names of part files end with: ``.csv.gz``.
        export: Eight hexadecimal digits.
    """

    directory: Path
    file: str | None
    suffix: str
    export: str

    def final(self, part: int) -> Path:
        """The name of a finished file; parts count from 1."""
        return self.directory / (self.file or f"part-{part:06}{self.suffix}")

    def unfinished(self, part: int, attempt: int, extra: str = "") -> Path:
        """Its name until then."""
        mark = f"{self.export}-{attempt}"
        if self.file is not None:
            return self.directory / f"{self.file}.{mark}{extra}.partial"
        return self.directory / f".part-{part:06}{self.suffix}.{mark}{extra}.tmp"

    def unfinished_files(self) -> Iterator[Unfinished]:
        """Every unfinished file of this export that is there."""
        if self.file is not None:
            before, after = re.escape(self.file), "partial"
        else:
            before, after = r"\.part-(?P<part>\d{6,})" + re.escape(self.suffix), "tmp"
        mark = rf"{self.export}-(?P<attempt>\d+)(?P<extra>\.\w+)?"
        name = re.compile(rf"{before}\.{mark}\.{after}")
        for path in self.directory.iterdir():
            if found := name.fullmatch(path.name):
                part = 1 if self.file is not None else int(found["part"])
                yield Unfinished(path, part, int(found["attempt"]), found["extra"] or "")

    @property
    def unfinished_pattern(self) -> Path:
        """What a shell knows all unfinished files of this export by."""
        if self.file is not None:
            return self.directory / f"{self.file}.{self.export}-*.partial"
        return self.directory / f".part-*{self.suffix}.{self.export}-*.tmp"

    def finished_files(self) -> Iterator[tuple[Path, int]]:
        """Every file of any export that is there under a final name, with the number of its part.

        Parts this export will never have are among them.
        """
        if self.file is not None:
            if self.final(1).exists():
                yield self.final(1), 1
            return
        name = re.compile(r"part-(\d{6,})" + re.escape(self.suffix))
        for path in self.directory.iterdir():
            if found := name.fullmatch(path.name):
                yield path, int(found[1])
