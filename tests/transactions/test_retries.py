"""Single statements are made again where that is safe or was declared so, and nowhere else."""

import asyncio
import io
import random
from time import monotonic

import asyncpg
import psycopg
import pytest

from poolkeeper import (
    DatabaseUnavailableError,
    Outcome,
    PoolTimeoutError,
    PoolUsageError,
    outcome_of,
)
from poolkeeper.testing.proxy import Direction, Verdict
from poolkeeper.transactions import budget as budget_module
from poolkeeper.transactions.budget import RetryBudget
from poolkeeper.transactions.retries import LONGEST_PAUSE, Retries
from tests.transactions.conftest import work

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error)


def insert(job: int) -> str:
    return f"INSERT INTO done VALUES ({job})"


class Cuts:
    """A policy that loses the answers to the first statements that contain a text."""

    def __init__(self, text: str, times: int) -> None:
        self._text = text
        self._left = times
        self._asked = set()

    def __call__(self, segment):
        if segment.direction is Direction.TO_SERVER:
            if self._text in (segment.text or ""):
                self._asked.add(segment.link)
        elif segment.link in self._asked and self._left:
            self._left -= 1
            return Verdict.LOSE
        return Verdict.PASS


@pytest.mark.asyncio
async def test_a_statement_in_doubt_is_not_made_again_by_itself(rig):
    """It was done; the answer is lost; nobody said that twice is harmless."""
    async with rig.behind_a_proxy() as (pool, proxy):
        job = work()
        proxy.policy = Cuts("INSERT INTO done", 1)
        with pytest.raises(DRIVER_ERRORS) as caught:
            await pool.execute(insert(job))
        assert outcome_of(caught.value) is Outcome.UNKNOWN
        assert await rig.times_done(job) == 1
        assert pool.get_statistics().total_retries == 0


@pytest.mark.asyncio
async def test_an_idempotent_statement_is_made_again(rig):
    """As often as max_retries says."""
    async with rig.behind_a_proxy(max_retries=3) as (pool, proxy):
        job = work()
        proxy.policy = Cuts("INSERT INTO done", 3)
        await pool.execute(insert(job), idempotent=True)
        assert await rig.times_done(job) == 4
        assert pool.get_statistics().total_retries == 3


@pytest.mark.asyncio
async def test_the_retries_end_with_the_drivers_error(rig):
    """And what the attempts may have done stays unknown."""
    async with rig.behind_a_proxy(max_retries=2) as (pool, proxy):
        job = work()
        proxy.policy = Cuts("INSERT INTO done", 99)
        with pytest.raises(DRIVER_ERRORS) as caught:
            await pool.execute(insert(job), idempotent=True)
        assert outcome_of(caught.value) is Outcome.UNKNOWN
        assert await rig.times_done(job) == 3


@pytest.mark.asyncio
async def test_a_refusal_after_an_attempt_in_doubt_is_in_doubt(rig):
    """The second attempt fails because the first one had succeeded."""
    await rig.admin.execute("ALTER TABLE done ADD UNIQUE (work)")
    async with rig.behind_a_proxy() as (pool, proxy):
        proxy.policy = Cuts("INSERT INTO done", 1)
        with pytest.raises(DRIVER_ERRORS) as caught:
            await pool.execute(insert(work()), idempotent=True)
        assert caught.value.sqlstate == "23505"
        assert outcome_of(caught.value) is Outcome.UNKNOWN


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg"])
async def test_every_method_can_be_idempotent(rig):
    """Iterators are read once and kept."""
    async with rig.behind_a_proxy(max_retries=3) as (pool, proxy):
        calls = {
            "fetch": ("SELECT 'a' AS x", [{"x": "a"}]),
            "fetchrow": ("SELECT 'b' AS x", {"x": "b"}),
            "fetchval": ("SELECT 'c' AS x", "c"),
        }
        for method, (sql, expected) in calls.items():
            proxy.policy = Cuts(sql, 1)
            got = await getattr(pool, method)(sql, idempotent=True)
            assert (list(map(dict, got)) if method == "fetch" else got) == expected or (
                dict(got) == expected
            )
        jobs = [work(), work()]
        sql = "INSERT INTO done VALUES ($1)"
        proxy.policy = Cuts(sql, 1)
        await pool.executemany(sql, iter([(job,) for job in jobs]), idempotent=True)
        assert [await rig.times_done(job) for job in jobs] in ([1, 1], [2, 2])
        proxy.policy = Cuts(f"{sql} RETURNING work", 1)
        rows = await pool.fetchmany(
            f"{sql} RETURNING work", iter([(work(),), (work(),)]), idempotent=True
        )
        assert len(rows) == 2
        assert pool.get_statistics().total_retries == 5


@pytest.mark.asyncio
async def test_psycopg_refuses_what_it_does_not_have(rig):
    """Idempotent or not."""
    if rig.driver == "asyncpg":
        async with rig.pool() as pool:
            assert await pool.fetchval("SELECT 1", idempotent=True) == 1
    else:
        async with rig.pool() as pool:
            with pytest.raises(PoolUsageError, match="psycopg has no fetchval"):
                await pool.fetchval("SELECT 1", idempotent=True)


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg"])
async def test_a_statement_that_was_never_sent_is_made_again_by_itself(rig):
    """The connection had died in the moment before; that it is dead is known before writing."""
    async with rig.pool(max_size=1) as pool:
        (slot,) = pool._pool.state.slots.values()
        session = type(slot.connection)
        lend = session.lend
        lent = []

        def lend_a_dead_one_first(self, slot):
            lease = lend(self, slot)
            if not lent:
                self.connection.terminate()
            lent.append(lease)
            return lease

        session.lend = lend_a_dead_one_first
        job = work()
        try:
            await pool.execute(insert(job))
        finally:
            session.lend = lend
        assert await rig.times_done(job) == 1
        assert pool.get_statistics().total_retries == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg"])
async def test_data_that_can_be_read_once_is_not_sent_twice(rig):
    """A COPY and an iterator fail like everything that cannot be repeated."""
    async with rig.behind_a_proxy() as (pool, proxy):
        proxy.policy = Cuts("COPY", 1)
        with pytest.raises(DRIVER_ERRORS):
            await pool.copy_to_table("done", source=io.BytesIO(b"1\n"))
        assert pool.get_statistics().total_retries == 0


@pytest.mark.asyncio
async def test_an_error_of_the_statement_is_not_made_again(rig):
    """It would fail again."""
    async with rig.pool() as pool:
        for sql in ("SELECT 1 / 0", "SET statement_timeout = 20; SELECT pg_sleep(9)"):
            with pytest.raises(DRIVER_ERRORS):
                await pool.execute(sql, idempotent=True)
        assert pool.get_statistics().total_retries == 0


@pytest.mark.asyncio
async def test_a_refusal_of_the_pool_is_not_made_again(rig):
    """The pool has waited already."""
    async with rig.pool(max_size=1, timeout=0.1) as pool, pool.acquire():
        with pytest.raises(PoolTimeoutError):
            await pool.execute("SELECT 1", idempotent=True)
        assert pool.get_statistics().total_retries == 0
        assert pool.get_statistics().total_timeouts == 1


@pytest.mark.asyncio
async def test_the_timeout_of_an_idempotent_call_bounds_all_of_it(rig):
    """Waiting for a connection, the statement and its repetitions together."""
    async with rig.pool(max_size=1) as pool:
        with pytest.raises(TimeoutError):
            await pool.execute("SELECT pg_sleep(60)", idempotent=True, timeout=0.2)
        async with pool.acquire():
            with pytest.raises(PoolTimeoutError):
                await pool.execute("SELECT 1", idempotent=True, timeout=0.2)
    async with rig.behind_a_proxy(max_retries=10_000) as (pool, proxy):
        proxy.policy = Cuts("SELECT 2", 10_000)
        started = monotonic()
        with pytest.raises((*DRIVER_ERRORS, DatabaseUnavailableError, PoolTimeoutError)):
            await pool.execute("SELECT 2", idempotent=True, timeout=1.0)
        assert monotonic() - started < 5


@pytest.mark.asyncio
async def test_no_more_is_asked_of_a_failing_database_than_the_budget_allows(rig, monkeypatch):
    """Then failures pass through, and say why they were not made again."""
    monkeypatch.setattr(budget_module, "PER_SECOND", 0.0)
    monkeypatch.setattr(budget_module, "PER_REQUEST", 0.0)
    async with rig.behind_a_proxy(max_size=1, max_retries=100) as (pool, proxy):
        proxy.policy = Cuts("SELECT 2", 10_000)
        with pytest.raises(DRIVER_ERRORS) as caught:
            await pool.execute("SELECT 2", idempotent=True)
        assert "retry budget" in caught.value.__notes__[-1]
        assert pool.get_statistics().total_retries == 2


def test_the_budget_follows_the_load(monkeypatch):
    """10 a second and 10 % of the requests; unused allowance is kept for ten seconds."""
    requests = 0
    clock = 0.0
    monkeypatch.setattr(budget_module, "monotonic", lambda: clock)
    budget = RetryBudget(lambda: requests, lambda: 10)

    def spent() -> int:
        return sum(budget.spend() for _ in range(10_000))

    assert spent() == 100
    assert spent() == 0
    clock += 1.0
    assert spent() == 10
    requests += 200
    assert spent() == 20
    clock += 3600.0
    assert spent() == 100
    many = RetryBudget(lambda: requests, lambda: 500)
    assert sum(many.spend() for _ in range(10_000)) == 1000


def test_pauses_grow_and_differ():
    """Full jitter: nobody comes back together with the others."""
    retries = Retries(None, None, None, random.Random(7))
    for number, longest in [(1, 0.04), (2, 0.08), (3, 0.16), (50, LONGEST_PAUSE)]:
        pauses = [retries.pause(number) for _ in range(2000)]
        assert 0 <= min(pauses) < longest / 10
        assert longest * 0.9 < max(pauses) <= longest


@pytest.mark.asyncio
@pytest.mark.slow
async def test_idempotent_reads_survive_a_crash_of_the_server(rig, crashable_postgres):
    """Fifty clients, kill -9 and restart: nobody sees an error."""
    rig.url = crashable_postgres.create_database("crashing")
    done = asyncio.Event()
    reads = 0

    async def read(pool):
        nonlocal reads
        while not done.is_set():
            await pool.execute("SELECT 1", idempotent=True)
            reads += 1

    async with rig.pool(max_size=10, timeout=30.0) as pool:
        clients = [asyncio.ensure_future(read(pool)) for _ in range(50)]
        for _ in range(3):
            target = reads + 500
            async with asyncio.timeout(30):
                while reads < target:
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(crashable_postgres.crash)
            await asyncio.to_thread(crashable_postgres.start)
        target = reads + 500
        async with asyncio.timeout(30):
            while reads < target:
                await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*clients)
        assert pool.get_statistics().total_retries > 0
