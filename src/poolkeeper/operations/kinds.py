"""Every kind of operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.operations.backfill.kind import BackfillKind
from poolkeeper.operations.custom import CustomKind
from poolkeeper.operations.export.kind import ExportKind
from poolkeeper.operations.load.kind import LoadKind

if TYPE_CHECKING:
    from poolkeeper.operations.custom import Steps
    from poolkeeper.operations.kind import Kind


def kinds(steps: Steps) -> dict[str, Kind]:
    """All of them, by name.

    Args:
        steps: What operations of kind ``custom`` can do in this process.
    """
    every: list[Kind] = [BackfillKind(), CustomKind(steps), ExportKind(), LoadKind()]
    return {kind.name: kind for kind in every}
