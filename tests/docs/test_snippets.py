"""The Python in README and docs is code that works."""

import ast
import importlib

import pytest

from poolkeeper import ConnectionPoolManager, PoolConfig
from tests.docs.markdown import snippets
from tests.docs.runner import run

# one page shows what becomes of it
MISSPELT = "timout"

SNIPPETS = snippets()
PROGRAMS = [snippet for snippet in SNIPPETS if snippet.is_program and not snippet.is_test_file]
FILES = {snippet.file for snippet in SNIPPETS}
TEST_FILES = [snippet for snippet in SNIPPETS if snippet.is_test_file]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_every_name_a_snippet_imports_or_calls_exists(snippet) -> None:
    """It compiles; imports resolve; methods of ``pool`` and options of ``PoolConfig`` exist."""
    compile(snippet.code, snippet.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(ast.parse(snippet.code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.py" not in FILES:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "pool":
                assert hasattr(ConnectionPoolManager, node.attr), f"pool.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "PoolConfig":
            options = {keyword.arg for keyword in node.keywords} - {MISSPELT}
            assert options <= set(PoolConfig.model_fields)


@pytest.mark.parametrize("snippet", PROGRAMS, ids=lambda snippet: snippet.name)
def test_programs_run(snippet, postgres, tmp_path) -> None:
    """To their end, on a real database."""
    script = tmp_path / "snippet.py"
    script.write_text(snippet.code, encoding="utf-8")
    run("-W", "error", script, cwd=tmp_path, database_url=postgres.url)


@pytest.mark.parametrize("snippet", TEST_FILES, ids=lambda snippet: snippet.name)
def test_tests_pass(snippet, tmp_path) -> None:
    """With the fixtures this package brings."""
    script = tmp_path / "test_snippet.py"
    script.write_text(snippet.code, encoding="utf-8")
    options = ("-q", "-p", "poolkeeper.testing.plugin", "-p", "no:cacheprovider")
    output = run("-m", "pytest", *options, script, cwd=tmp_path)
    assert f"{snippet.code.count('def test_')} passed" in output
