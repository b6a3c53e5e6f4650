"""Run benchmarks by name: ``python -m benchmarks acquire --quick``; without a name, all of them."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

USAGE = """\
usage: python -m benchmarks [--list] [NAME] [OPTIONS OF THE BENCHMARK]

Without a NAME every benchmark runs, with the same options. `NAME --help` explains them."""


def scripts() -> dict[str, str]:
    """Names of the benchmarks and the question each one answers."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.stem.startswith("__"):
            # read, not imported: a listing must not need the peers
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = docstring.partition("\n")[0]
    return found


def listing() -> str:
    return "\n".join(f"  {name:<20}{question}" for name, question in scripts().items())


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["--list"], ["--help"], ["-h"]):
        print(f"{USAGE}\n\nbenchmarks:\n{listing()}")
        return 0
    if not arguments or arguments[0].startswith("-"):
        codes = [import_module(f"benchmarks.{name}").main(arguments) for name in scripts()]
        return max(codes, default=0)
    name, *options = arguments
    if name not in scripts():
        print(f"There is no benchmark {name!r}. Suggestion: one of\n{listing()}", file=sys.stderr)
        return 2
    code: int = import_module(f"benchmarks.{name}").main(options)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
