"""The checker catches every wrong strategy, in scenarios that leave nothing to luck.

In each scenario the right strategy comes out clean: what is caught is the mistake, not the fault.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager

import asyncpg
import pytest
import pytest_asyncio

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.testing.checker import Kind, check
from poolkeeper.testing.clients import Client, Clients, resolve_unknown
from poolkeeper.testing.history import History, Type
from poolkeeper.testing.proxy import Direction, FaultProxy, Verdict
from poolkeeper.testing.workloads import (
    Bank,
    UniqueInserts,
    autocommit,
    by_run_transaction,
    final_read,
    in_transaction,
    plain_fetch,
)
from tests.faults import mutants

HELD = 42
"""The advisory lock that a COMMIT waits for in some scenarios."""
PATIENCE = 60.0


class Scenario:
    """One pool behind a proxy, one history, and a connection past the proxy for the test itself."""

    def __init__(self, proxy, pool, direct) -> None:
        self.proxy = proxy
        self.pool = pool
        self.direct = direct
        self.history = History()
        self.inserts = UniqueInserts()
        self.bank = Bank()

    async def write(self, strategy, workload=None) -> Type:
        """One write; what the client was told."""
        return await self._do("write", workload or self.inserts, writes=[strategy])

    async def read(self, strategy) -> Type:
        return await self._do("read", self.inserts, read=strategy)

    async def _do(self, what, workload, **options) -> Type:
        clients = Clients(self.pool, [workload], self.history, count=1, **options)
        async with asyncio.timeout(PATIENCE):
            await getattr(workload, what)(Client(clients, 0))
        return self.history.operations()[-1].type

    def lose(self, wanted, direction, verdict=Verdict.LOSE) -> None:
        """Lose the first request that executes ``wanted``, or the answer to it."""
        asked, lost = set(), []

        def policy(segment):
            if lost:
                return Verdict.PASS
            if segment.direction is Direction.TO_SERVER:
                if not _executes(segment, wanted):
                    return Verdict.PASS
                asked.add(segment.link)
            if segment.direction is direction and segment.link in asked:
                lost.append(segment)
                return verdict
            return Verdict.PASS

        self.proxy.policy = policy

    async def hold_commits(self) -> None:
        """Let every COMMIT of an insert wait, on the server, until ``let_commits_go``."""
        await self.direct.execute(
            f"""
            CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock_shared({HELD}); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON workload_inserts
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold();
            SELECT pg_advisory_lock({HELD})
            """
        )

    async def let_commits_go(self) -> None:
        await self.direct.execute(f"SELECT pg_advisory_unlock({HELD})")

    def next_commit(self) -> asyncio.Future:
        """A COMMIT that has reached the proxy from now on."""
        return self.proxy.wait_for_segment(
            lambda segment: (
                segment.direction is Direction.TO_SERVER and _executes(segment, "commit")
            )
        )

    async def report(self):
        """The verdict, once everything under way has ended."""
        if mutants.background:
            await asyncio.wait(mutants.background, timeout=PATIENCE)
        await self.proxy.heal(links=True)
        final = await final_read(self.direct, [self.inserts, self.bank])
        return check(self.history, final)


def _executes(segment, wanted) -> bool:
    """Whether it is a Query, or an Execute rather than the Parse before it."""
    executes = {"Q", "E"} & set(segment.types)
    return bool(executes and re.search(rf"\b{wanted}\b", segment.text or "", re.IGNORECASE))


@asynccontextmanager
async def scenario_on(url):
    direct = await asyncpg.connect(url)
    try:
        async with (
            FaultProxy.to(url) as proxy,
            ConnectionPoolManager(
                PoolConfig(
                    database_url=proxy.url, min_size=1, max_size=4, timeout=20, command_timeout=20
                )
            ) as pool,
        ):
            scenario = Scenario(proxy, pool, direct)
            for workload in (scenario.inserts, scenario.bank):
                await workload.create(direct)
            # also makes the ledger, which some mutants use
            assert await scenario.write(by_run_transaction) is Type.OK
            yield scenario
    finally:
        if not direct.is_closed():
            await direct.close()


@pytest_asyncio.fixture
async def scenario(postgres):
    async with scenario_on(postgres.url) as made:
        yield made


def verdict(report) -> set[Kind]:
    return {finding.kind for finding in report.findings}


CLEAN: set[Kind] = set()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("strategy", "found"),
    [
        (by_run_transaction, CLEAN),
        (in_transaction, CLEAN),
        (mutants.naive_retry, {Kind.DOUBLED}),
        (mutants.told_as_failed, {Kind.FAILED_BUT_VISIBLE}),
    ],
)
async def test_the_answer_to_a_commit_is_lost(scenario, strategy, found):
    """It has happened: doing it again doubles it, saying that it failed is untrue."""
    scenario.lose("commit", Direction.TO_CLIENT)
    await scenario.write(strategy)
    assert verdict(await scenario.report()) == found


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("strategy", "found"),
    [
        (by_run_transaction, CLEAN),
        (in_transaction, CLEAN),
        (mutants.naive_retry, CLEAN),
        (mutants.told_as_done, {Kind.LOST}),
        (mutants.acknowledged_before_commit, {Kind.LOST}),
    ],
)
async def test_a_commit_is_lost_on_its_way(scenario, strategy, found):
    """It has not happened, and a client that was told otherwise has lost it."""
    scenario.lose("commit", Direction.TO_SERVER)
    await scenario.write(strategy)
    assert verdict(await scenario.report()) == found


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("strategy", "found"),
    [(autocommit, CLEAN), (mutants.execute_said_to_be_idempotent, {Kind.DOUBLED})],
)
async def test_the_answer_to_an_insert_is_lost(scenario, strategy, found):
    """An INSERT of its own is a transaction of its own."""
    scenario.lose("insert into workload_inserts", Direction.TO_CLIENT)
    told = await scenario.write(strategy)
    assert told is (Type.OK if found else Type.INFO)
    assert verdict(await scenario.report()) == found


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("strategy", "found"),
    [
        (by_run_transaction, CLEAN),
        (in_transaction, CLEAN),
        (mutants.naive_retry, {Kind.DOUBLED}),
        (mutants.resolved_by_select, {Kind.DOUBLED}),
    ],
)
async def test_a_commit_goes_on_after_its_client_was_cut_off(scenario, strategy, found):
    """What is not there yet may still come, when a second attempt is already under way."""
    await scenario.hold_commits()
    first = scenario.next_commit()
    cut_off = []

    def policy(segment):
        if not cut_off and first.done():
            cut_off.append(segment)
            return Verdict.DELIVER_THEN_RESET
        return Verdict.PASS

    scenario.proxy.policy = policy
    writing = asyncio.create_task(scenario.write(strategy))
    async with asyncio.timeout(PATIENCE):
        await first
        again = scenario.next_commit()
        await asyncio.wait({again, writing}, return_when=asyncio.FIRST_COMPLETED)
        await scenario.let_commits_go()
        await writing
    again.cancel()
    assert cut_off
    assert verdict(await scenario.report()) == found


async def within_four_seconds(pool, body):
    await pool.run_transaction(body, timeout=4.0)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("strategy", "found"),
    [
        (within_four_seconds, CLEAN),
        (mutants.retried_after_a_time_limit, {Kind.DOUBLED}),
    ],
)
async def test_a_commit_is_not_answered_in_time(scenario, strategy, found):
    """It goes on behind a network that has gone silent, where no cancel request gets through."""
    await scenario.hold_commits()
    silenced = []

    async def policy(segment):
        if "CancelRequest" in segment.types:
            return Verdict.LOSE
        commits = segment.direction is Direction.TO_SERVER and _executes(segment, "commit")
        if silenced or not commits:
            return Verdict.PASS
        silenced.append(segment)
        await segment.link.deliver(segment)
        return Verdict.DROP

    first = scenario.next_commit()
    scenario.proxy.policy = policy
    writing = asyncio.create_task(scenario.write(strategy))
    async with asyncio.timeout(PATIENCE):
        await first
        again = scenario.next_commit()
        await asyncio.wait({again, writing}, return_when=asyncio.FIRST_COMPLETED)
        await scenario.let_commits_go()
        await writing
    again.cancel()
    assert silenced
    assert verdict(await scenario.report()) == found


@pytest.mark.asyncio
@pytest.mark.parametrize("asked", ["tombstone", "select"])
async def test_a_verdict_on_a_commit_that_goes_on(scenario, asked):
    """A look at the ledger says what is so now; only the tombstone makes it stay so."""
    await scenario.hold_commits()

    def policy(segment):
        executes = segment.direction is Direction.TO_SERVER and _executes(segment, "commit")
        if executes:
            # nobody can ask in time, so that the client is told that it is unknown
            scenario.proxy.policy = None
            refusing.append(asyncio.ensure_future(scenario.proxy.refuse()))
            return Verdict.DELIVER_THEN_RESET
        return Verdict.PASS

    async def within_a_second(pool, body):
        await pool.run_transaction(body, timeout=1.0)

    refusing = []
    # one connection: there must be none left to ask on
    scenario.pool.resize(min_size=0, max_size=1)
    scenario.proxy.policy = policy
    assert await scenario.write(within_a_second) is Type.INFO
    await scenario.proxy.accept()
    operation = scenario.history.operations()[-1]
    if asked == "tombstone":
        assert await resolve_unknown(scenario.pool, scenario.history) == 1
    else:
        transaction = operation.fact("transaction")
        committed = await mutants.look_in_ledger(scenario.pool, transaction)
        scenario.history.verdict(operation, committed=committed)
    await scenario.let_commits_go()
    found = CLEAN if asked == "tombstone" else {Kind.WRONG_VERDICT}
    assert verdict(await scenario.report()) == found


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("strategy", "told", "found"),
    [
        (mutants.swallowed_in_run_transaction, Type.FAIL, CLEAN),
        (mutants.commit_tag_ignored, Type.OK, {Kind.LOST}),
    ],
)
async def test_a_commit_answers_rollback(scenario, strategy, told, found):
    """An error was swallowed inside the transaction: PostgreSQL commits nothing and says so."""
    assert await scenario.write(strategy) is told
    assert verdict(await scenario.report()) == found


@pytest.mark.asyncio
@pytest.mark.parametrize("cut", [False, True])
async def test_the_connection_is_lost_in_the_middle_of_a_transfer(scenario, cut):
    """In one transaction nothing has happened; in two, the money is gone."""
    if cut:
        scenario.bank.move = mutants.transfer_in_two_transactions
        # the second half's update: the first one is on its way to the server
        scenario.lose("update workload_accounts", Direction.TO_SERVER)
        first = scenario.proxy.policy
        seen = []

        def second(segment):
            if not seen and _executes(segment, "update workload_accounts"):
                seen.append(segment)
                return Verdict.PASS
            return first(segment)

        scenario.proxy.policy = second
        write = by_pool_connection
    else:
        scenario.lose("insert into workload_transfers", Direction.TO_SERVER)
        write = by_run_transaction
    await scenario.write(write, scenario.bank)
    assert verdict(await scenario.report()) == ({Kind.TORN} if cut else CLEAN)


async def by_pool_connection(pool, body):
    async with pool.acquire() as connection:
        await body(connection)


@pytest.mark.asyncio
async def test_a_read_is_answered_from_memory(scenario):
    """It cannot show what was written since."""
    cached = mutants.CachedReads()
    assert await scenario.read(cached) is Type.OK
    assert verdict(await scenario.report()) == CLEAN
    assert await scenario.write(by_run_transaction) is Type.OK
    assert await scenario.read(plain_fetch) is Type.OK
    assert verdict(await scenario.report()) == CLEAN
    assert await scenario.read(cached) is Type.OK
    assert verdict(await scenario.report()) == {Kind.STALE, Kind.BACKWARDS}


QUIET = {
    # nothing but a commit may write the log: then a crash forgets a transaction's number
    "wal_writer_delay": "10s",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("strategy", "found"),
    [(by_run_transaction, CLEAN), (mutants.resolved_by_xact_status, {Kind.LOST})],
)
async def test_a_transaction_number_is_given_out_again_after_a_crash(
    request, tmp_path, strategy, found
):
    """`pg_xact_status` then tells the fate of somebody else's transaction."""
    initialized = request.getfixturevalue("_initialized_postgres")
    with initialized.copy_to(tmp_path / "quiet", settings=QUIET) as server:
        async with scenario_on(server.url) as scenario:
            crashed = asyncio.Event()

            async def crash(segment):
                if segment.direction is not Direction.TO_SERVER or not _executes(segment, "commit"):
                    return Verdict.PASS
                scenario.proxy.policy = None
                await scenario.proxy.refuse()
                await asyncio.to_thread(server.crash)
                crashed.set()
                return Verdict.LOSE

            scenario.proxy.policy = crash
            writing = asyncio.create_task(scenario.write(strategy))
            async with asyncio.timeout(PATIENCE):
                await crashed.wait()
                await asyncio.to_thread(server.start)
                await scenario.direct.close()
                scenario.direct = bystander = await asyncpg.connect(server.url)
                await bystander.execute("CREATE TABLE bystanders (number int)")
                for number in range(20):
                    await bystander.execute("INSERT INTO bystanders VALUES ($1)", number)
                await scenario.proxy.accept()
                await writing
            assert verdict(await scenario.report()) == found
            await bystander.close()
