"""What clients did and what they were told: the record that ``poolkeeper.testing.checker`` judges.

The words are Jepsen's. Every operation is an ``invoke`` followed by one completion:

- ``ok``: it happened;
- ``fail``: it surely did not happen;
- ``info``: nobody knows. Its process is retired, because the operation may still take effect at
  any later time: whoever goes on takes a new process number.

::

    history = History(seed=7)
    process = history.process()
    async with history.operation(process, "insert", 42) as op:
        try:
            await pool.execute("insert into t values (42)")
        except OSError as error:
            op.info(error)
        else:
            op.ok()
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from poolkeeper.sqlstate import chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import TextIO


class Type(StrEnum):
    """What an event says about its operation."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


NEMESIS: Final = "nemesis"
"""The process that breaks things: its events are faults and ``heal``."""

RESOLVER: Final = "resolver"
"""The process that finds out what became of unknown operations: its events are verdicts."""

OBSERVER: Final = "observer"
"""The process that notes what is so: the seed, a pool's statistics."""

_OWN_NAMES = frozenset({"index", "process", "type", "f", "value", "time", "error"})


class HistoryError(ValueError):
    """A history was recorded wrongly, or its file is not one; no checker could trust it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a history.

    Attributes:
        index: Position in the history. One event loop records it, so of two events the one with
            the smaller index happened first.
        process: A client's number, or the name of one who is no client.
        type: Whether it starts an operation or how it ended.
        f: The name of the operation.
        value: Its argument, or what it returned; made of what JSON knows.
        time: Seconds since the history began.
        error: The exception of a ``fail`` or ``info`` and its causes, as text.
        facts: Anything else that is known: ``deadline``, ``timeline``, ``lsn``, ``transaction``.
    """

    index: int
    process: int | str
    type: Type
    f: str
    value: Any = None
    time: float = 0.0
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line without its end; facts stand beside the other fields."""
        line: dict[str, Any] = {
            "index": self.index,
            "process": self.process,
            "type": self.type,
            "f": self.f,
            "value": self.value,
            "time": round(self.time, 6),
        }
        if self.error is not None:
            line["error"] = self.error
        return json.dumps(line | dict(self.facts))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The event of a line.

        Raises:
            HistoryError: The line is none.
        """
        try:
            fields = json.loads(line)
            own = {name: fields.pop(name) for name in _OWN_NAMES & fields.keys()}
            return cls(**own | {"type": Type(own["type"])}, facts=fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HistoryError(
                f"Not an event: {line[:200]!r}. Suggestion: read a file that History.write made."
            ) from error

    def __str__(self) -> str:
        text = f"{self.time:10.4f}  {self.process!s:>8}  {self.type:6}  {self.f} {self.value!r}"
        return text if self.error is None else f"{text}  {self.error}"


@dataclass(frozen=True, slots=True)
class Operation:
    """An ``invoke`` and what became of it.

    Attributes:
        invoke: The event that started it.
        completion: The event that ended it; None while nobody has heard of it again.
    """

    invoke: Event
    completion: Event | None

    @property
    def process(self) -> int | str:
        """Who did it."""
        return self.invoke.process

    @property
    def f(self) -> str:
        """The name of the operation."""
        return self.invoke.f

    @property
    def value(self) -> Any:
        """Its argument."""
        return self.invoke.value

    @property
    def type(self) -> Type:
        """OK, FAIL or INFO; one that never ended is INFO."""
        return Type.INFO if self.completion is None else self.completion.type

    @property
    def result(self) -> Any:
        """What it returned; None if it did not."""
        return None if self.completion is None else self.completion.value

    @property
    def events(self) -> tuple[Event, ...]:
        """Its events, one or two."""
        return (self.invoke,) if self.completion is None else (self.invoke, self.completion)

    def fact(self, name: str) -> Any:
        """A fact noted when it ended, else when it started, else None."""
        if self.completion is not None and name in self.completion.facts:
            return self.completion.facts[name]
        return self.invoke.facts.get(name)

    def ended_before(self, other: Operation) -> bool:
        """Whether this one was over when the other began."""
        return self.completion is not None and self.completion.index < other.invoke.index


class History:
    """A record of operations, faults and verdicts, written as things happen.

    It belongs to one event loop.

    Args:
        seed: What the run's randomness was made from, for whoever wants to repeat it.
        sink: An open text file that gets every event at once, one JSON object a line, so that a
            process killed in mid-run leaves what it knew.
        clock: Seconds, from any origin.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        sink: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seed = seed
        self._events: list[Event] = []
        self._open: dict[int | str, Event] = {}
        self._retired: set[int | str] = set()
        self._processes = 0
        self._sink = sink
        self._clock = clock
        self._began = clock()
        if seed is not None:
            self.note("seed", seed)

    # Recording --------------------------------------------------------------------------------

    def process(self) -> int:
        """A number that no process has had."""
        self._processes += 1
        return self._processes - 1

    def is_retired(self, process: int) -> bool:
        """Whether a process got ``info`` and may not go on."""
        return process in self._retired

    def operation(self, process: int, f: str, value: Any = None, **facts: Any) -> Recording:
        """Record an operation around a block, which says how it ended.

        A block left by an exception, a cancellation included, ends its operation as ``info``; the
        exception goes on.

        Args:
            process: Who does it, from ``process()``.
            f: The name of the operation.
            value: Its argument.
            facts: Recorded with it. ``deadline``: the seconds it may take at most.

        Raises:
            HistoryError: On entering: the process is retired or has an operation under way. On
                leaving: the block did not say how it ended, which is recorded as ``info``.
        """
        return Recording(self, process, f, value, facts)

    def fault(self, name: str, **facts: Any) -> Event:
        """Something was broken."""
        return self._append(NEMESIS, Type.INFO, "fault", name, facts=facts)

    def heal(self, **facts: Any) -> Event:
        """Nothing is broken any more: from now on the service must come back."""
        return self._append(NEMESIS, Type.INFO, "heal", facts=facts)

    def verdict(self, operation: Operation, *, committed: bool, **facts: Any) -> Event:
        """Somebody found out what became of an operation that had ended as ``info``."""
        value = {"of": operation.invoke.index, "committed": committed}
        return self._append(RESOLVER, Type.INFO, "verdict", value, facts=facts)

    def note(self, f: str, value: Any = None, **facts: Any) -> Event:
        """What is so at this moment, such as the statistics of a pool."""
        return self._append(OBSERVER, Type.INFO, f, value, facts=facts)

    def _append(
        self,
        process: int | str,
        type_: Type,
        f: str,
        value: Any = None,
        *,
        error: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Event:
        facts = {} if facts is None else facts
        if clash := _OWN_NAMES & facts.keys():
            raise HistoryError(
                f"{', '.join(sorted(clash))} cannot be the name of a fact: events have a field of "
                "that name. Suggestion: choose another."
            )
        event = Event(
            len(self._events), process, type_, f, value, self._clock() - self._began, error, facts
        )
        # before it counts: what cannot be written must not be in the record either
        line = event.to_json() if self._sink is not None else None
        self._admit(event)
        if self._sink is not None:
            self._sink.write(f"{line}\n")
            self._sink.flush()
        return event

    def _admit(self, event: Event) -> None:
        """Take an event in if it may follow what is here."""
        process = event.process
        if event.index != len(self._events):
            raise HistoryError(
                f"Event {event.index} stands at position {len(self._events)}. "
                "Suggestion: keep all lines of a history and their order."
            )
        if isinstance(process, str):
            self._events.append(event)
            return
        if event.type is Type.INVOKE:
            if process in self._retired:
                raise HistoryError(
                    f"Process {process} does not know how its last operation ended, and cannot "
                    f"start {event.f!r}. Suggestion: go on as history.process()."
                )
            if process in self._open:
                raise HistoryError(
                    f"Process {process} starts {event.f!r} while {self._open[process].f!r} is "
                    "under way. Suggestion: one process per client."
                )
            self._open[process] = event
        else:
            if process not in self._open:
                raise HistoryError(
                    f"Process {process} ends {event.f!r}, which it has not under way. "
                    "Suggestion: say once how an operation ended, inside its block."
                )
            del self._open[process]
            if event.type is Type.INFO:
                self._retired.add(process)
        self._processes = max(self._processes, process + 1)
        self._events.append(event)

    # Reading ----------------------------------------------------------------------------------

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything so far, in order."""
        return tuple(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def operations(self) -> list[Operation]:
        """Every operation of a client, in the order they began."""
        completions: dict[int, Event] = {}
        under_way: dict[int | str, Event] = {}
        invokes = []
        for event in self._events:
            if isinstance(event.process, str):
                continue
            if event.type is Type.INVOKE:
                under_way[event.process] = event
                invokes.append(event)
            else:
                completions[under_way.pop(event.process).index] = event
        return [Operation(invoke, completions.get(invoke.index)) for invoke in invokes]

    def notes(self, process: str, f: str | None = None) -> Iterator[Event]:
        """Events of one who is no client."""
        for event in self._events:
            if event.process == process and f in {None, event.f}:
                yield event

    def write(self, path: Path | str) -> None:
        """Write it as JSON Lines."""
        Path(path).write_text("".join(f"{event.to_json()}\n" for event in self._events), "utf-8")

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read what ``write`` or a sink wrote.

        Raises:
            HistoryError: It is no history, or not a possible one.
        """
        lines = Path(path).read_text("utf-8").splitlines()
        return cls.of(Event.from_json(line) for line in lines)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """A history of events made elsewhere.

        Raises:
            HistoryError: They are not a possible history.
        """
        history = cls()
        for event in events:
            history._admit(event)
            if event.process == OBSERVER and event.f == "seed":
                history.seed = event.value
        return history


_NOTHING: Final = object()


class Recording:
    """An operation under way, see ``History.operation``."""

    def __init__(
        self, history: History, process: int, f: str, value: Any, facts: Mapping[str, Any]
    ) -> None:
        self._history = history
        self._process = process
        self._f = f
        self._value = value
        self._facts = facts
        self._completed = False

    async def __aenter__(self) -> Self:
        self._history._append(self._process, Type.INVOKE, self._f, self._value, facts=self._facts)
        return self

    def ok(self, value: Any = _NOTHING, **facts: Any) -> None:
        """It happened; ``value`` is what it returned, its argument if not given."""
        value = self._value if value is _NOTHING else value
        self._complete(Type.OK, value, None, facts)

    def fail(self, error: BaseException | str | None = None, **facts: Any) -> None:
        """It surely did not happen."""
        self._complete(Type.FAIL, self._value, error, facts)

    def info(self, error: BaseException | str | None = None, **facts: Any) -> None:
        """Nobody knows whether it happened; its process is retired."""
        self._complete(Type.INFO, self._value, error, facts)

    def _complete(
        self,
        type_: Type,
        value: Any,
        error: BaseException | str | None,
        facts: Mapping[str, Any],
    ) -> None:
        text = describe(error) if isinstance(error, BaseException) else error
        self._history._append(self._process, type_, self._f, value, error=text, facts=facts)
        self._completed = True

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._completed:
            return
        self.info(exc if exc is not None else "its block did not say how it ended")
        if exc is None:
            raise HistoryError(
                f"The block of {self._f!r} did not say how it ended. "
                "Suggestion: call ok(), fail() or info()."
            )


def describe(error: BaseException) -> str:
    """An exception and its causes in one line, nearest first: drivers hide the reason there."""
    return " <- ".join(f"{type(link).__name__}: {link}" for link in chain(error))
