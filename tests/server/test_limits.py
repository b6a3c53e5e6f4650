"""One client cannot starve the others."""

import asyncio
import contextlib
import json
import random
import statistics
import time
from types import SimpleNamespace

import pytest

from poolkeeper.exceptions import PoolExhaustedError, PoolTimeoutError
from poolkeeper.server.access import Access
from poolkeeper.server.departure import ClientGoneError
from poolkeeper.server.limits import Limits, Turns
from poolkeeper.server.settings import Token
from poolkeeper.server.turned_away import RateLimitedError, TooManyRequestsError
from tests.server.processes import ServerProcess

A, B = Token("a", "secret-of-a"), Token("b", "secret-of-b")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Pool:
    """As much of a pool as is asked for its sizes."""

    def __init__(self, size, max_waiting=None):
        self.size = size
        self.config = SimpleNamespace(max_waiting=max_waiting)

    def get_max_size(self):
        return self.size

    def get_min_size(self):
        return 0

    def get_statistics(self):
        zero = dict.fromkeys(["idle", "connecting", "validating", "resetting", "closing"], 0)
        return SimpleNamespace(
            total_connections=self.size,
            active_connections=self.size,
            waiting_requests=0,
            oldest_waiter_seconds=0.0,
            **{f"{name}_connections": n for name, n in zero.items()},
        )


def limits(*tokens, size=1, max_waiting=None, clock=time.monotonic):
    return Limits(Pool(size, max_waiting), Access(tokens), clock=clock)


# Limits of one token ------------------------------------------------------------------------------


def test_requests_beyond_the_rate_are_refused_until_the_time_that_is_told():
    """A burst may come at once, then one after the other."""
    clock = Clock()
    some = limits(clock=clock)
    token = Token("a", "s", rate=4.0, burst=3)
    for _ in range(3):
        some.admit(token)
    with pytest.raises(RateLimitedError, match=r"'a'.* 4 .*Suggestion: ") as caught:
        some.admit(token)
    assert caught.value.retry_after == pytest.approx(0.25)
    clock.now += caught.value.retry_after * 0.9
    with pytest.raises(RateLimitedError):
        some.admit(token)
    clock.now += caught.value.retry_after * 0.11
    some.admit(token)
    clock.now += 3600
    for _ in range(3):
        some.admit(token)
    with pytest.raises(RateLimitedError):
        some.admit(token)


def test_the_rate_of_one_token_is_not_anothers():
    """Each has its own credit."""
    some = limits(clock=Clock())
    slow, other = Token("slow", "s", rate=1.0, burst=1), Token("other", "o", rate=1.0, burst=1)
    some.admit(slow)
    with pytest.raises(RateLimitedError):
        some.admit(slow)
    some.admit(other)


def test_requests_at_once_are_counted_until_they_end():
    """However they end, and refused ones do not count."""
    some = limits()
    token = Token("a", "s", max_concurrency=2)
    first, _second = some.admit(token), some.admit(token)
    for _ in range(5):
        with pytest.raises(TooManyRequestsError, match=r"'a' has 2 .*Suggestion: "):
            some.admit(token)
    first.end()
    some.admit(token)
    with pytest.raises(TooManyRequestsError):
        some.admit(token)


def test_what_has_no_limits_is_not_counted():
    """The way of most requests is short."""
    some = limits()
    assert some.admit(None) is None
    assert some.admit(A) is None


# Turns --------------------------------------------------------------------------------------------


async def begun(turns, name):
    """A task that waits for its place already."""
    task = asyncio.create_task(turns.begin(name))
    await asyncio.sleep(0)
    return task


async def settle():
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_place_goes_to_who_has_the_fewest():
    """Not to who asked most, nor first."""
    turns = Turns(lambda: 2)
    assert turns.begin_at_once("greedy")
    assert turns.begin_at_once("greedy")
    greedy = [await begun(turns, "greedy") for _ in range(20)]
    modest = await begun(turns, "modest")
    turns.end("greedy")
    await settle()
    assert modest.done()
    assert not any(task.done() for task in greedy)
    turns.end("modest")
    await settle()
    assert [task.done() for task in greedy] == [True] + [False] * 19
    for _ in range(20):
        turns.end("greedy")
        await settle()
    assert all(task.done() for task in greedy)


@pytest.mark.asyncio
async def test_equals_take_turns():
    """One each, whoever sends more; and each in its own order."""
    turns = Turns(lambda: 1)
    assert turns.begin_at_once("x")
    order = []

    async def use(name, number):
        await turns.begin(name)
        order.append((name, number))
        turns.end(name)

    asked = [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("b", 1), ("c", 0)]
    tasks = [asyncio.create_task(use(*each)) for each in asked]
    await asyncio.sleep(0)
    turns.end("x")
    await asyncio.gather(*tasks)
    assert sorted(order) == sorted(asked)
    assert [name for name, _ in order[:5]] == ["a", "b", "c", "a", "b"]
    assert [number for name, number in order if name == "a"] == [0, 1, 2, 3]


@pytest.mark.asyncio
async def test_nobody_overtakes_those_who_wait():
    """A place that is free for a moment belongs to the queue."""
    turns = Turns(lambda: 1)
    assert turns.begin_at_once("a")
    waiting = await begun(turns, "a")
    turns.end("a")
    assert not turns.begin_at_once("b")
    await settle()
    assert waiting.done()


@pytest.mark.asyncio
async def test_more_places_are_given_out_when_there_are_more():
    """A pool can be resized while requests wait."""
    places = 1
    turns = Turns(lambda: places)
    assert turns.begin_at_once("a")
    waiting = [await begun(turns, "b") for _ in range(3)]
    places = 3
    turns.end("a")
    await settle()
    assert [task.done() for task in waiting] == [True, True, True]
    places = 1
    turns.end("b")
    last = await begun(turns, "b")
    turns.end("b")
    await settle()
    assert not last.done()
    turns.end("b")
    await settle()
    assert last.done()


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost_or_given_twice_whatever_is_cancelled(seed):
    """Cancelled while waiting, at the moment of the grant, and while holding."""
    rng = random.Random(seed)
    places = 3
    turns = Turns(lambda: places)
    held = 0

    async def use(name):
        nonlocal held
        if not turns.begin_at_once(name):
            await turns.begin(name)
        held += 1
        assert held <= places
        try:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
        finally:
            held -= 1
            turns.end(name)

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(use(rng.choice("abc"))))
        if rng.random() < 0.5:
            rng.choice(tasks).cancel()
        if rng.random() < 0.6:
            await asyncio.sleep(0)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in done)
    assert (held, turns.waiting, turns._held, turns._lines) == (0, 0, 0, {})


def never():
    return asyncio.get_running_loop().create_future()


@pytest.mark.asyncio
async def test_with_one_token_the_pools_own_queue_is_the_only_one():
    """There is nobody to be fair to."""
    for token, some in ((None, limits()), (A, limits(A))):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(some.turn(token, 1.0, never()))
            assert some.waiting == 0


@pytest.mark.asyncio
async def test_a_turn_that_does_not_come_is_a_timeout_with_the_facts():
    """As if the request had waited in the pool's own queue."""
    some = limits(A, B)
    async with some.turn(A, 1.0, never()), some.turn(A, 1.0, never()):
        with pytest.raises(PoolTimeoutError, match=r"'a'.*Pool state: .*Suggestion: ") as caught:
            async with some.turn(A, 0.01, never()):
                pass
        assert caught.value.timeout == pytest.approx(0.01)
        assert some.waiting == 0
    async with some.turn(A, 1.0, never()), some.turn(A, 1.0, never()):
        pass


@pytest.mark.asyncio
async def test_a_client_that_leaves_gives_its_turn_up():
    """The next one gets it."""
    some = limits(A, B)
    leaving = never()
    async with some.turn(A, 5.0, never()), some.turn(A, 5.0, never()):

        async def wait():
            async with some.turn(B, 5.0, leaving):
                pass

        task = asyncio.create_task(wait())
        await settle()
        assert some.waiting == 1
        leaving.set_result(None)
        with pytest.raises(ClientGoneError):
            await task
        assert some.waiting == 0


@pytest.mark.asyncio
async def test_a_full_queue_has_room_for_who_has_less_waiting():
    """The newest of the longest line makes room; among equals who came first stays."""
    some = limits(A, B, max_waiting=4)
    async with some.turn(A, 5.0, never()), some.turn(A, 5.0, never()):
        served = []

        async def wait(token, number):
            async with some.turn(token, 5.0, never()):
                served.append((token.name, number))

        async def asked(token, number):
            task = asyncio.create_task(wait(token, number))
            await settle()
            return task

        greedy = [await asked(A, number) for number in range(5)]
        with pytest.raises(PoolExhaustedError, match="limit 4"):
            await greedy[4]
        modest = [await asked(B, number) for number in range(3)]
        for refused in (greedy[3], greedy[2], modest[2]):
            with pytest.raises(PoolExhaustedError, match="limit 4"):
                await refused
        assert some.waiting == 4
    await asyncio.gather(*greedy[:2], *modest[:2])
    assert sorted(served) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert some.waiting == 0


@pytest.mark.asyncio
async def test_who_is_displaced_and_cancelled_at_once_leaves_nothing_behind():
    """Neither a place that nobody holds nor an exception that nobody takes."""
    turns = Turns(lambda: 1)
    assert turns.begin_at_once("a")
    first, second = await begun(turns, "a"), await begun(turns, "a")
    assert turns.displace("b", PoolExhaustedError("full"))
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert second.cancelled()
    turns.end("a")
    await first
    turns.end("a")
    assert (turns.waiting, turns._held, turns._lines) == (0, 0, {})


@pytest.mark.asyncio
async def test_who_waits_for_a_turn_longest_is_known():
    """For those who look at the queue from outside."""
    some = limits(A, B)
    assert some.oldest_wait() == 0.0
    async with some.turn(A, 1.0, never()), some.turn(A, 1.0, never()):
        with pytest.raises(PoolTimeoutError) as caught:
            async with some.turn(A, 0.05, never()):
                pass
        assert caught.value.snapshot.waiting == 0
        turns = some._turns
        waiting = await begun(turns, "a")
        began = turns.waiting_since()
        later = await begun(turns, "b")
        assert turns.waiting_since() == began
        assert some.oldest_wait() > 0
        waiting.cancel()
        later.cancel()
        await asyncio.gather(waiting, later, return_exceptions=True)
    assert some.oldest_wait() == 0.0


# A server -----------------------------------------------------------------------------------------

TOKENS = """
[[token]]
name = "greedy"
secret = "secret-of-the-greedy"

[[token]]
name = "modest"
secret = "secret-of-the-modest"

[[token]]
name = "counted"
secret = "secret-of-the-counted"
max_concurrency = 2

[[token]]
name = "slow"
secret = "secret-of-the-slow"
rate = 2
burst = 1
"""


@pytest.fixture(scope="module")
def shared(postgres_server, tmp_path_factory):
    """A server with a small pool and several tokens."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(TOKENS, encoding="utf-8")
    path.chmod(0o600)
    url = postgres_server.create_database("limits_shared")
    options = ("--port=0", "--max-size=4", f"--token-file={path}", "--no-access-log")
    # Two hundred greedy clients wait here.
    env = {"POOL_MAX_WAITING": "1000"}
    with ServerProcess(*options, database_url=url, env=env) as process:
        yield process.start()


class Client:
    """One connection that sends one request after the other."""

    def __init__(self, server, token, query):
        self._port = int(server.url.rsplit(":", 1)[1])
        body = json.dumps({"query": query}).encode()
        head = (
            "POST /sql HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer secret-of-the-{token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self.seconds = []

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_error):
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self):
        """Status and headers of the answer."""
        began = time.perf_counter()
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:-2])
        await self._reader.readexactly(int(headers["content-length"]))
        self.seconds.append(time.perf_counter() - began)
        return int(lines[0].split()[1]), headers


async def median_of(server, token, clients, requests):
    async def run(client):
        async with client:
            for _ in range(requests):
                assert (await client.ask())[0] == 200

    crowd = [Client(server, token, "select pg_sleep(0.02)") for _ in range(clients)]
    await asyncio.gather(*map(run, crowd))
    return statistics.median(second for client in crowd for second in client.seconds)


@pytest.mark.asyncio
async def test_two_hundred_greedy_clients_leave_a_modest_one_its_share(shared):
    """Without any limit given: in one queue it would wait for fifty others before each request."""
    alone = await median_of(shared, "modest", clients=2, requests=15)

    async def crave(client):
        async with client:
            while True:
                assert (await client.ask())[0] == 200

    greedy = [Client(shared, "greedy", "select pg_sleep(0.02)") for _ in range(200)]
    tasks = [asyncio.create_task(crave(client)) for client in greedy]
    try:
        while sum(bool(client.seconds) for client in greedy) < 50:
            await asyncio.sleep(0.01)
        beside = await median_of(shared, "modest", clients=2, requests=15)
        starved = statistics.median(second for client in greedy for second in client.seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert beside < 8 * alone
    # What the modest one would have got in one queue with them.
    assert starved > 8 * alone


@pytest.mark.asyncio
async def test_too_many_requests_at_once_are_429_and_the_others_are_served(shared):
    """With a Retry-After, and with nothing executed."""
    crowd = [Client(shared, "counted", "select pg_sleep(0.3)") for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        for client in crowd:
            await stack.enter_async_context(client)
        answers = await asyncio.gather(*(client.ask() for client in crowd))
        assert sorted(status for status, _ in answers) == [200, 200, 429, 429, 429]
        assert all(int(h["retry-after"]) >= 1 for status, h in answers if status == 429)
        assert (await crowd[0].ask())[0] == 200


@pytest.mark.asyncio
async def test_a_request_that_comes_after_retry_after_is_let_in(shared):
    """The time that is told is true."""
    async with Client(shared, "slow", "select 1") as client:
        while (answer := await client.ask())[0] == 200:
            pass
        status, headers = answer
        assert status == 429
        await asyncio.sleep(int(headers["retry-after"]))
        assert (await client.ask())[0] == 200


def test_the_word_for_it_is_the_same_in_both_dialects(shared):
    """Programs tell a limit of their token from a full server."""
    token = {"Authorization": "Bearer secret-of-the-slow"}
    for _ in range(3):
        answer = shared.sql("select 1", headers=token)
    assert answer.status_code == 429
    assert answer.json()["type"] == "urn:poolkeeper:problem:rate-limited"
    assert answer.json()["outcome"] == "not_executed"
    answer = shared.client.post(f"{shared.url}/v1/query", json={"query": "select 1"}, headers=token)
    assert answer.status_code == 429
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["retry_after"] >= 1
