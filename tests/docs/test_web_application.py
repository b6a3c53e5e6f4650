"""The tutorial's application survives what the tutorial does to it."""

import pytest

from tests.docs.markdown import ROOT, snippets
from tests.docs.runner import run

PAGE = ROOT / "docs" / "tutorial" / "web-application.md"
FILES = {
    snippet.file: snippet.code for snippet in snippets() if snippet.page == PAGE and snippet.file
}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("test_")])
def test_the_tutorials_tests_pass(name, tmp_path) -> None:
    for file, code in FILES.items():
        (tmp_path / file).write_text(code, encoding="utf-8")
    options = ("-q", "-p", "poolkeeper.testing.plugin", "-p", "no:cacheprovider")
    output = run("-m", "pytest", *options, name, cwd=tmp_path)
    assert "1 passed" in output
