"""Every kind of operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolkeeper.operations.custom import Steps
    from poolkeeper.operations.kind import Kind


def kinds(steps: Steps) -> dict[str, Kind]:
    """All of them, by name.

    Args:
        steps: What operations of kind ``custom`` can do in this process.
    """
    # Half of what importing the package costs, and only needed by whoever creates or works.
    from poolkeeper.operations.backfill.kind import BackfillKind  # noqa: PLC0415
    from poolkeeper.operations.custom import CustomKind  # noqa: PLC0415
    from poolkeeper.operations.export.kind import ExportKind  # noqa: PLC0415
    from poolkeeper.operations.load.kind import LoadKind  # noqa: PLC0415

    every: list[Kind] = [BackfillKind(), CustomKind(steps), ExportKind(), LoadKind()]
    return {kind.name: kind for kind in every}
