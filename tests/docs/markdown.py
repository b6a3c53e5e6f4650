"""The pages, and the Python in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """A fenced block, and where it begins."""

    page: Path
    line: int
    code: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """What the reader is told to save it as; it may then need the page's other files."""
        match = re.match(r"# (\w+\.py)\n", self.code)
        return match[1] if match else None

    @property
    def is_test_file(self) -> bool:
        return "def test_" in self.code and self.file is None

    @property
    def is_program(self) -> bool:
        return "asyncio.run(" in self.code or "with FaultyPostgres(" in self.code


def snippets() -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Snippet(page, line, match[1]))
    return found
