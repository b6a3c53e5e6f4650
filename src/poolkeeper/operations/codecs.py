"""Compression that not every Python has."""

from __future__ import annotations

import importlib
from typing import Any


def zstd_module() -> Any | None:
    """The standard library's module of Zstandard, or its backport for Pythons before 3.14.

    None: there is neither. ``pip install 'poolkeeper[zstd]'`` brings the backport.
    """
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None
