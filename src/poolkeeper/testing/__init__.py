"""What tests against a real PostgreSQL need: servers and networks that can be broken, and a judge.

The pytest fixtures are in ``poolkeeper.testing.plugin``, which pytest loads by itself. Besides the
names below there are ``workloads`` and ``clients`` (work to do during a fault), ``history`` and
``checker`` (what clients saw, and whether it can be true).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolkeeper.testing.cluster import ReplicatedPostgres
    from poolkeeper.testing.embedded import FaultyPostgres
    from poolkeeper.testing.proxy import Direction, FaultProxy, Segment, SilentServer, Verdict
    from poolkeeper.testing.schedule import Schedule

__all__ = [
    "Direction",
    "FaultProxy",
    "FaultyPostgres",
    "ReplicatedPostgres",
    "Schedule",
    "Segment",
    "SilentServer",
    "Verdict",
]

_HOMES = {
    "Direction": "proxy",
    "FaultProxy": "proxy",
    "FaultyPostgres": "embedded",
    "ReplicatedPostgres": "cluster",
    "Schedule": "schedule",
    "Segment": "proxy",
    "SilentServer": "proxy",
    "Verdict": "proxy",
}


def __getattr__(name: str) -> Any:
    # pytest loads the plugin of this package wherever poolkeeper is installed; what the extra
    # brings may be missing there, and must be missed only by those who use it
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"poolkeeper.testing.{name} needs the module {error.name}, which is not installed. "
            "Suggestion: pip install 'poolkeeper[testing]'",
            name=error.name,
        ) from error
    return getattr(module, name)
