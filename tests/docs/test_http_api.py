"""The requests in the how-to of the HTTP API do what the page says."""

import json
import re
import shutil
import subprocess

import pytest

from tests.docs.markdown import ROOT
from tests.server.processes import ServerProcess

PAGE = ROOT / "docs" / "how-to" / "http-api.md"
DEFAULT = "http://127.0.0.1:8020"


def fences(language):
    """The blocks of the page in this language."""
    fence = rf"^```{language}\n(.*?)^```$"
    return re.findall(fence, PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed; apt-get install curl"
)
def test_every_request_of_the_page_succeeds(postgres):
    """In the order of the page, with the results it shows."""
    blocks = fences("bash")
    with ServerProcess("--port=0", database_url=postgres.url) as server:
        server.start()
        output = []
        for block in blocks:
            assert DEFAULT in block
            script = block.replace(DEFAULT, server.url).replace("curl -s", "echo; curl -s")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert "urn:poolkeeper:problem" not in done.stdout
            output.append(
                [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
            )
        [selected] = re.findall(
            r"^```json\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        assert output[0][-1] == json.loads(selected)
        balances = server.sql("select array_agg(cents order by id) as c from accounts").json()
        again = subprocess.run(
            ["bash", "-c", blocks[1].replace(DEFAULT, server.url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert json.loads(again.stdout)["results"] is None
    assert balances["rows"] == [{"c": ["140", "260", "202"]}]
    assert output[3][0]["outcome"] == "committed"
    assert output[-1] == [{"end": {"row_count": 100_000, "command": "SELECT"}}]
