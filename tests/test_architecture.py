"""What the shape of the code promises: arrows point one way, drivers stay in their files."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path
from types import ModuleType

import pytest

import poolkeeper

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "poolkeeper"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
LONGEST_FILE = 700


def imports_at_run_time(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of every import, also those inside functions, except for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for alternative in node.orelse:
                yield from imports_at_run_time(alternative)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.lineno, str(node.module)
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        else:
            yield from imports_at_run_time(node)


def importers(package: str, *, allowed: tuple[str, ...]) -> list[str]:
    """Where a package is imported outside the folders and files that may."""
    return [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in MODULES
        if not path.relative_to(PACKAGE).as_posix().startswith(allowed)
        for line, module in imports_at_run_time(ast.parse(path.read_text()))
        if module == package or module.startswith(f"{package}.")
    ]


def test_imports_point_one_way() -> None:
    """The layers of pyproject.toml, checked by import-linter."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=PROJECT,
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": "", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 kept, 0 broken" in run.stdout


def test_every_module_has_its_place_in_the_layers() -> None:
    """The contract says nothing about a module it does not name."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    placed = set(re.findall(r"poolkeeper\.(\w+)", " ".join(contract["layers"])))
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert modules - placed == {"__init__", "__main__"}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("asyncpg", ("drivers/asyncpg", "testing/")),
        ("psycopg", ("drivers/psycopg", "server/", "cli/", "testing/")),
        ("sqlalchemy", ()),
        ("psycopg_pool", ()),
        ("unittest", ()),
        # drill is the tests' tools as a command, in the same extra
        ("poolkeeper.testing", ("testing/", "drill/")),
    ],
)
def test_a_package_is_imported_only_where_it_belongs(
    package: str, allowed: tuple[str, ...]
) -> None:
    """A driver can be replaced in one place; test tools never run in production."""
    assert importers(package, allowed=allowed) == []


def test_the_core_knows_no_clock_no_loop_and_no_dice() -> None:
    """Time and chance are arguments there: every decision can be replayed."""
    for module in ("asyncio", "time", "datetime", "random", "threading", "socket", "os"):
        found = importers(module, allowed=tuple(_outside("core")))
        assert found == []


def _outside(folder: str) -> Iterator[str]:
    for path in MODULES:
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(f"{folder}/"):
            yield name


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=lambda path: path.stem)
def test_no_file_is_too_long_to_read(path: Path) -> None:
    """A file holds one idea."""
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


def test_every_public_name_is_documented() -> None:
    """Including the public methods of public classes."""
    undocumented = [
        name
        for name in poolkeeper.__all__
        if not isinstance(getattr(poolkeeper, name), (str, ModuleType))
        and not (getdoc(getattr(poolkeeper, name)) or "").strip()
    ]
    assert undocumented == []
    methods = [
        f"{name}.{method}"
        for name in poolkeeper.__all__
        if isinstance(public := getattr(poolkeeper, name), type)
        for method, value in vars(public).items()
        if not method.startswith("_") and callable(value) and not getdoc(getattr(public, method))
    ]
    assert methods == []


def test_the_package_says_that_it_is_typed() -> None:
    """Type checkers ignore the annotations of packages without this file."""
    assert (PACKAGE / "py.typed").exists()
