"""A headless browser, pages that are watched, and servers to look at."""

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.server.processes import ServerProcess

HERE = Path(__file__).parent

_SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What the browser itself writes to the console while no server is there.
_NO_SERVER = ("net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING")


def _missing(what):
    """Skip on a developer's machine; in CI these tests have to run."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def chromium():
    """One browser for all tests of a file; each gets a profile of its own.

    Not for longer: Playwright keeps an event loop running in this thread, and tests of other files
    want to start theirs.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        _missing("Chromium is not installed. Suggestion: apt-get install chromium")
    # patience for a busy machine; what is expected comes within a second or two
    sync_api.expect.set_options(timeout=20_000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_SWITCHES)
        yield browser
        browser.close()


class Watched:
    """Opens pages, and knows what they asked for and complained about."""

    def __init__(self, browser):
        self._browser = browser
        self._contexts = contextlib.ExitStack()
        self.requests = []
        self.complaints = []

    def open(self, url, **options):
        """A page in a fresh profile, as far as the first numbers or the question for the token."""
        context = self._browser.new_context(**{"color_scheme": "light", **options})
        self._contexts.callback(context.close)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._listen)
        page.goto(f"{url}/")
        page.locator("#live, #gate").locator("visible=true").first.wait_for()
        return page

    def _listen(self, message):
        if message.type in {"error", "warning"} and not message.text.endswith(_NO_SERVER):
            self.complaints.append(message.text)

    def close(self):
        self._contexts.close()


@pytest.fixture
def browser(chromium):
    """Opens pages; afterwards none may have left this machine or complained."""
    watched = Watched(chromium)
    yield watched
    watched.close()
    assert {urlsplit(url).hostname for url in watched.requests} <= {"127.0.0.1"}
    assert watched.complaints == []


def serve(url, *options, **more):
    """A server whose statements may take their time."""
    return ServerProcess("--port=0", "--statement-timeout=0", *options, database_url=url, **more)


@pytest.fixture(scope="module")
def server(postgres_server):
    """A running server on a database of its own, for all tests of a file."""
    url = postgres_server.create_database(f"dashboard_{secrets.token_hex(6)}")
    with serve(url, "--max-size=3") as process:
        process.database_url = url
        yield process.start()


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core, the accessibility checker, at the locked version."""
    source = HERE / "node_modules" / "axe-core" / "axe.min.js"
    with (Path(tempfile.gettempdir()) / "poolkeeper-axe.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not source.exists():
            if shutil.which("npm") is None:
                _missing("npm is not installed. Suggestion: apt-get install nodejs npm")
            run = subprocess.run(
                ["npm", "ci", "--no-progress"],
                cwd=HERE,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            if run.returncode:
                _missing(f"npm ci failed in {HERE.name}: {run.stderr[-2000:]}")
    return source.read_text(encoding="utf-8")
