"""Fixtures with a real PostgreSQL, and the names under which older tests import the pool."""

import importlib
import sys
from types import ModuleType

# also registered by the installed package; named here for runs from a checkout without one
pytest_plugins = ["poolkeeper.testing.plugin"]


def _alias_connection_pool() -> None:
    """Let ``from src.connection_pool.config import PoolConfig`` and its siblings resolve.

    Test files written for that layout are dropped into this folder unchanged.
    """
    for name in ("src", "src.connection_pool"):
        package = sys.modules.setdefault(name, ModuleType(name))
        # a package, or importing from below it fails
        package.__path__ = []
    for name in ("config", "exceptions", "manager"):
        module = importlib.import_module(f"poolkeeper.{name}")
        sys.modules[f"src.connection_pool.{name}"] = module
        setattr(sys.modules["src.connection_pool"], name, module)
    sys.modules["src"].connection_pool = sys.modules["src.connection_pool"]


_alias_connection_pool()


def pytest_terminal_summary(terminalreporter) -> None:
    """How many faults were made to happen one at a time, at a place of their own each."""
    points = sum(
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "fault_points"
    )
    if points:
        terminalreporter.write_line(f"{points} fault points")
