"""What clients were told, held against what is in the table: the judge of a run."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LOST = "no answer"
HUNG = "hung"
REFUSED = "refused"
"""Words in place of a status, for requests that were not answered; refused ones were not sent."""

NOT_EXECUTED = frozenset({"not_executed", "rolled_back"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got: a status, or a word for what it got instead."""

    began: float
    ended: float
    status: int | str
    outcome: str | None = None
    retry_after: str | None = None
    message: str = ""


@dataclass(slots=True)
class Work:
    """One thing to be done once, with every request that asked for it.

    Attributes:
        id: In the table.
        kind: How it was sent.
        rows: It leaves rows 1 to that number, all or none.
        key: Its idempotency key, where it has one.
        answers: In order.
        verdict: What the server's ledger said of it: committed or aborted.
    """

    id: int
    kind: str
    rows: int
    key: str | None = None
    answers: list[Answer] = field(default_factory=list)
    verdict: str | None = None

    @property
    def statuses(self) -> set[int | str]:
        return {answer.status for answer in self.answers}


def judge(
    works: Iterable[Work],
    found: Mapping[int, Mapping[int, int]],
    *,
    tolerated: frozenset[int | str] = frozenset(),
) -> list[str]:
    """Everything that was told wrongly, one sentence each.

    Args:
        works: All of them; nothing is under way any more.
        found: How often each row is in the table, by id and row.
        tolerated: Further statuses that are no failure by themselves, such as ``REFUSED``.
    """
    works = list(works)
    wrong = []
    for work in works:
        wrong += [
            f"{work.kind} {work.id}: {problem}" for problem in _problems(work, found, tolerated)
        ]
    strangers = found.keys() - {work.id for work in works}
    wrong += [f"nobody sent {stranger}" for stranger in sorted(strangers)]
    return wrong


def _problems(work, found, tolerated):
    statuses = work.statuses
    for answer in work.answers:
        yield from _unfit(answer, tolerated)
    counts = found.get(work.id, {})
    if not work.rows:
        return
    times = max(counts.values(), default=0)
    if counts and (set(counts) != set(range(1, work.rows + 1)) or set(counts.values()) != {times}):
        yield f"torn: {dict(counts)} of {work.rows} rows"
    if times > 1:
        yield f"done {times} times"
    if 200 in statuses and times == 0:
        yield "answered with 200, and lost"
    if work.verdict == "committed" and times == 0:
        yield "said to be committed, and is not there"
    if work.verdict == "aborted" and times:
        yield "said to be aborted, and is there"
    if work.verdict is None and times and all(_not_done(answer) for answer in work.answers):
        yield f"answered with {_words(statuses)}, and done"


def _not_done(answer):
    return answer.status == REFUSED or answer.outcome in NOT_EXECUTED


def _words(statuses):
    return ", ".join(sorted(map(str, statuses)))


def _unfit(answer, tolerated):
    if answer.status not in {200, 502, 503} | tolerated:
        yield f"{answer.status}: {answer.message}"
    if answer.status in {400, 503, 504} and answer.outcome not in NOT_EXECUTED:
        yield f"{answer.status} with outcome {answer.outcome}"
    if answer.status == 502 and answer.outcome != "unknown":
        yield f"502 with outcome {answer.outcome}"


@dataclass(frozen=True, slots=True)
class Advice:
    """One ``Retry-After`` and when the service really worked again, both in seconds."""

    given: int
    needed: float

    @property
    def truthful(self) -> bool:
        """Whether it was at most twice what was needed.

        The header has whole seconds, at least one, so a need of less counts as one second; and
        jitter is rounded up, so twice the need is, too.

        Nothing is asked of advice that was too short: nobody can know how long a database will
        be away. It says when the server itself will look again.
        """
        return self.given <= math.ceil(2 * max(1.0, self.needed))


def advices(answers: Iterable[Answer]) -> tuple[list[Advice], list[str]]:
    """Every 503 with the time from it to the next success of anybody; and what has no advice.

    A success counts if its request began after the 503 was received: earlier ones may have had
    their connection by then. Those after which nobody succeeded are left out.
    """
    answers = list(answers)
    # The earliest end of a success among those that began after a time: walk backwards.
    successes = sorted(
        ((answer.began, answer.ended) for answer in answers if answer.status == 200), reverse=True
    )
    found, wrong = [], []
    position, earliest = 0, math.inf
    refusals = [answer for answer in answers if answer.status == 503]
    for answer in sorted(refusals, key=lambda answer: answer.ended, reverse=True):
        while position < len(successes) and successes[position][0] >= answer.ended:
            earliest = min(earliest, successes[position][1])
            position += 1
        given = answer.retry_after or ""
        if not given.isdecimal() or int(given) < 1:
            wrong.append(f"503 with Retry-After {answer.retry_after!r}: {answer.message}")
        elif earliest < math.inf:
            found.append(Advice(int(given), earliest - answer.ended))
    return found, wrong


def counted(works: Iterable[Work]) -> dict[str, dict[int | str, int]]:
    """How often each kind of work got which status."""
    counts: dict[str, Counter[int | str]] = {}
    for work in works:
        counts.setdefault(work.kind, Counter()).update(a.status for a in work.answers)
    return {kind: dict(sorted(c.items(), key=str)) for kind, c in sorted(counts.items())}
