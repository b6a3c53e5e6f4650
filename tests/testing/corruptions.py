"""Every single way in which a correct run can be spoilt; each makes one lie or one loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from poolkeeper.testing.checker import FinalRead, Kind
from poolkeeper.testing.history import Operation, Type
from tests.testing.stories import Story, changed, resources

Spoiler = Callable[[Story, FinalRead, object], FinalRead | None]
CORRUPTIONS: dict[str, tuple[Kind, Spoiler]] = {}
"""Name -> what the checker must call it, and a function that spoils a run: it changes the story or
returns another final read, or returns None if this run has nothing to spoil that way."""


def corruption(kind: Kind) -> Callable[[Spoiler], Spoiler]:
    def register(spoil: Spoiler) -> Spoiler:
        CORRUPTIONS[spoil.__name__] = kind, spoil
        return spoil

    return register


def some(rng, found):
    found = list(found)
    return rng.choice(found) if found else None


def operations(story: Story, f: str, *types: Type) -> list[Operation]:
    return [o for o in story.history.operations() if o.f == f and (o.type in types or not types)]


def without(items, item):
    items = list(items)
    items.remove(item)
    return items


@corruption(Kind.LOST)
def an_insert_is_lost(story, final, rng):
    operation = some(rng, operations(story, "insert", Type.OK))
    return operation and replace(final, inserts=without(final.inserts, operation.value))


@corruption(Kind.DOUBLED)
def an_insert_is_doubled(story, final, rng):
    number = some(rng, final.inserts)
    return None if number is None else replace(final, inserts=[*final.inserts, number])


@corruption(Kind.FAILED_BUT_VISIBLE)
def a_failed_insert_is_there(story, final, rng):
    operation = some(rng, operations(story, "insert", Type.FAIL))
    return operation and replace(final, inserts=[*final.inserts, operation.value])


@corruption(Kind.UNEXPECTED)
def an_insert_is_from_nowhere(story, final, rng):
    return replace(final, inserts=[*final.inserts, 1_000_000])


def _moved(balances, transfer, times):
    moved = dict(balances)
    moved[transfer["source"]] -= times * transfer["amount"]
    moved[transfer["target"]] += times * transfer["amount"]
    return moved


@corruption(Kind.LOST)
def a_transfer_is_lost(story, final, rng):
    operation = some(rng, operations(story, "transfer", Type.OK))
    return operation and replace(
        final,
        transfers=without(final.transfers, operation.value),
        balances=_moved(final.balances, operation.value, -1),
    )


@corruption(Kind.DOUBLED)
def a_transfer_is_doubled(story, final, rng):
    transfer = some(rng, final.transfers)
    return transfer and replace(
        final,
        transfers=[*final.transfers, transfer],
        balances=_moved(final.balances, transfer, 1),
    )


@corruption(Kind.TORN)
def a_transfer_moves_money_twice_and_is_logged_once(story, final, rng):
    transfer = some(rng, final.transfers)
    return transfer and replace(final, balances=_moved(final.balances, transfer, 1))


@corruption(Kind.TORN)
def a_transfer_takes_and_does_not_give(story, final, rng):
    return replace(final, balances=final.balances | {"a": final.balances["a"] - 1})


@corruption(Kind.UNEXPECTED)
def the_log_has_another_amount(story, final, rng):
    transfer = some(rng, final.transfers)
    if transfer is None:
        return None
    other = transfer | {"amount": transfer["amount"] + 1}
    return replace(
        final,
        transfers=[*without(final.transfers, transfer), other],
        balances=_moved(_moved(final.balances, transfer, -1), other, 1),
    )


@corruption(Kind.TORN)
def a_read_sees_half_a_transfer(story, final, rng):
    read = some(rng, operations(story, "read-bank", Type.OK))
    if read is None:
        return None
    account = rng.choice(sorted(read.result))
    changed(story, read.completion, value=read.result | {account: read.result[account] + 1})
    return final


def _with_list(final, key, elements):
    return replace(final, lists=dict(final.lists) | {key: elements})


@corruption(Kind.LOST)
def an_append_is_lost(story, final, rng):
    operation = some(rng, operations(story, "append", Type.OK))
    if operation is None:
        return None
    key, element = operation.value
    return _with_list(final, key, without(final.lists[key], element))


@corruption(Kind.DOUBLED)
def an_append_is_doubled(story, final, rng):
    key = some(rng, [key for key, elements in final.lists.items() if elements])
    return key and _with_list(final, key, [*final.lists[key], rng.choice(final.lists[key])])


@corruption(Kind.FAILED_BUT_VISIBLE)
def a_failed_append_is_there(story, final, rng):
    operation = some(rng, operations(story, "append", Type.FAIL))
    if operation is None:
        return None
    key, element = operation.value
    return _with_list(final, key, [*final.lists[key], element])


@corruption(Kind.BACKWARDS)
def a_list_was_read_in_another_order(story, final, rng):
    read = some(rng, [r for r in operations(story, "read-list", Type.OK) if len(r.result[1]) > 1])
    if read is None:
        return None
    key, elements = read.result
    changed(story, read.completion, value=[key, elements[::-1]])
    return final


@corruption(Kind.BACKWARDS)
def the_end_of_a_list_was_read_and_is_gone(story, final, rng):
    reads = [r for r in operations(story, "read-list", Type.OK) if r.result[1]]
    read = some(rng, [r for r in reads if r.result[1] == final.lists[r.result[0]]])
    if read is None:
        return None
    key, elements = read.result
    return _with_list(final, key, elements[:-1])


@corruption(Kind.LOST)
def an_increment_is_lost(story, final, rng):
    operation = some(rng, operations(story, "increment", Type.OK))
    if operation is None:
        return None
    key = operation.value["key"]
    # below what was acknowledged, whatever became of the unknown ones
    acknowledged = [o.value for o in operations(story, "increment", Type.OK)]
    least = sum(value["by"] for value in acknowledged if value["key"] == key)
    return replace(final, counters=dict(final.counters) | {key: least - operation.value["by"]})


@corruption(Kind.DOUBLED)
def an_increment_is_doubled(story, final, rng):
    operation = some(rng, operations(story, "increment", Type.OK))
    if operation is None:
        return None
    key = operation.value["key"]
    begun = [o for o in operations(story, "increment") if o.type is not Type.FAIL]
    most = sum(o.value["by"] for o in begun if o.value["key"] == key)
    return replace(final, counters=dict(final.counters) | {key: most + operation.value["by"]})


@corruption(Kind.STALE)
def a_read_misses_an_acknowledged_insert(story, final, rng):
    inserts = operations(story, "insert", Type.OK)
    found = [
        (read, insert)
        for read in operations(story, "read-inserts", Type.OK)
        for insert in inserts
        if insert.value in read.result["ids"] and insert.ended_before(read)
    ]
    if (pair := some(rng, found)) is None:
        return None
    read, insert = pair
    ids = without(read.result["ids"], insert.value)
    changed(story, read.completion, value=read.result | {"ids": ids})
    return final


@corruption(Kind.STALE)
def a_read_misses_an_acknowledged_append(story, final, rng):
    found = [
        read
        for read in operations(story, "read-list", Type.OK)
        if any(
            append.value[0] == read.result[0]
            and append.value[1] in read.result[1][-1:]
            and append.ended_before(read)
            for append in operations(story, "append", Type.OK)
        )
    ]
    if (read := some(rng, found)) is None:
        return None
    key, elements = read.result
    changed(story, read.completion, value=[key, elements[:-1]])
    return final


@corruption(Kind.BACKWARDS)
def a_later_read_misses_what_an_earlier_one_showed(story, final, rng):
    reads = operations(story, "read-inserts", Type.OK)
    found = [
        (later, number)
        for sooner in reads
        for later in reads
        for number in sooner.result["ids"]
        if number in later.result["ids"] and sooner.ended_before(later)
    ]
    if (pair := some(rng, found)) is None:
        return None
    read, number = pair
    ids = without(read.result["ids"], number)
    changed(story, read.completion, value=read.result | {"ids": ids})
    return final


@corruption(Kind.FAILED_BUT_VISIBLE)
def a_read_shows_a_failed_insert(story, final, rng):
    found = [
        (read, insert)
        for read in operations(story, "read-inserts", Type.OK)
        for insert in operations(story, "insert", Type.FAIL)
        if read.result["low"] <= insert.value < read.result["high"]
        and insert.invoke.index < read.completion.index
    ]
    if (pair := some(rng, found)) is None:
        return None
    read, insert = pair
    changed(
        story, read.completion, value=read.result | {"ids": [*read.result["ids"], insert.value]}
    )
    return final


@corruption(Kind.DOUBLED)
def a_read_shows_an_insert_twice(story, final, rng):
    read = some(rng, [r for r in operations(story, "read-inserts", Type.OK) if r.result["ids"]])
    if read is None:
        return None
    ids = read.result["ids"]
    changed(story, read.completion, value=read.result | {"ids": [*ids, rng.choice(ids)]})
    return final


@corruption(Kind.UNEXPECTED)
def a_read_shows_what_nobody_had_begun_to_write(story, final, rng):
    found = [
        (read, insert)
        for read in operations(story, "read-inserts", Type.OK)
        for insert in operations(story, "insert")
        if insert.invoke.index > read.completion.index
    ]
    if (pair := some(rng, found)) is None:
        return None
    read, insert = pair
    changed(
        story, read.completion, value=read.result | {"ids": [*read.result["ids"], insert.value]}
    )
    return final


@corruption(Kind.STALE)
def a_counter_was_read_too_low(story, final, rng):
    increments = operations(story, "increment", Type.OK)
    found = [
        read
        for read in operations(story, "read-counter", Type.OK)
        if any(o.value["key"] == read.result[0] and o.ended_before(read) for o in increments)
    ]
    if (read := some(rng, found)) is None:
        return None
    changed(story, read.completion, value=[read.result[0], 0])
    return final


@corruption(Kind.DOUBLED)
def a_counter_was_read_too_high(story, final, rng):
    read = some(rng, operations(story, "read-counter", Type.OK))
    if read is None:
        return None
    changed(story, read.completion, value=[read.result[0], 1_000_000])
    return final


@corruption(Kind.BACKWARDS)
def a_counter_fell_between_two_reads(story, final, rng):
    reads = operations(story, "read-counter", Type.OK)
    acknowledged = operations(story, "increment", Type.OK)
    found = []
    for key in ("m", "n"):
        of_key = [read for read in reads if read.result[0] == key]
        for sooner, later in pairwise(of_key):
            before = [o for o in acknowledged if o.value["key"] == key and o.ended_before(later)]
            least = sum(o.value["by"] for o in before)
            # not below what was acknowledged: only the earlier read shows that it is wrong
            if sooner.ended_before(later) and least < sooner.result[1]:
                found.append((later, [key, least]))
    if (pair := some(rng, found)) is None:
        return None
    changed(story, pair[0].completion, value=pair[1])
    return final


@corruption(Kind.WRONG_VERDICT)
def a_verdict_is_wrong(story, final, rng):
    verdicts = [event for event in story.events if event.f == "verdict"]
    # of two unknown increments of one counter, a final read cannot tell which one it shows
    told = [e for e in verdicts if story.events[e.value["of"]].f != "increment"]
    event = some(rng, told)
    if event is None:
        return None
    changed(story, event, value=event.value | {"committed": not event.value["committed"]})
    return final


@corruption(Kind.WRONG_VERDICT)
def two_verdicts_differ(story, final, rng):
    event = some(rng, [event for event in story.events if event.f == "verdict"])
    if event is None:
        return None
    of = story.events[event.value["of"]]
    story.verdict(of, committed=not event.value["committed"])
    return final


@corruption(Kind.LATE)
def a_call_takes_too_long(story, final, rng):
    operation = some(rng, [o for o in story.history.operations() if o.completion is not None])
    if operation is None:
        return None
    changed(story, operation.completion, time=operation.invoke.time + 10.1)
    return final


@corruption(Kind.LATE)
def a_call_never_comes_back(story, final, rng):
    story.invoke(500, "read-bank", deadline=9)
    story.pause(10.1).heal()
    return final


@corruption(Kind.NO_SERVICE)
def nobody_succeeds_after_healing(story, final, rng):
    story.heal().pause(5).resources()
    return final


@corruption(Kind.RESOURCES)
def a_connection_is_in_no_state(story, final, rng):
    story.events.append(replace(story.resources().events.pop(), value=resources(total=4)))
    return final


@corruption(Kind.RESOURCES)
def the_pool_is_too_big(story, final, rng):
    story.resources(total=5, idle=4)
    return final


@corruption(Kind.RESOURCES)
def the_server_has_more_sessions_than_the_pool_may(story, final, rng):
    story.resources(sessions=5)
    return final


@corruption(Kind.RESOURCES)
def a_session_is_left(story, final, rng):
    return replace(final, sessions_left=1)


@corruption(Kind.LOST_BY_FAILOVER)
def an_acknowledged_write_is_not_on_the_new_timeline(story, final, rng):
    operation = some(rng, operations(story, "insert", Type.OK))
    if operation is None:
        return None
    changed(story, operation.completion, facts={"timeline": 1, "lsn": 200})
    remaining = without(final.inserts, operation.value)
    return replace(final, inserts=remaining, timeline=2, switches={1: 100})
