"""Which files operations of a process may touch, when others may write what is to be done.

Whoever may write to ``poolkeeper.operations`` can put an operation there, with any path in it: what
is read from the table is checked as carefully as what somebody asks for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from poolkeeper.operations.errors import NotHereError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from poolkeeper.operations.kind import (
        Chunk,
        Chunks,
        Json,
        Kind,
        Prepared,
        ReadAheadRun,
        Run,
        Sizing,
    )
    from poolkeeper.operations.model import OperationStatus

FILE_KINDS: Final = frozenset({"load", "export"})
"""Kinds that read or write files of the machine they run on."""

_EXPORT_ID: Final = re.compile(r"[0-9a-f]{8}")


def confined(kinds: Mapping[str, Kind], directory: Path | None) -> dict[str, Kind]:
    """The same kinds, but those that touch files do so below ``directory`` only; None: not at all.

    Args:
        kinds: By name.
        directory: Where files may be.
    """
    allowed: dict[str, Kind] = {}
    for name, kind in kinds.items():
        if name not in FILE_KINDS:
            allowed[name] = kind
        elif directory is not None:
            allowed[name] = _Confined(kind, directory.resolve())
    return allowed


def place_in(directory: Path, given: object) -> Path:
    """Where a path leads that may be relative to ``directory``; symbolic links are followed.

    Raises:
        NotHereError: Outside of ``directory``, or to itself.
    """
    try:
        if not isinstance(given, str) or "\0" in given or ".." in Path(given).parts:
            raise _outside(given)
        home = directory.resolve()
        place = (home / given).resolve()
    except (OSError, RuntimeError) as error:
        # links in a circle, or names that are too long
        raise _outside(given) from error
    if home not in place.parents:
        raise _outside(given)
    return place


class _Confined:
    """A kind whose files are in one directory."""

    def __init__(self, kind: Kind, directory: Path) -> None:
        self._kind = kind
        self._directory = directory

    @property
    def name(self) -> str:
        return self._kind.name

    @property
    def tunable(self) -> frozenset[str]:
        return self._kind.tunable

    def check(self, spec: Json) -> None:
        self._kind.check(spec)

    async def already_done(self, connection: Any, done: OperationStatus, chunks: Chunks) -> bool:
        done = replace(done, spec=self._inside(done.spec))
        return await self._kind.already_done(connection, done, chunks)

    async def prepare(self, connection: Any, spec: Json) -> Prepared:
        inside: Json = {
            key: str(place_in(self._directory, spec[key])) for key in ("path", "to") if key in spec
        }
        return await self._kind.prepare(connection, {**spec, **inside})

    def start(self, spec: Json, fingerprint: Json | None, chunks: Chunks) -> Run:
        run = self._kind.start(self._inside(spec), fingerprint, chunks)
        return _ConfinedExport(cast("ReadAheadRun", run)) if self.name == "export" else run

    def _inside(self, spec: Json) -> Json:
        """A prepared spec with the very place that was checked, and not what leads there."""
        if self.name == "load":
            return {**spec, "path": str(place_in(self._directory, spec.get("path")))}
        for key in ("file", "suffix"):
            _check_name(spec.get(key))
        target = spec.get("directory")
        if target == str(self._directory):
            return spec
        return {**spec, "directory": str(place_in(self._directory, target))}


class _ConfinedExport:
    """An export whose checkpoint, too, is believed only as far as it names files."""

    def __init__(self, run: ReadAheadRun) -> None:
        self._run = run

    @property
    def sizing(self) -> Sizing | None:
        return self._run.sizing

    async def begin(self, connection: Any, cursor: Json) -> None:
        if not _EXPORT_ID.fullmatch(str(cursor.get("export"))):
            raise _outside(cursor.get("export"))
        written = cursor.get("written") or {}
        for file in (written, *(written.get("finished") or ())):
            for number in (file.get("part"), file.get("attempt")):
                if number is not None and type(number) is not int:
                    raise _outside(number)
        if type(cursor.get("attempt")) is not int:
            raise _outside(cursor.get("attempt"))
        await self._run.begin(connection, cursor)

    @property
    def readers(self) -> int:
        return self._run.readers

    def read_with(
        self, connections: Sequence[Any], settings: str, cut_off: Callable[[Any], None]
    ) -> None:
        self._run.read_with(connections, settings, cut_off)

    async def chunk(self, connection: Any, size: int) -> Chunk:
        return await self._run.chunk(connection, size)

    async def committed(self, chunk: Chunk) -> None:
        await self._run.committed(chunk)

    async def close(self) -> None:
        await self._run.close()


def _check_name(name: object) -> None:
    if name is not None and (
        not isinstance(name, str) or "/" in name or "\\" in name or "\0" in name or name == ".."
    ):
        raise _outside(name)


def _outside(given: object) -> NotHereError:
    return NotHereError(
        f"{str(given)[:200]!r} is not a file below the directory that operations of this process "
        "may use. "
        "Suggestion: name a path relative to that directory, without .. and without links that "
        "lead out of it (of a server: the one of --operations-dir)."
    )
