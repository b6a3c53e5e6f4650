"""What reads may see while the run goes on."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from poolkeeper.testing.checker.evidence import Finding, Kind, name_of
from poolkeeper.testing.history import Type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from poolkeeper.testing.checker.evidence import Element, Evidence
    from poolkeeper.testing.history import Operation


def totals_are_constant(evidence: Evidence) -> Iterator[Finding]:
    """Money is moved, never made: every snapshot of the bank has the opening total."""
    final = evidence.final
    total = sum(final.opening.values())
    for read in evidence.of("read-bank", Type.OK):
        found = sum(read.result.values())
        if found != total or read.result.keys() != final.opening.keys():
            yield Finding(Kind.TORN, f"the bank has {found}, not {total}", read.events)
    if sum(final.balances.values()) != total:
        yield Finding(
            Kind.TORN, f"the bank has {sum(final.balances.values())} at the end, not {total}"
        )


def reads_see_only_writes(evidence: Evidence) -> Iterator[Finding]:
    """No read shows a failed write, one write twice, or what nobody had written yet."""
    for read, elements in _reads_of_elements(evidence):
        for element, times in Counter(elements).items():
            write = evidence.by_element.get(element)
            if times > 1:
                yield _finding(
                    Kind.DOUBLED, f"{name_of(element)} was read {times} times", write, read
                )
            if write is None or write.invoke.index > read.events[-1].index:
                yield _finding(
                    Kind.UNEXPECTED, f"{name_of(element)} was read before any write", write, read
                )
            elif write.type is Type.FAIL:
                yield _finding(
                    Kind.FAILED_BUT_VISIBLE,
                    f"{name_of(element)} had failed and was read",
                    write,
                    read,
                )


def reads_see_what_was_acknowledged(evidence: Evidence) -> Iterator[Finding]:
    """A read that begins after a write was acknowledged shows it.

    On a replica: if it had replayed the LSN noted with the write.
    """
    acknowledged = _Coverage(
        element
        for element, write in evidence.by_element.items()
        if write.type is Type.OK and not evidence.forgiven(write)
    )
    for read, elements in _reads_of_elements(evidence):
        if evidence.forgiven(read):
            continue
        seen = set(elements)
        for element in acknowledged.of(read):
            write = evidence.by_element[element]
            if element not in seen and _must_be_seen(write, read):
                yield _finding(
                    Kind.STALE, f"{name_of(element)} was acknowledged, not read", write, read
                )


def reads_never_go_backwards(evidence: Evidence) -> Iterator[Finding]:
    """What one read on the primary has shown, later ones and the final read show too."""
    reads = [
        (read, elements)
        for read, elements in _reads_of_elements(evidence)
        if not read.fact("replica") and not evidence.forgiven(read)
    ]
    first: dict[Element, Operation] = {}
    for read, elements in sorted(reads, key=lambda pair: pair[0].events[-1].index):
        for element in elements:
            first.setdefault(element, read)
    for element, read in first.items():
        if not evidence.there[element]:
            yield _finding(Kind.BACKWARDS, f"{name_of(element)} was read and is gone", None, read)
    shown = _Coverage(first)
    for read, elements in reads:
        seen = set(elements)
        for element in shown.of(read):
            if element not in seen and first[element].ended_before(read):
                yield Finding(
                    Kind.BACKWARDS,
                    f"{name_of(element)} was read before, and then no more",
                    (*first[element].events, *read.events),
                )


def lists_only_grow(evidence: Evidence) -> Iterator[Finding]:
    """Every list that was read is the beginning of the final one, on a replica too."""
    for read in evidence.of("read-list", Type.OK):
        key, elements = read.result
        final = list(evidence.final.lists.get(key, ()))
        if list(elements) != final[: len(elements)] and not evidence.forgiven(read):
            yield Finding(
                Kind.BACKWARDS, f"list {key} was not the beginning of {final}", read.events
            )


def counters_only_grow(evidence: Evidence) -> Iterator[Finding]:
    """A counter that was read has the increments acknowledged before, and none not begun yet."""
    increments: dict[str, list[Operation]] = defaultdict(list)
    for operation in evidence.of("increment"):
        increments[operation.value["key"]].append(operation)
    reads: dict[str, list[Operation]] = defaultdict(list)
    for read in evidence.of("read-counter", Type.OK):
        if not evidence.forgiven(read):
            reads[read.result[0]].append(read)
    for key, of_key in reads.items():
        acknowledged = _Sums(
            (o.completion.index, o.value["by"])
            for o in increments[key]
            if o.completion is not None and o.type is Type.OK and not evidence.forgiven(o)
        )
        begun = _Sums(
            (o.invoke.index, o.value["by"]) for o in increments[key] if o.type is not Type.FAIL
        )
        highest = _Highest(of_key)
        for read in of_key:
            value = read.result[1]
            most = begun.before(read.events[-1].index)
            if value > most:
                yield Finding(Kind.DOUBLED, f"counter {key} is {value} of {most}", read.events)
            if read.fact("replica"):
                continue
            least = acknowledged.before(read.invoke.index)
            if value < least:
                yield Finding(Kind.STALE, f"counter {key} is {value}, not {least}", read.events)
            elif value < (before := highest.before(read.invoke.index)):
                yield Finding(
                    Kind.BACKWARDS, f"counter {key} is {value}, and was {before}", read.events
                )


def _reads_of_elements(evidence: Evidence) -> Iterator[tuple[Operation, list[Element]]]:
    """Successful reads and the elements they show."""
    for read in evidence.operations:
        if read.type is not Type.OK:
            continue
        if read.f == "read-inserts":
            yield read, [("insert", number) for number in read.result["ids"]]
        elif read.f == "read-list":
            key, elements = read.result
            yield read, [("append", key, element) for element in elements]


class _Coverage:
    """Elements by what has to be read to see them."""

    def __init__(self, elements: Iterable[Element]) -> None:
        self._elements = set(elements)
        self._in_list: dict[Any, list[Element]] = defaultdict(list)
        for element in self._elements:
            if element[0] == "append":
                self._in_list[element[1]].append(element)

    def of(self, read: Operation) -> Iterator[Element]:
        """Those a read looked for."""
        if read.f == "read-list":
            yield from self._in_list.get(read.result[0], ())
            return
        for number in range(read.result["low"], read.result["high"]):
            if ("insert", number) in self._elements:
                yield "insert", number


def _must_be_seen(write: Operation, read: Operation) -> bool:
    if not read.fact("replica"):
        return write.ended_before(read)
    written, replayed = write.fact("lsn"), read.fact("lsn")
    return written is not None and replayed is not None and written <= replayed


def _finding(kind: Kind, message: str, write: Operation | None, read: Operation) -> Finding:
    events = read.events if write is None else (*write.events, *read.events)
    return Finding(kind, message, events)


class _Sums:
    """The sum of the amounts at positions before a given one."""

    def __init__(self, amounts: Iterable[tuple[int, int]]) -> None:
        self._positions: list[int] = []
        self._sums = [0]
        for position, amount in sorted(amounts):
            self._positions.append(position)
            self._sums.append(self._sums[-1] + amount)

    def before(self, position: int) -> int:
        return self._sums[bisect_left(self._positions, position)]


class _Highest:
    """The highest value that reads on the primary have shown before a position."""

    def __init__(self, reads: Iterable[Operation]) -> None:
        self._positions: list[int] = []
        self._highest = [0]
        for position, value in sorted(
            (read.events[-1].index, read.result[1]) for read in reads if not read.fact("replica")
        ):
            self._positions.append(position)
            self._highest.append(max(self._highest[-1], value))

    def before(self, position: int) -> int:
        return self._highest[bisect_left(self._positions, position)]
