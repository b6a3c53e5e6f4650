"""Every promise on the page of guarantees is a test in the same words, and every test a promise."""

import ast

from tests.docs.markdown import ROOT

PAGE = ROOT / "docs" / "explanation" / "guarantees.md"


def promises() -> list[str]:
    """The items of the lists, up to the list of what is not promised."""
    text = PAGE.read_text(encoding="utf-8").partition("## Not promised")[0]
    return [line[2:] for line in text.splitlines() if line.startswith("- ")]


def first_lines() -> list[str]:
    """First lines of the docstrings of the tests."""
    return [
        (ast.get_docstring(node) or "").partition("\n")[0]
        for path in sorted((ROOT / "tests" / "guarantees").glob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
        and node.name.startswith("test_")
    ]


def test_the_page_promises_what_is_tested_and_nothing_else() -> None:
    assert sorted(promises()) == sorted(first_lines())


def test_there_are_promises() -> None:
    assert len(promises()) >= 15
