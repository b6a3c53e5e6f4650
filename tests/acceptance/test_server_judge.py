"""The judge of the server's answers finds what it is there to find."""

import asyncio
from dataclasses import replace

import pytest

from poolkeeper.testing.proxy import Direction, FaultProxy, Verdict
from tests.server.load.clients import SINGLE, TABLE, Clients, rows_in
from tests.server.load.http import Connection
from tests.server.load.judge import HUNG, LOST, REFUSED, Advice, Answer, Work, advices, judge
from tests.server.processes import ServerProcess


def answer(status, outcome=None, **facts):
    outcome = outcome or {502: "unknown", 503: "not_executed"}.get(status)
    return Answer(0.0, 1.0, status, outcome, **facts)


def one(*answers, rows=1, verdict=None):
    return Work(7, "sql", rows, "key", list(answers), verdict)


TOLD_TRULY = {
    "done": (one(answer(200)), {1: 1}),
    "not done": (one(answer(503)), {}),
    "rolled back": (one(answer(503, "rolled_back"), rows=2), {}),
    "unknown and done": (one(answer(502)), {1: 1}),
    "unknown and not done": (one(answer(502)), {}),
    "found out to be committed": (one(answer(502), verdict="committed", rows=2), {1: 1, 2: 1}),
    "found out to be aborted": (one(answer(502), verdict="aborted", rows=2), {}),
    "repeated until done": (one(answer(503), answer(503), answer(200)), {1: 1}),
    "only read": (one(answer(200), rows=0), {}),
}
TOLD_WRONGLY = {
    "done twice": (one(answer(200)), {1: 2}, "done 2 times"),
    "lost": (one(answer(200)), {}, "answered with 200, and lost"),
    "503 for a lost COMMIT": (one(answer(503)), {1: 1}, "answered with 503, and done"),
    "503 and done twice": (one(answer(503), answer(200)), {1: 2}, "done 2 times"),
    "half of a batch": (one(answer(503), rows=2), {1: 1}, "torn"),
    "half of a batch twice": (one(answer(200), rows=2), {1: 2, 2: 1}, "torn"),
    "a false commit": (one(answer(502), verdict="committed"), {}, "said to be committed"),
    "a false abort": (one(answer(502), verdict="aborted"), {1: 1}, "said to be aborted"),
    "500": (one(answer(500)), {}, "500"),
    "400": (one(answer(400)), {}, "400"),
    "no answer": (one(answer(LOST)), {}, LOST),
    "no answer, and done": (one(answer(LOST)), {1: 1}, LOST),
    "hung": (one(answer(HUNG)), {}, HUNG),
    "refused": (one(answer(REFUSED)), {}, REFUSED),
    "504 that was done": (one(answer(504, "rolled_back")), {1: 1}, "answered with 504, and done"),
    "504 that does not commit itself": (one(answer(504)), {}, "504 with outcome"),
    "503 that does not commit itself": (one(answer(503, "unknown")), {}, "503 with outcome"),
    "502 that claims to know": (one(answer(502, "not_executed")), {}, "502 with outcome"),
}


@pytest.mark.parametrize("name", TOLD_TRULY)
def test_the_truth_passes(name):
    """What a server may say."""
    work, rows = TOLD_TRULY[name]
    assert judge([work], {work.id: rows} if rows else {}) == []


@pytest.mark.parametrize("name", TOLD_WRONGLY)
def test_a_lie_is_found(name):
    """What it must never say, forged."""
    work, rows, words = TOLD_WRONGLY[name]
    problems = judge([work], {work.id: rows} if rows else {})
    assert any(words in problem for problem in problems), problems


def test_rows_from_nowhere_are_found():
    """A table of others would hide what is missing."""
    assert judge([], {3: {1: 1}}) == ["nobody sent 3"]


@pytest.mark.parametrize(
    ("given", "needed", "truthful"),
    [
        (1, 0.0, True),
        (2, 0.3, True),
        (3, 0.3, False),
        (3, 1.2, True),
        (8, 4.0, True),
        (9, 4, False),
    ],
)
def test_advice_is_truthful_up_to_twice_the_need(given, needed, truthful):
    """A need of less than a second counts as one: the header knows no less."""
    assert Advice(given, needed).truthful is truthful


def test_advice_is_held_against_the_next_success_that_began_later():
    """A request that was under way before does not show that asking again works."""
    refused = Answer(0.0, 1.0, 503, "not_executed", "4")
    under_way = Answer(0.5, 1.1, 200)
    early = Answer(2.0, 5.0, 200)
    quick = Answer(2.5, 3.0, 200)
    found, wrong = advices([refused, under_way, early, quick])
    assert (found, wrong) == ([Advice(4, 2.0)], [])
    assert advices([refused, under_way]) == ([], [])


@pytest.mark.parametrize("header", [None, "0", "-1", "soon", "1.5"])
def test_a_503_without_usable_advice_is_found(header):
    """Whole seconds, one at least."""
    _, wrong = advices([Answer(0.0, 1.0, 503, "not_executed", header)])
    assert len(wrong) == 1


@pytest.mark.asyncio
async def test_a_server_that_said_503_for_a_lost_answer_would_be_caught(postgres):
    """A real statement, done, its answer lost: 502 passes, the same with 503 does not."""
    postgres.server.psql(TABLE, database=postgres.name)
    async with FaultProxy.to(postgres.url) as proxy:
        with ServerProcess("--port=0", "--max-size=1", database_url=proxy.url) as server:
            await asyncio.to_thread(server.start)
            proxy.policy = lose_answers_to("work")
            clients = Clients(server.url, 1, [SINGLE])
            work = Work(1, "sql", 1)
            connection = Connection(server.url)
            told = await clients.send(connection, SINGLE, work)
            await connection.close()
            proxy.policy = None
    found = await rows_in(postgres.url)
    assert found == {1: {1: 1}}
    assert told.status == 502
    assert judge([work], found) == []
    work.answers = [replace(told, status=503, outcome="not_executed")]
    assert judge([work], found) == ["sql 1: answered with 503, and done"]


def lose_answers_to(text):
    """A policy: what the server answers to statements with this text is lost with its link."""
    struck = set()

    def policy(segment):
        if segment.direction is Direction.TO_SERVER and text in (segment.text or ""):
            struck.add(segment.link)
        elif segment.direction is Direction.TO_CLIENT and segment.link in struck:
            return Verdict.LOSE
        return Verdict.PASS

    return policy
