"""The command as its users run it."""

import os
import subprocess
import sys


def poolkeeper(*arguments, env=None, timeout=60):
    """Run it to its end."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("POOL", "DATABASE"))}
    return subprocess.run(
        [sys.executable, "-m", "poolkeeper", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**inherited, **(env or {})},
    )
