"""Histories written by hand, and histories of a made-up database that keeps its promises."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from poolkeeper.testing.checker import FinalRead
from poolkeeper.testing.history import NEMESIS, OBSERVER, RESOLVER, Event, History, Type

ACCOUNTS = ("a", "b", "c")
OPENING = dict.fromkeys(ACCOUNTS, 100)
LISTS = ("x", "y")
COUNTERS = ("m", "n")


class Story:
    """A history told event by event; the clock moves by a hundredth of a second with each."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.time = 0.0
        self._open: dict[int, Event] = {}

    def _add(self, process, type_, f, value, error=None, **facts) -> Event:
        self.time += 0.01
        event = Event(len(self.events), process, type_, f, value, self.time, error, facts)
        self.events.append(event)
        return event

    def invoke(self, process: int, f: str, value: Any = None, **facts) -> Event:
        self._open[process] = self._add(process, Type.INVOKE, f, value, **facts)
        return self._open[process]

    def _end(self, process: int, type_: Type, value: Any, **facts) -> Event:
        invoke = self._open.pop(process)
        value = invoke.value if value is None else value
        return self._add(process, type_, invoke.f, value, **facts)

    def ok(self, process: int, value: Any = None, **facts) -> Event:
        return self._end(process, Type.OK, value, **facts)

    def fail(self, process: int, **facts) -> Event:
        return self._end(process, Type.FAIL, None, error="refused", **facts)

    def info(self, process: int, **facts) -> Event:
        return self._end(process, Type.INFO, None, error="lost", **facts)

    def did(self, process: int, f: str, value: Any = None, result: Any = None, **facts) -> Story:
        """An operation that went well, in one piece."""
        self.invoke(process, f, value)
        self.ok(process, result, **facts)
        return self

    def verdict(self, invoke: Event, *, committed: bool) -> Story:
        value = {"of": invoke.index, "committed": committed}
        self._add(RESOLVER, Type.INFO, "verdict", value)
        return self

    def fault(self, name: str) -> Story:
        self._add(NEMESIS, Type.INFO, "fault", name)
        return self

    def heal(self) -> Story:
        self._add(NEMESIS, Type.INFO, "heal", None)
        return self

    def resources(self, **changes) -> Story:
        self._add(OBSERVER, Type.INFO, "resources", resources(**changes))
        return self

    def pause(self, seconds: float) -> Story:
        self.time += seconds
        return self

    @property
    def history(self) -> History:
        return History.of(self.events)


def resources(**changes) -> dict[str, int]:
    """A snapshot that adds up, but for the changes."""
    whole = {
        "total": 3, "idle": 2, "active": 1, "connecting": 0, "validating": 0, "resetting": 0,
        "closing": 0, "max_size": 4,
    }  # fmt: skip
    return whole | changes


@dataclass
class _Client:
    process: int
    invoke: Event | None = None
    applied: bool = False


@dataclass
class Database:
    """Applies writes one at a time, each once: what is true."""

    inserts: list[int] = field(default_factory=list)
    balances: dict[str, int] = field(default_factory=lambda: dict(OPENING))
    transfers: list[dict[str, Any]] = field(default_factory=list)
    lists: dict[str, list[int]] = field(default_factory=lambda: {key: [] for key in LISTS})
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def apply(self, f: str, value: Any) -> None:
        match f:
            case "insert":
                self.inserts.append(value)
            case "transfer":
                self.transfers.append(value)
                self.balances[value["source"]] -= value["amount"]
                self.balances[value["target"]] += value["amount"]
            case "append":
                self.lists[value[0]].append(value[1])
            case "increment":
                self.counters[value["key"]] += value["by"]

    def read(self, f: str, value: Any) -> Any:
        match f:
            case "read-inserts":
                found = [n for n in self.inserts if value["low"] <= n < value["high"]]
                return {**value, "ids": found}
            case "read-bank":
                return dict(self.balances)
            case "read-list":
                return [value, list(self.lists[value])]
            case "read-counter":
                return [value, self.counters[value]]
        raise AssertionError(f)

    def final(self) -> FinalRead:
        return FinalRead(
            inserts=list(self.inserts),
            opening=dict(OPENING),
            balances=dict(self.balances),
            transfers=list(self.transfers),
            lists={key: list(elements) for key, elements in self.lists.items()},
            counters=dict(self.counters),
            sessions_left=0,
        )


WRITES = ("insert", "transfer", "append", "increment")
READS = {"read-inserts": None, "read-bank": None, "read-list": LISTS, "read-counter": COUNTERS}


def correct_run(rng: random.Random, steps: int = 120, clients: int = 4) -> tuple[Story, FinalRead]:
    """A history in which writes fail, get lost in mid-flight and take effect late, all rightly."""
    story, database = Story(), Database()
    crew = [_Client(number) for number in range(clients)]
    next_process, next_id = clients, 0
    late: list[Event] = []
    unknown: list[tuple[Event, bool]] = []
    for _ in range(steps):
        if rng.random() < 0.05:
            rng.choice([lambda: story.fault("crash"), story.heal, story.resources])()
        if late and rng.random() < 0.2:
            orphan = late.pop(rng.randrange(len(late)))
            database.apply(orphan.f, orphan.value)
        client = rng.choice(crew)
        invoke = client.invoke
        if invoke is None:
            f = rng.choice([*WRITES, *READS])
            client.invoke = story.invoke(client.process, f, _argument(f, next_id, rng), deadline=9)
            client.applied = False
            next_id += f in WRITES
        elif invoke.f in READS:
            story.ok(client.process, database.read(invoke.f, invoke.value))
            client.invoke = None
        elif not client.applied and rng.random() < 0.6:
            database.apply(invoke.f, invoke.value)
            client.applied = True
        else:
            client.invoke = None
            if client.applied and rng.random() < 0.8:
                story.ok(client.process)
                continue
            if not client.applied and rng.random() < 0.5:
                story.fail(client.process)
                continue
            story.info(client.process)
            client.process, next_process = next_process, next_process + 1
            comes_late = not client.applied and rng.random() < 0.3
            if comes_late:
                late.append(invoke)
            unknown.append((invoke, client.applied or comes_late))
    for orphan in late:
        database.apply(orphan.f, orphan.value)
    for invoke, committed in unknown:
        if rng.random() < 0.5:
            story.verdict(invoke, committed=committed)
    return story, database.final()


def _argument(f: str, number: int, rng: random.Random) -> Any:
    match f:
        case "insert":
            return number
        case "transfer":
            source, target = rng.sample(ACCOUNTS, 2)
            amount = rng.randint(1, 9)
            return {"id": number, "source": source, "target": target, "amount": amount}
        case "append":
            return [rng.choice(LISTS), number]
        case "increment":
            return {"key": rng.choice(COUNTERS), "by": rng.randint(1, 3)}
        case "read-inserts":
            low = rng.randint(0, max(0, number - 1))
            return {"low": low, "high": rng.randint(low, number + 1)}
    return None if READS[f] is None else rng.choice(READS[f])


def changed(story: Story, event: Event, **changes) -> None:
    """Replace an event in place."""
    story.events[event.index] = replace(event, **changes)
