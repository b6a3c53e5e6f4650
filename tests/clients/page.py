"""The JavaScript on the page about these clients, and what it says that it prints."""

import re
from pathlib import Path

from tests.clients.node import HERE, connection_string

PAGE = HERE.parents[1] / "docs" / "how-to" / "neon-clients.md"
_ENDPOINT = "http://127.0.0.1:8020/sql"
_URL = "postgresql://postgres:none@localhost/postgres"
_PROGRAM = re.compile(
    r"^```js\n// (?P<name>\w+\.mjs)\n(?P<code>.*?)^```$"
    r"(?:(?:(?!^```).)*?^```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)

PROGRAMS = {match["name"]: match for match in _PROGRAM.finditer(PAGE.read_text(encoding="utf-8"))}
PRINTED = {name: match["printed"] for name, match in PROGRAMS.items() if match["printed"]}


def save_programs(folder: Path, server) -> None:
    """What a reader of the page has in a folder, for a server somewhere else."""
    for name, match in PROGRAMS.items():
        code = match["code"].replace(_ENDPOINT, f"{server.url}/sql")
        code = code.replace(_URL, connection_string(server.database_url))
        (folder / name).write_text(code, encoding="utf-8")
    (folder / "node_modules").symlink_to(HERE / "node_modules")
