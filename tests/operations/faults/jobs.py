"""One operation of each kind, small enough to be done hundreds of times, and what it must leave."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

from poolkeeper.operations import Step
from poolkeeper.operations.operation import Operation
from poolkeeper.testing.checker import Finding
from poolkeeper.testing.checker.operations import (
    Books,
    check_operation,
    check_rows,
    check_writers,
    read_operation,
)

WRITER = "substr(current_setting('application_name'), 19)"
"""The id of the worker whose session this is."""

_numbers = itertools.count(1)


class Fixed:
    """Instead of ``ChunkSize``: which segment is which must not depend on the time."""

    def __init__(self, size: int) -> None:
        self.size = size

    def took(self, size: int, seconds: float) -> None:
        pass

    def failed(self) -> None:
        pass


class Job(ABC):
    """A thing to be done exactly once.

    Attributes:
        kind: What the table calls it.
        size: Of its chunks, in the unit of its kind; None if they have no size of their own.
        chunks: How many it takes at the least.
        wanted: The rows it has to make.
    """

    kind: ClassVar[str]
    size: ClassVar[int | None] = None
    chunks: ClassVar[int] = 3
    has_writers: ClassVar[bool] = True

    def __init__(self, directory: Path) -> None:
        self.number = next(_numbers)
        self.name = f"{self.kind}-{self.number}"
        self.table = f"made_{self.number}"
        self.directory = directory
        self.wanted: Counter[Hashable] = Counter()

    @classmethod
    def small_chunks(cls, monkeypatch: Any) -> None:
        """Let chunks of this kind be so small that a few rows take several."""
        if cls.size is not None:
            monkeypatch.setattr(
                "poolkeeper.operations.runner.ChunkSize", lambda sizing: Fixed(cls.size)
            )

    @abstractmethod
    async def make(self, admin: Any) -> None:
        """Make its source and its table."""

    @abstractmethod
    async def create(self, operations: Any) -> Operation:
        """Create the operation."""

    def register(self, operations: Any) -> None:  # noqa: B027 - most need nothing
        """Let a worker know what it needs to know."""

    @abstractmethod
    async def found(self, admin: Any) -> Counter[Hashable]:
        """The rows that are there."""

    async def judge(self, admin: Any, state: str = "done") -> tuple[Books, list[Finding]]:
        """What is wrong with what is there.

        Args:
            admin: Where to look.
            state: In which state the operation should be. One that is not done has made as many
                rows as its books say.
        """
        books = await read_operation(admin, self.name)
        findings = check_operation(books, state=state)
        found = await self.found(admin)
        if state == "done":
            findings += check_rows(self.wanted, found)
            if books.operation["state"] == "done" and len(books.chunks) < self.chunks:
                raise AssertionError(f"{self.name} took no more than {len(books.chunks)} chunks")
        else:
            findings += check_rows(self.wanted & found, found)
            if found.total() != books.operation["rows_done"]:
                findings += check_rows(
                    Counter({"rows": books.operation["rows_done"]}),
                    Counter({"rows": found.total()}),
                )
        if self.has_writers:
            rows = await admin.fetch(f"SELECT writer, count(*) FROM {self.table} GROUP BY writer")
            findings += check_writers(books, {row[0]: row[1] for row in rows if row[0]})
        return books, findings


class Custom(Job):
    """A step of the user's that inserts a row."""

    kind = "custom"
    rows = 3

    async def make(self, admin):
        self.wanted = Counter(range(self.rows))
        await admin.execute(f"CREATE TABLE {self.table} (n int, writer text DEFAULT {WRITER})")

    def register(self, operations):
        operations.custom("count")(self.step)

    @staticmethod
    async def step(connection, cursor, table, rows):
        n = cursor or 0
        await connection.execute(f"INSERT INTO {table} (n) VALUES ({n})")
        return Step(n + 1, rows=1, done=n + 1 >= rows)

    async def create(self, operations):
        return await operations.start("count", name=self.name, table=self.table, rows=self.rows)

    async def found(self, admin):
        return Counter(row["n"] for row in await admin.fetch(f"SELECT n FROM {self.table}"))


class Backfill(Job):
    """``n = n + 1``, which must happen to each row once."""

    kind = "backfill"
    size = 2
    rows = 6

    async def make(self, admin):
        self.wanted = Counter(range(self.rows))
        await admin.execute(
            f"CREATE TABLE {self.table} (id int PRIMARY KEY, n int NOT NULL, writer text);"
            f"INSERT INTO {self.table} SELECT id, 0 FROM generate_series(0, {self.rows - 1}) id"
        )

    async def create(self, operations):
        return await operations.backfill(
            self.table, set=f"n = n + 1, writer = {WRITER}", name=self.name
        )

    async def found(self, admin):
        rows = await admin.fetch(f"SELECT id, n FROM {self.table}")
        return +Counter({row["id"]: row["n"] for row in rows})


class Load(Job):
    """A CSV file whose rows are not all different."""

    kind = "load"
    size = 8
    rows = 6
    options: ClassVar[dict[str, Any]] = {}

    @property
    def lines(self) -> list[str]:
        return [f"{n % 4},{'x' * 5}" for n in range(self.rows)]

    async def make(self, admin):
        self.path = self.directory / f"{self.name}.csv"
        self.path.write_text("\n".join(["n,text", *self.lines, ""]))
        self.wanted = Counter(n % 4 for n in range(self.rows))
        await admin.execute(
            f"CREATE TABLE {self.table} (n int, text text, writer text DEFAULT {WRITER})"
        )

    async def create(self, operations):
        return await operations.load(self.path, into=self.table, name=self.name, **self.options)

    async def found(self, admin):
        return Counter(row["n"] for row in await admin.fetch(f"SELECT n FROM {self.table}"))


class Export(Job):
    """A table to one CSV file."""

    kind = "export"
    size = 2
    rows = 10
    has_writers = False

    async def make(self, admin):
        self.path = self.directory / f"{self.name}.csv"
        self.wanted = Counter(f"{n},{'x' * (n + 1)}" for n in range(self.rows))
        await admin.execute(
            f"CREATE TABLE {self.table} (id int PRIMARY KEY, text text);"
            f"INSERT INTO {self.table} SELECT n, repeat('x', n + 1)"
            f"  FROM generate_series(0, {self.rows - 1}) n"
        )

    async def create(self, operations):
        return await operations.export(self.path, table=self.table, name=self.name)

    async def found(self, admin):
        if not self.path.exists():
            return Counter()
        header, *rows = self.path.read_text().splitlines()
        assert header == "id,text"
        return Counter(rows)


JOBS: dict[str, type[Job]] = {job.kind: job for job in (Custom, Backfill, Load, Export)}
"""By kind."""
