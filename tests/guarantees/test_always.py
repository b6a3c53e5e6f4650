"""What holds however PostgreSQL is replicated."""

import asyncio
import contextlib

import pytest

from poolkeeper import TransactionOutcomeUnknownError
from poolkeeper.exceptions import TransactionRolledBackError
from poolkeeper.outcomes import Outcome, TransactionOutcome, outcome_of
from poolkeeper.testing.proxy import Direction, FaultProxy, Verdict
from poolkeeper.transactions.ids import new_id
from tests.faults.rig import outcome, pool_on, until, with_both_drivers
from tests.guarantees.writes import COMMITS, held_commits, rows, table, write

pytestmark = pytest.mark.asyncio


def once(verdict, matches):
    """A policy: the first segment that matches gets ``verdict``, everything else passes."""
    hits = []

    def policy(segment):
        if not hits and matches(segment):
            hits.append(segment)
            return verdict
        return Verdict.PASS

    policy.hits = hits
    return policy


def is_commit(segment):
    return segment.direction is Direction.TO_SERVER and COMMITS in (segment.text or "").lower()


def answers_commit():
    """The next segment to the client on the link that sent a COMMIT."""
    links = []

    def matches(segment):
        if is_commit(segment):
            links.append(segment.link)
            return False
        return segment.direction is Direction.TO_CLIENT and segment.link in links

    return matches


@with_both_drivers
async def test_certain_failures(postgres, driver):
    """A call that failed with NOT_SENT or ROLLED_BACK left nothing behind.

    A statement refused by the server, a connection lost in mid-transaction, a database away.
    """
    table(postgres)
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, driver, outage_patience=0.1) as pool,
    ):

        async def cut_off(connection):
            await connection.execute("INSERT INTO write VALUES (1)")
            proxy.reset()
            await connection.execute("INSERT INTO write VALUES (2)")

        refused = await outcome(pool.execute("INSERT INTO write VALUES (3), (3)"))
        lost = await outcome(pool.run_transaction(cut_off, retries=0))
        await proxy.refuse()
        proxy.reset()
        away = await outcome(pool.execute("INSERT INTO write VALUES (4)"))
        await proxy.accept()
    outcomes = [outcome_of(error) for error in (refused, lost, away)]
    assert outcomes == [Outcome.ROLLED_BACK, Outcome.ROLLED_BACK, Outcome.NOT_SENT]
    assert [rows(postgres, number) for number in range(5)] == [0] * 5


@with_both_drivers
@pytest.mark.parametrize("verdict", [Verdict.LOSE, Verdict.DELIVER_THEN_RESET])
async def test_never_twice(postgres, driver, verdict):
    """A statement that is not idempotent is never sent twice."""
    postgres.server.psql("CREATE TABLE write (number int)", database=postgres.name)
    async with FaultProxy.to(postgres.url) as proxy, pool_on(proxy.url, driver) as pool:
        sent = []

        def policy(segment):
            if segment.direction is Direction.TO_SERVER and "INSERT" in (segment.text or ""):
                sent.append(segment)
                return verdict
            return Verdict.PASS

        proxy.policy = policy
        error = await outcome(pool.execute("INSERT INTO write VALUES (1)"))
        assert outcome_of(error) is Outcome.UNKNOWN
        assert len(sent) == 1
    await until(
        lambda: (
            not postgres.server.psql(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'INSERT%' AND state = 'active'"
            )
        )
    )
    assert rows(postgres, 1) <= 1


@with_both_drivers
async def test_lost_answer(postgres, driver):
    """run_transaction takes effect exactly once when the answer to its COMMIT is lost."""
    table(postgres)
    async with FaultProxy.to(postgres.url) as proxy, pool_on(proxy.url, driver) as pool:
        await write(pool, 0)
        proxy.policy = once(Verdict.LOSE, answers_commit())
        assert await outcome(write(pool, 1)) is None
        assert proxy.policy.hits
    assert rows(postgres, 1) == 1


@with_both_drivers
async def test_lost_commit(postgres, driver):
    """run_transaction takes effect exactly once when its COMMIT never arrives."""
    table(postgres)
    async with FaultProxy.to(postgres.url) as proxy, pool_on(proxy.url, driver) as pool:
        await write(pool, 0)
        proxy.policy = once(Verdict.LOSE, is_commit)
        assert await outcome(write(pool, 1)) is None
        assert proxy.policy.hits
    assert rows(postgres, 1) == 1


@with_both_drivers
async def test_commit_under_way(postgres, driver):
    """A COMMIT that is still under way is waited for, not guessed about.

    The server is in the middle of it, with nothing of it visible, when the connection is lost.
    """
    table(postgres)
    async with FaultProxy.to(postgres.url) as proxy, pool_on(proxy.url, driver) as pool:
        await write(pool, 0)
        async with held_commits(postgres) as held:
            task = asyncio.create_task(outcome(write(pool, 1), bound=20.0))
            await held.reached()
            proxy.reset()
            assert rows(postgres, 1) == 0
        assert await task is None
    assert rows(postgres, 1) == 1


async def test_aborted_is_final(postgres):
    """What transaction_outcome has called aborted never commits, even if it was about to."""
    table(postgres)
    async with pool_on(postgres.url) as pool, pool_on(postgres.url) as other:
        await write(pool, 0)
        key = new_id()
        at_the_end, go = asyncio.Event(), asyncio.Event()

        async def slow(connection):
            await connection.execute("INSERT INTO write VALUES (1)")
            at_the_end.set()
            await go.wait()

        task = asyncio.create_task(outcome(pool.run_transaction(slow, id=key)))
        await at_the_end.wait()
        assert await other.transaction_outcome(key) is TransactionOutcome.ABORTED
        go.set()
        error = await task
        assert isinstance(error, TransactionRolledBackError)
        assert rows(postgres, 1) == 0


async def test_says_when_it_does_not_know(postgres):
    """A call whose outcome cannot be found out in time says so with the id to ask for later."""
    table(postgres)
    async with (
        FaultProxy.to(postgres.url) as proxy,
        pool_on(proxy.url, outage_patience=0.2, stall_after=0.3) as pool,
    ):
        await write(pool, 0)

        async def refuse_everybody(segment):
            if not is_commit(segment):
                return Verdict.PASS
            await proxy.refuse()
            return Verdict.DELIVER_THEN_RESET

        proxy.policy = refuse_everybody
        error = await outcome(write(pool, 1, timeout=2.0))
        assert isinstance(error, TransactionOutcomeUnknownError)
        proxy.policy = None
        await proxy.accept()
        told = await pool.transaction_outcome(error.transaction_id, timeout=10.0)
        assert rows(postgres, 1) == (1 if told is TransactionOutcome.COMMITTED else 0)


@with_both_drivers
async def test_swallowed_error(postgres, driver):
    """A COMMIT that rolls back because a failed statement was swallowed is an error."""
    table(postgres)

    async def careless(connection):
        await connection.execute("INSERT INTO write VALUES (1)")
        with contextlib.suppress(Exception):
            await connection.execute("SELECT 1/0")

    async with pool_on(postgres.url, driver) as pool:
        with pytest.raises(TransactionRolledBackError):
            await pool.run_transaction(careless)
        if driver == "asyncpg":
            with pytest.raises(TransactionRolledBackError):
                async with pool.acquire() as connection, connection.transaction():
                    await careless(connection)
    assert rows(postgres, 1) == 0


@with_both_drivers
async def test_cancelled_during_commit(postgres, driver):
    """A caller that is cancelled during COMMIT sends no cancel request after it."""
    table(postgres)
    async with FaultProxy.to(postgres.url) as proxy, pool_on(proxy.url, driver) as pool:
        await write(pool, 0)
        seen = []
        proxy.policy = lambda segment: seen.append(segment) or Verdict.PASS
        async with held_commits(postgres) as held:
            task = asyncio.create_task(write(pool, 1))
            await held.reached()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: rows(postgres, 1) == 1)
        assert not [s for s in seen if "CancelRequest" in s.types]


async def test_same_id(postgres):
    """Two calls with the same id commit once."""
    table(postgres)
    async with pool_on(postgres.url) as pool, pool_on(postgres.url) as other:
        key = new_id()
        errors = await asyncio.gather(
            outcome(write(pool, 1, id=key)), outcome(write(other, 2, id=key))
        )
    assert sorted(type(error).__name__ for error in errors) == [
        "NoneType",
        "TransactionAlreadyCommittedError",
    ]
    assert rows(postgres, 1) + rows(postgres, 2) == 1
