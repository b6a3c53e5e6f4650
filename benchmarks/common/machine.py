"""What a number was measured on."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("poolkeeper", "asyncpg", "psycopg", "psycopg-pool", "SQLAlchemy", "uvloop")


def describe(*, loop: str, postgres: str) -> dict[str, Any]:
    """Facts about this machine and process; ``load`` tells how quiet it was beforehand."""
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return {
        "cores": cores,
        "cpu": _cpu(),
        "system": f"{platform.system()} {platform.release()}",
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": loop,
        "postgresql": postgres,
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def sentence(machine: dict[str, Any]) -> str:
    libraries = ", ".join(
        f"{name} {number}" for name, number in machine["libraries"].items() if number is not None
    )
    load = " ".join(map(str, machine["load"]))
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['system']}, load before {load}. "
        f"{machine['python']} with {machine['loop']}, PostgreSQL {machine['postgresql']}. "
        f"{libraries}."
    )


def _cpu() -> str:
    try:
        found = re.search(r"(?m)^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        if distribution != "poolkeeper":
            return None
    # run from a checkout that was never installed
    from poolkeeper import __version__

    return __version__
