"""What the extra brings is all that is needed."""

import subprocess
import sys

IMPORT = """
import sys
for name in {absent!r}:
    sys.modules[name] = None
import poolkeeper.asgi
"""


def import_without(*absent):
    command = [sys.executable, "-c", IMPORT.format(absent=absent)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_needs_starlette_and_nothing_else():
    """Neither the other driver nor FastAPI, prometheus-client or a server."""
    done = import_without("psycopg", "fastapi", "prometheus_client", "uvicorn")
    assert done.returncode == 0, done.stderr


def test_without_starlette_it_says_what_to_install():
    """As every optional part does."""
    done = import_without("starlette")
    assert "Suggestion: pip install 'poolkeeper[asgi]'" in done.stderr
