"""The how-to knows everything there is."""

import ast
import re
from pathlib import Path

import poolkeeper.asgi
from poolkeeper.asgi import failures

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "web-frameworks.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([\d, ]+) \| `([\w-]+)` \| (\w+) \|", re.MULTILINE)


def calls(name):
    """Status and further arguments of every call in the module, each status of a choice."""
    tree = ast.parse(Path(failures.__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
            status, kind, outcome = node.args[:3]
            if isinstance(kind, ast.Constant):
                for part in ast.walk(status):
                    if isinstance(part, ast.Constant) and isinstance(part.value, int):
                        yield part.value, kind.value, outcome.value


def test_every_kind_of_failure_is_on_the_page_and_no_other():
    """With its status and outcome."""
    listed = {
        (int(status), kind, outcome)
        for statuses, kind, outcome in ROW.findall(TEXT)
        for status in statuses.split(",")
    }
    assert listed == {*calls("_Rule"), *calls("Failure")}


def test_every_public_name_is_on_the_page():
    """And documented where it is."""
    for name in poolkeeper.asgi.__all__:
        assert re.search(rf"\b{name}\b", TEXT), name
        assert getattr(poolkeeper.asgi, name).__doc__, name
