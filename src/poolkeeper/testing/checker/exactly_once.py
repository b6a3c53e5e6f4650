"""Nothing lost, nothing doubled, nothing from nowhere: the history against the final read."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from poolkeeper.testing.checker.evidence import Finding, Kind, name_of
from poolkeeper.testing.history import Type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poolkeeper.testing.checker.evidence import Element, Evidence
    from poolkeeper.testing.history import Operation


def acknowledged_writes_are_there_once(evidence: Evidence) -> Iterator[Finding]:
    """Every ``ok`` write is in the final read exactly once."""
    for element, operation in evidence.by_element.items():
        if operation.type is not Type.OK:
            continue
        times = evidence.there[element]
        if times > 1:
            yield _doubled(element, times, operation)
        elif not times and not evidence.left_behind(operation):
            yield Finding(
                Kind.LOST, f"{name_of(element)} was acknowledged and is gone", operation.events
            )


def failed_writes_are_not_there(evidence: Evidence) -> Iterator[Finding]:
    """No ``fail`` write is in the final read."""
    for element, operation in evidence.by_element.items():
        times = evidence.there[element]
        if operation.type is Type.FAIL and times:
            yield Finding(
                Kind.FAILED_BUT_VISIBLE,
                f"{name_of(element)} was said to have failed and is there {_times(times)}",
                operation.events,
            )


def unknown_writes_are_there_at_most_once(evidence: Evidence) -> Iterator[Finding]:
    """An ``info`` write is in the final read once or not at all."""
    for element, operation in evidence.by_element.items():
        times = evidence.there[element]
        if operation.type is Type.INFO and times > 1:
            yield _doubled(element, times, operation)


def nothing_is_there_that_nobody_wrote(evidence: Evidence) -> Iterator[Finding]:
    """Every element of the final read is of a write in the history."""
    for element, times in evidence.there.items():
        if element not in evidence.by_element:
            yield Finding(
                Kind.UNEXPECTED, f"{name_of(element)} is there {_times(times)}; nobody wrote it"
            )
    written = {operation.value["id"]: operation for operation in evidence.of("transfer")}
    for transfer in evidence.final.transfers:
        operation = written.get(transfer["id"])
        if operation is not None and dict(operation.value) != dict(transfer):
            yield Finding(
                Kind.UNEXPECTED, f"the log has another transfer: {transfer}", operation.events
            )


def verdicts_are_true(evidence: Evidence) -> Iterator[Finding]:
    """Every verdict about an unknown write equals what the final read shows."""
    of = {operation.invoke.index: element for element, operation in evidence.by_element.items()}
    writes = {operation.invoke.index: operation for operation in evidence.writes}
    for index, events in evidence.verdicts.items():
        operation = writes.get(index)
        if operation is None:
            yield Finding(Kind.WRONG_VERDICT, f"event {index} is no write", tuple(events))
            continue
        said = {event.value["committed"] for event in events}
        if len(said) > 1:
            yield Finding(
                Kind.WRONG_VERDICT,
                "two verdicts contradict each other",
                (*operation.events, *events),
            )
        elif index in of and said != {there := evidence.there[of[index]] > 0}:
            if not there and evidence.forgiven(operation):
                continue
            yield Finding(
                Kind.WRONG_VERDICT,
                f"{name_of(of[index])} was said to be {'aborted' if there else 'committed'} and is "
                f"{'there' if there else 'not there'}",
                (*operation.events, *events),
            )


def counters_add_up(evidence: Evidence) -> Iterator[Finding]:
    """A counter is the sum of its ``ok`` increments and of some that are unknown."""
    increments: dict[str, list[Operation]] = defaultdict(list)
    for operation in evidence.of("increment"):
        increments[operation.value["key"]].append(operation)
    for key in evidence.final.counters.keys() - increments.keys():
        increments[key] = []
    for key, operations in increments.items():
        value = evidence.final.counters.get(key, 0)
        acknowledged = [o for o in operations if o.type is Type.OK and not evidence.forgiven(o)]
        possible = [o for o in operations if o.type is not Type.FAIL]
        least, most = _sum(acknowledged), _sum(possible)
        if not least <= value <= most:
            yield Finding(
                Kind.LOST if value < least else Kind.DOUBLED,
                f"counter {key} is {value}; {least} were acknowledged, {most} are possible",
            )
            continue
        committed = _sum(o for o in operations if _said(evidence, o) is True)
        aborted = _sum(o for o in operations if _said(evidence, o) is False)
        if not least + committed <= value <= most - aborted:
            yield Finding(
                Kind.WRONG_VERDICT,
                f"counter {key} is {value}; with the verdicts it is between {least + committed} "
                f"and {most - aborted}",
            )


def balances_follow_the_log(evidence: Evidence) -> Iterator[Finding]:
    """Each balance is its opening balance and the logged transfers, each applied once."""
    final = evidence.final
    expected = dict(final.opening)
    for transfer in final.transfers:
        for account, sign in ((transfer["source"], -1), (transfer["target"], 1)):
            expected[account] = expected.get(account, 0) + sign * transfer["amount"]
    for account in sorted(expected.keys() | final.balances.keys()):
        found, wanted = final.balances.get(account), expected.get(account)
        if found != wanted:
            yield Finding(
                Kind.TORN, f"account {account} has {found}; by the log it should have {wanted}"
            )


def failover_loses_nothing(evidence: Evidence) -> Iterator[Finding]:
    """Acknowledged writes outlive a change of the timeline, unless replication is asynchronous."""
    if evidence.bounds.asynchronous:
        return
    for operation in lost_by_failover(evidence):
        yield Finding(
            Kind.LOST_BY_FAILOVER,
            f"acknowledged on timeline {operation.fact('timeline')}, gone on "
            f"{evidence.final.timeline}",
            operation.events,
        )


def lost_by_failover(evidence: Evidence) -> list[Operation]:
    """Acknowledged writes that are gone because another timeline was taken."""
    return [
        operation
        for element, operation in evidence.by_element.items()
        if operation.type is Type.OK
        and not evidence.there[element]
        and evidence.left_behind(operation)
    ]


def _said(evidence: Evidence, operation: Operation) -> bool | None:
    if operation.type is not Type.INFO:
        return None
    said = {event.value["committed"] for event in evidence.verdicts.get(operation.invoke.index, ())}
    return said.pop() if len(said) == 1 else None


def _doubled(element: Element, times: int, operation: Operation) -> Finding:
    return Finding(Kind.DOUBLED, f"{name_of(element)} is there {_times(times)}", operation.events)


def _sum(increments: Iterator[Operation] | list[Operation]) -> int:
    return sum(operation.value["by"] for operation in increments)


def _times(times: int) -> str:
    return "once" if times == 1 else f"{times} times"
