"""Chaos for as long as you like: ``python -m tests.operations.faults.soak --seed 7 --minutes 10``.

Worker processes carry out loads, exports, backfills and steps while their server, their network and
they themselves are broken, in episodes of a minute; each has a seed derived from the given one.
Exits with 1 if anything was lost, doubled or left unfinished.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import structlog

from poolkeeper.testing.embedded import FaultyPostgres
from tests.operations.faults.chaos import run_episode

EPISODE_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Random faults under operations.")
    parser.add_argument("--seed", type=int, help="decides the faults; random if left out")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    _say(f"seed {seed}, {options.minutes:g} minutes")
    # every outage is logged otherwise, and there are hundreds
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if soak(seed, options.minutes * 60):
        return 0
    _say(
        "\nreproduce with: python -m tests.operations.faults.soak "
        f"--seed {seed} --minutes {options.minutes:g}"
    )
    return 1


def soak(seed: int, seconds: float) -> bool:
    """Episodes until the time is over or a promise is broken; whether none was."""
    total: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    end = time.monotonic() + seconds
    number = seed
    kept = True
    with tempfile.TemporaryDirectory(prefix="poolkeeper-soak-") as data_dir:
        files = Path(data_dir) / "files"
        files.mkdir()
        with FaultyPostgres(Path(data_dir) / "server") as server:
            while kept and (number == seed or time.monotonic() < end):
                length = min(EPISODE_SECONDS, max(5.0, end - time.monotonic()))
                try:
                    episode = asyncio.run(run_episode(server, files, seed=number, seconds=length))
                except Exception:
                    _say(f"  episode {number}:\n{traceback.format_exc()}")
                    return False
                _say(f"  {episode}")
                for name in ("operations", "chunks", "outages", "takeovers", "fenced"):
                    total[name] += getattr(episode, name)
                faults += episode.faults
                kept = not episode.findings
                number += 1
    _say("\n" + ", ".join(f"{name} {count}" for name, count in total.items()))
    _say(f"faults {faults.total()}: " + ", ".join(f"{n} {c}" for n, c in faults.most_common()))
    return kept


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it is a command


if __name__ == "__main__":
    sys.exit(main())
