r"""Judges what an operation has left behind: its own books, and the rows it was to make.

::

    books = await read_operation(connection, "orders.csv into orders")
    findings = check_operation(books)
    findings += check_rows(Counter(wanted), Counter(found))
    assert not findings, "\n".join(map(str, findings))
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.testing.checker.evidence import Finding, Kind

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

_OPERATION: Final = """
select id, name, state, epoch, seq, cursor::text as cursor, rows_done, rows_rejected,
       error
  from poolkeeper.operations where name = $1 or id::text = $1 order by created_at desc limit 1"""
_CHUNKS: Final = """
select seq, epoch, owner, cursor_from::text as cursor_from, cursor_to::text as cursor_to, rows,
       rejected
  from poolkeeper.chunks where operation = $1 order by seq"""
_REJECTS: Final = "select seq from poolkeeper.rejects where operation = $1"

_MANY: Final = 5
"""So many rows are named in a finding."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the database has of one operation.

    Attributes:
        operation: Its row of ``poolkeeper.operations``.
        chunks: Its rows of ``poolkeeper.chunks``, in order.
        rejects: In which chunk each of its rows of ``poolkeeper.rejects`` is.
    """

    operation: Mapping[str, Any]
    chunks: Sequence[Mapping[str, Any]]
    rejects: Sequence[int] = ()

    def rows_by_owner(self) -> Counter[str]:
        """How many rows each worker has committed, by its id."""
        rows: Counter[str] = Counter()
        for chunk in self.chunks:
            rows[chunk["owner"]] += chunk["rows"]
        return +rows

    @property
    def epochs(self) -> int:
        """How many claims have committed something."""
        return len({chunk["epoch"] for chunk in self.chunks})


async def read_operation(connection: Any, key: str) -> Books:
    """Read the books of the latest operation of that name or id.

    Args:
        connection: Of asyncpg, to the primary; no worker may be at it any more.
        key: Its name or its id.

    Raises:
        LookupError: There is none.
    """
    # one snapshot, or a chunk committed in between would look torn
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        operation = await connection.fetchrow(_OPERATION, key)
        if operation is None:
            raise LookupError(f"There is no operation {key!r}. Suggestion: check its name.")
        chunks = await connection.fetch(_CHUNKS, operation["id"])
        rejects = await connection.fetch(_REJECTS, operation["id"])
    return Books(
        dict(operation), [dict(chunk) for chunk in chunks], [row["seq"] for row in rejects]
    )


def check_operation(books: Books, *, state: str = "done") -> list[Finding]:
    """Whether the books of an operation add up.

    Its chunks are numbered without a gap, each begins where the one before ended and the last one
    ends at the cursor; no chunk of an older claim comes after one of a newer one; an epoch has one
    owner; rows and rejects add up.

    Args:
        books: What is there.
        state: In which state it should be.
    """
    return list(_findings(books, state))


def _findings(books: Books, state: str) -> Iterator[Finding]:
    operation, chunks = books.operation, books.chunks
    name = operation["name"]
    if operation["state"] != state:
        reason = f": {operation['error']}" if operation["error"] else ""
        yield Finding(Kind.NO_SERVICE, f"{name} is {operation['state']}, not {state}{reason}")
    numbers = [chunk["seq"] for chunk in chunks]
    if numbers != list(range(operation["seq"])):
        yield Finding(
            Kind.LOST, f"{name} has committed {operation['seq']} chunks; listed are {numbers}"
        )
    for before, after in pairwise(chunks):
        if before["cursor_to"] != after["cursor_from"]:
            yield Finding(
                Kind.TORN,
                f"chunk {before['seq']} of {name} ends at {before['cursor_to']}, the next one "
                f"begins at {after['cursor_from']}",
            )
        if before["epoch"] > after["epoch"]:
            yield Finding(
                Kind.BACKWARDS,
                f"chunk {after['seq']} of {name} is of claim {after['epoch']}, after one of claim "
                f"{before['epoch']}",
            )
    if chunks and chunks[-1]["cursor_to"] != operation["cursor"]:
        yield Finding(
            Kind.TORN,
            f"{name} goes on at {operation['cursor']}, its last chunk ends at "
            f"{chunks[-1]['cursor_to']}",
        )
    latest = max((chunk["epoch"] for chunk in chunks), default=0)
    if latest > operation["epoch"]:
        yield Finding(
            Kind.UNEXPECTED, f"{name} was claimed {operation['epoch']} times, not {latest}"
        )
    owners = {(chunk["epoch"], chunk["owner"]) for chunk in chunks}
    for epoch, times in Counter(epoch for epoch, _owner in owners).items():
        if times > 1:
            yield Finding(Kind.DOUBLED, f"claim {epoch} of {name} has {times} owners")
    yield from _sums(books, name)


def _sums(books: Books, name: str) -> Iterator[Finding]:
    for what, column in (("rows_done", "rows"), ("rows_rejected", "rejected")):
        told, listed = books.operation[what], sum(chunk[column] for chunk in books.chunks)
        if told != listed:
            kind = Kind.LOST if told > listed else Kind.DOUBLED
            yield Finding(kind, f"{name} has {what} = {told}, its chunks add up to {listed}")
    rejected = Counter(books.rejects)
    for chunk in books.chunks:
        there = rejected.pop(chunk["seq"], 0)
        if there != chunk["rejected"]:
            kind = Kind.LOST if there < chunk["rejected"] else Kind.DOUBLED
            yield Finding(
                kind,
                f"chunk {chunk['seq']} of {name} has rejected {chunk['rejected']} rows, {there} "
                "are there",
            )
    if rejected:
        yield Finding(Kind.UNEXPECTED, f"{name} has rejects of chunks {sorted(rejected)}")


def check_rows(wanted: Counter[Hashable], found: Counter[Hashable]) -> list[Finding]:
    """Whether every row is there exactly as often as it should be.

    Args:
        wanted: Each row of the source, as often as it is there.
        found: Each row that was made.
    """
    findings = []
    for kind, rows in (
        (Kind.LOST, wanted - found),
        (Kind.DOUBLED, Counter({row: n for row, n in (found - wanted).items() if row in wanted})),
        (Kind.UNEXPECTED, Counter({row: n for row, n in found.items() if row not in wanted})),
    ):
        if rows:
            some = ", ".join(map(str, list(rows)[:_MANY]))
            more = ", …" if len(rows) > _MANY else ""
            findings.append(Finding(kind, f"{rows.total()} rows: {some}{more}"))
    return findings


def check_writers(books: Books, found: Mapping[str, int]) -> list[Finding]:
    """Whether each worker has written the rows of its own chunks and no other ones.

    A claim that was lost must not write: rows written by its worker would be in a chunk that, by
    the books, another worker has committed.

    Args:
        books: What is there.
        found: How many rows each worker has written, by its id, such as from a column with
            ``default substr(current_setting('application_name'), 19)``.
    """
    told = books.rows_by_owner()
    wrote = +Counter(dict(found))
    if told == wrote:
        return []
    return [
        Finding(
            Kind.UNEXPECTED,
            f"{books.operation['name']} has rows of its workers {dict(told)} by its books, and "
            f"{dict(wrote)} by who wrote them",
        )
    ]
