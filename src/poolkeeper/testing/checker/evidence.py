"""What a checker looks at: the history, what the database holds at the end, and the promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from poolkeeper.testing.history import RESOLVER, Type

if TYPE_CHECKING:
    from poolkeeper.testing.history import Event, History, Operation

Element: TypeAlias = tuple[Hashable, ...]
"""What one write leaves behind, such as ``("insert", 42)``: no other write leaves the same."""

WRITES = frozenset({"insert", "transfer", "append", "increment"})
READS = frozenset({"read-inserts", "read-bank", "read-list", "read-counter"})


class Kind(StrEnum):
    """What is wrong."""

    LOST = "lost"
    DOUBLED = "doubled"
    FAILED_BUT_VISIBLE = "failed but visible"
    UNEXPECTED = "unexpected"
    WRONG_VERDICT = "wrong verdict"
    TORN = "torn"
    STALE = "stale read"
    BACKWARDS = "went backwards"
    LATE = "late"
    NO_SERVICE = "no service"
    RESOURCES = "resources"
    LOST_BY_FAILOVER = "lost by failover"
    NO_EVIDENCE = "no evidence"


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that was broken.

    Attributes:
        kind: What is wrong.
        message: The facts, in one sentence.
        events: The events that show it.
    """

    kind: Kind
    message: str
    events: tuple[Event, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.kind.upper()}: {self.message}", *(f"  {event}" for event in self.events)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class FinalRead:
    """What the database holds when all is over, read on the primary after the last fault.

    What is left out counts as empty: an acknowledged write would be missing from it.

    Attributes:
        inserts: Every id in the table, as often as it is there.
        opening: The balance of each account before the first transfer.
        balances: The balance of each account.
        transfers: The log of transfers: ``{"id", "source", "target", "amount"}`` each.
        lists: The elements of each list, in order.
        counters: The value of each counter; all began at 0.
        timeline: The timeline the database is on; None if it is not known.
        switches: The LSN at which each earlier timeline of its history ended.
        sessions_left: Sessions of the pool on the server after it was closed; None: not counted.
    """

    inserts: Sequence[int | str] = ()
    opening: Mapping[str, int] = field(default_factory=dict)
    balances: Mapping[str, int] = field(default_factory=dict)
    transfers: Sequence[Mapping[str, Any]] = ()
    lists: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    timeline: int | None = None
    switches: Mapping[int, int] = field(default_factory=dict)
    sessions_left: int | None = None

    def elements(self) -> Counter[Element]:
        """How often each write is there."""
        there: Counter[Element] = Counter(("insert", number) for number in self.inserts)
        there.update(("transfer", transfer["id"]) for transfer in self.transfers)
        for key, elements in self.lists.items():
            there.update(("append", key, element) for element in elements)
        return there


@dataclass(frozen=True, slots=True)
class Bounds:
    """What was promised beyond nothing lost and nothing doubled.

    Attributes:
        overtime: Seconds by which a call may outlive the ``deadline`` noted with it.
        recovery: Seconds from a ``heal`` to the next success; None: not promised. Judged where the
            next fault leaves that much time.
        asynchronous: The standby that took over need not have had everything. Acknowledged writes
            beyond the point where the timelines part are counted, and are no violation.
        acknowledged: The least number of acknowledged writes; with fewer, a clean report would say
            nothing.
    """

    overtime: float = 1.0
    recovery: float | None = None
    asynchronous: bool = False
    acknowledged: int = 0


def element_of(operation: Operation) -> Element | None:
    """What a write leaves behind; None if it is no write of its own (a read, an increment)."""
    value = operation.value
    match operation.f:
        case "insert":
            return "insert", value
        case "transfer":
            return "transfer", value["id"]
        case "append":
            key, element = value
            return "append", key, element
    return None


def name_of(element: Element) -> str:
    """An element in words: ``append 0-3/17``."""
    f, *what = element
    return f"{f} {'/'.join(str(part) for part in what)}"


class Evidence:
    """The history and the final read, looked up in the ways the rules need."""

    def __init__(self, history: History, final: FinalRead, bounds: Bounds) -> None:
        self.history = history
        self.final = final
        self.bounds = bounds
        self.operations = history.operations()

    @cached_property
    def writes(self) -> list[Operation]:
        """Every write, increments included."""
        return [operation for operation in self.operations if operation.f in WRITES]

    @cached_property
    def by_element(self) -> dict[Element, Operation]:
        """The write of each element."""
        found: dict[Element, Operation] = {}
        for operation in self.writes:
            element = element_of(operation)
            if element is None:
                continue
            if element in found:
                raise ValueError(
                    f"Two writes of {element}: which of them was lost or doubled could not be "
                    "told. Suggestion: give each write an id of its own."
                )
            found[element] = operation
        return found

    @cached_property
    def there(self) -> Counter[Element]:
        """How often each element is in the final read."""
        return self.final.elements()

    @cached_property
    def verdicts(self) -> dict[int, list[Event]]:
        """What was found out about operations, by the index of their ``invoke``."""
        found: dict[int, list[Event]] = {}
        for event in self.history.notes(RESOLVER, "verdict"):
            found.setdefault(event.value["of"], []).append(event)
        return found

    def of(self, f: str, type_: Type | None = None) -> list[Operation]:
        """Operations of a name, and of a type if one is given."""
        return [
            operation
            for operation in self.operations
            if operation.f == f and type_ in {None, operation.type}
        ]

    def left_behind(self, operation: Operation) -> bool:
        """Whether it was acknowledged on a timeline, beyond the point where the final one parts."""
        timeline, final = operation.fact("timeline"), self.final
        if timeline is None or final.timeline is None or timeline == final.timeline:
            return False
        end = final.switches.get(timeline)
        lsn = operation.fact("lsn")
        return end is None or (lsn is not None and lsn > end)

    def forgiven(self, operation: Operation) -> bool:
        """Whether asynchronous replication may have lost it."""
        return self.bounds.asynchronous and self.left_behind(operation)
