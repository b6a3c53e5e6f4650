"""Chaos for as long as you like: ``python -m tests.faults.soak --seed 7 --minutes 10``.

It runs in episodes of a minute, each with a database of its own and a seed derived from the given
one. Exits with 1 if any promise was broken; the history of each such episode is kept.
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
from pathlib import Path

import structlog

from poolkeeper.testing.checker import Report, combined
from poolkeeper.testing.embedded import FaultyPostgres
from tests.faults.chaos import run_episode

EPISODE_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Random faults under fifty clients.")
    parser.add_argument("--seed", type=int, help="decides the faults; random if left out")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    _say(f"seed {seed}, {options.minutes:g} minutes")
    # every outage is logged otherwise, and there are a thousand
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    report, complete = soak(seed, options.minutes * 60)
    _say(f"\n{report}")
    if report.ok and complete:
        return 0
    if not complete:
        _say("\nbroken off: an episode ended with the exception above")
    _say(
        f"\nreproduce with: python -m tests.faults.soak --seed {seed} --minutes {options.minutes:g}"
    )
    return 1


def soak(seed: int, seconds: float) -> tuple[Report, bool]:
    """Episodes until the time is over; the report on all of them, and whether all came to an end.

    An episode ends with an exception when a client got what is no answer of a pool, or none at all.
    """
    reports: list[Report] = []
    end = time.monotonic() + seconds
    with (
        tempfile.TemporaryDirectory(prefix="poolkeeper-soak-") as data_dir,
        FaultyPostgres(data_dir) as server,
    ):
        while not reports or time.monotonic() < end:
            left = max(5.0, end - time.monotonic())
            number = seed + len(reports)
            length = min(EPISODE_SECONDS, left)
            try:
                episode = asyncio.run(run_episode(server, seed=number, seconds=length))
            except Exception:
                _say(f"  episode {number}:\n{traceback.format_exc()}")
                return combined(reports, seed=seed), False
            reports.append(episode.report)
            _tell(episode)
    return combined(reports, seed=seed), True


def _tell(episode) -> None:
    report = episode.report
    _say(
        f"  episode {report.seed}: {sum(report.faults.values())} faults, {report.acked} "
        f"acknowledged, {report.unknown} unknown, {episode.resolved} COMMITs in doubt resolved, "
        f"{episode.retries} retries, {len(report.findings)} broken promises",
    )
    if not report.ok:
        path = Path(tempfile.gettempdir()) / f"poolkeeper-soak-{report.seed}.jsonl"
        episode.history.write(path)
        _say(f"    its history: {path}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it is a command


if __name__ == "__main__":
    sys.exit(main())
