"""Programs for Node: how they find the server, and what they said."""

import os
import re
import secrets
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
DRIVERS = {"newest": "@neondatabase/serverless", "0.10": "neon-010"}
_SECONDS = 100


def connection_string(url: str, password: str = "none") -> str:
    """What a Neon client wants: with a password, and a host that leads nowhere."""
    parts = urlsplit(url)
    return f"postgresql://{parts.username}:{password}@db.example.com{parts.path}"


class Node:
    """Runs programs of this folder against a server."""

    def environment(self, server, *, driver="newest", **extra) -> dict[str, str]:
        """All a program gets to know. The time zone is one that is easily got wrong."""
        return {
            "PATH": os.environ["PATH"],
            "TZ": "Asia/Kolkata",
            "NO_COLOR": "1",
            "NEON_DRIVER": DRIVERS[driver],
            "SQL_ENDPOINT": f"{server.url}/sql",
            "DATABASE_URL": connection_string(server.database_url),
            "TEST_PREFIX": f"t{secrets.token_hex(4)}",
            **extra,
        }

    def start(self, *command, env, cwd=HERE) -> subprocess.Popen:
        """A program to talk to while it runs, by lines."""
        return subprocess.Popen(
            ["node", *command],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command, env, cwd=HERE) -> str:
        """What a program printed that must succeed."""
        done = subprocess.run(
            ["node", *command],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def run_tests(self, file, *, env) -> int:
        """How many tests of a file for node:test passed; none may fail."""
        output = self.run("--test-reporter=tap", file, env=env)
        return int(re.search(r"^# pass (\d+)$", output, re.MULTILINE)[1])
