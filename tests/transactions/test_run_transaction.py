"""What ``run_transaction`` does when nothing goes wrong, or something ordinary."""

import asyncio
from uuid import uuid4

import asyncpg
import psycopg
import pytest

import poolkeeper
from poolkeeper import (
    Outcome,
    PoolUsageError,
    TransactionAlreadyCommittedError,
    TransactionEndedError,
    TransactionOutcome,
    TransactionRolledBackError,
    TransactionTimeoutError,
    outcome_of,
)
from poolkeeper.testing.contracts import eventually
from poolkeeper.testing.proxy import Direction, Verdict
from tests.transactions.conftest import resolutions, value, work, write

DRIVER_ERRORS = (asyncpg.PostgresError, psycopg.Error)


@pytest.mark.asyncio
async def test_the_result_of_the_function_is_returned(rig):
    """And what it wrote is committed."""
    async with rig.pool() as pool:
        job = work()
        assert await pool.run_transaction(write, job) == job
        assert await rig.times_done(job) == 1


@pytest.mark.asyncio
async def test_an_exception_of_the_function_rolls_back_and_passes_through(rig):
    """The very object it raised, after one run; its outcome is certain."""
    runs = 0
    error = KeyError("mine")
    job = work()

    async def fail(connection):
        nonlocal runs
        runs += 1
        await write(connection, job)
        raise error

    async with rig.pool(max_size=1) as pool:
        with pytest.raises(KeyError) as caught:
            await pool.run_transaction(fail)
        assert caught.value is error
        assert error.__cause__ is None
        assert outcome_of(error) is Outcome.ROLLED_BACK
        assert runs == 1
        assert await rig.times_done(job) == 0


@pytest.mark.asyncio
async def test_an_exception_arrives_when_the_rollback_is_done(rig):
    """Whoever catches it finds no lock of the transaction any more."""

    async def fail(connection):
        await write(connection, 0)
        raise KeyError("mine")

    def rolls_back(segment):
        return segment.direction is Direction.TO_SERVER and "ROLLBACK" in (segment.text or "")

    async with rig.behind_a_proxy(max_size=1) as (pool, proxy):
        proxy.policy = lambda segment: Verdict.HOLD if rolls_back(segment) else Verdict.PASS
        held = proxy.wait_for_segment(rolls_back)
        running = asyncio.ensure_future(pool.run_transaction(fail))
        await held
        for _ in range(20):
            await asyncio.sleep(0)
        assert not running.done()
        proxy.policy = None
        proxy.release()
        with pytest.raises(KeyError):
            await running


@pytest.mark.asyncio
async def test_an_error_of_a_statement_passes_through(rig):
    """The driver's own, after one run."""
    async with rig.pool() as pool:
        with pytest.raises(DRIVER_ERRORS) as caught:
            await pool.run_transaction(lambda c: c.execute("SELECT 1 / 0"))
        assert caught.value.sqlstate == "22012"
        assert outcome_of(caught.value) is Outcome.ROLLED_BACK
        assert pool.get_statistics().total_retries == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_the_transaction_is_as_it_was_asked_for(rig, isolation):
    """Isolation level, read-only, deferrable."""

    async def settings(connection):
        return [
            await value(connection, f"SHOW transaction_{name}")
            for name in ("isolation", "read_only", "deferrable")
        ]

    async with rig.pool() as pool:
        words = isolation.replace("_", " ")
        assert await pool.run_transaction(settings, isolation=isolation) == [words, "off", "off"]
        options = {"isolation": isolation, "readonly": True, "deferrable": True}
        assert await pool.run_transaction(settings, **options) == [words, "on", "on"]


@pytest.mark.asyncio
async def test_serialization_failures_are_run_again(rig):
    """Everybody's increment counts, without a lock and without an error."""
    await rig.admin.execute("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
    runs = 0

    async def increment(connection):
        nonlocal runs
        runs += 1
        seen = await value(connection, "SELECT n FROM counter")
        await connection.execute(f"UPDATE counter SET n = {seen + 1}")

    async with rig.pool(max_size=4) as pool:
        await asyncio.gather(
            *(
                pool.run_transaction(increment, isolation="repeatable_read", retries=100)
                for _ in range(12)
            )
        )
        assert await rig.admin.fetchval("SELECT n FROM counter") == 12
        assert runs > 12
        assert pool.get_statistics().total_retries == runs - 12


@pytest.mark.asyncio
async def test_conflicts_beyond_the_retries_are_the_drivers_error(rig):
    """It says what happened; the function ran once more than there are retries."""
    await rig.admin.execute("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
    runs = 0

    async def conflict(connection):
        nonlocal runs
        runs += 1
        await value(connection, "SELECT n FROM counter")
        await rig.admin.execute("UPDATE counter SET n = n + 1")
        await connection.execute("UPDATE counter SET n = 0")

    async with rig.pool() as pool:
        with pytest.raises(DRIVER_ERRORS) as caught:
            await pool.run_transaction(conflict, isolation="repeatable_read", retries=2)
        assert caught.value.sqlstate == "40001"
        assert outcome_of(caught.value) is Outcome.ROLLED_BACK
        assert runs == 3


@pytest.mark.asyncio
async def test_deadlocks_are_run_again(rig):
    """Two transactions lock two rows in opposite orders; both take effect."""
    await rig.admin.execute(
        "CREATE TABLE account (id int, n int); INSERT INTO account VALUES (1, 0), (2, 0)"
    )
    both = asyncio.Barrier(2)

    async def update(connection, first, second, seen):
        seen.append(1)
        await connection.execute(f"UPDATE account SET n = n + 1 WHERE id = {first}")
        if len(seen) == 1:
            await both.wait()
        await connection.execute(f"UPDATE account SET n = n + 1 WHERE id = {second}")

    options = {"server_settings": {"deadlock_timeout": "20ms"}}
    async with rig.pool(**options) as pool:
        one, two = [], []
        await asyncio.gather(
            pool.run_transaction(update, 1, 2, one), pool.run_transaction(update, 2, 1, two)
        )
        # One that is run again may get its first row before the other one has woken up.
        assert len(one) + len(two) >= 3
        assert await rig.admin.fetchval("SELECT sum(n) FROM account") == 4


@pytest.mark.asyncio
async def test_a_cancelled_statement_is_not_run_again(rig):
    """57014 is a limit somebody set, not an accident."""
    runs = 0

    async def slow(connection):
        nonlocal runs
        runs += 1
        await connection.execute("SET LOCAL statement_timeout = 20; SELECT pg_sleep(20)")

    async with rig.pool() as pool:
        with pytest.raises(DRIVER_ERRORS) as caught:
            await pool.run_transaction(slow)
        assert caught.value.sqlstate == "57014"
        assert runs == 1


@pytest.mark.asyncio
async def test_a_connection_lost_in_the_body_means_another_attempt(rig):
    """COMMIT was not sent: certainly nothing happened."""
    job = work()
    runs = 0

    async def lose_the_first(connection):
        nonlocal runs
        runs += 1
        await write(connection, job)
        if runs == 1:
            pid = await value(connection, "SELECT pg_backend_pid()")
            await rig.admin.execute("SELECT pg_terminate_backend($1, 10000)", pid)
            await write(connection, job)

    async with rig.pool() as pool:
        await pool.run_transaction(lose_the_first)
        assert runs == 2
        assert await rig.times_done(job) == 1
        assert pool.get_statistics().total_transactions_resolved == 0


@pytest.mark.asyncio
async def test_connections_lost_too_often_are_an_error_that_is_certain(rig):
    """TransactionRolledBackError, with the last failure as its cause."""
    job = work()

    async def lose(connection):
        await write(connection, job)
        pid = await value(connection, "SELECT pg_backend_pid()")
        await rig.admin.execute("SELECT pg_terminate_backend($1, 10000)", pid)
        await write(connection, job)

    async with rig.pool() as pool:
        with pytest.raises(TransactionRolledBackError, match="lost in each of 3") as caught:
            await pool.run_transaction(lose, retries=2)
        assert caught.value.attempts == 3
        assert isinstance(caught.value.__cause__, (*DRIVER_ERRORS, asyncpg.InterfaceError))
        assert outcome_of(caught.value) is Outcome.ROLLED_BACK
        assert await rig.times_done(job) == 0


@pytest.mark.asyncio
async def test_a_time_limit_ends_the_function(rig):
    """Nothing of it is committed, and the connection is usable again."""
    job = work()

    async def slow(connection):
        await write(connection, job)
        await connection.execute("SELECT pg_sleep(60)")

    async with rig.pool(max_size=1) as pool:
        with pytest.raises(TransactionTimeoutError) as caught:
            await pool.run_transaction(slow, timeout=0.3)
        assert isinstance(caught.value, TimeoutError)
        assert outcome_of(caught.value) is Outcome.ROLLED_BACK
        assert await pool.run_transaction(lambda c: value(c, "SELECT 1"), readonly=True) == 1
        assert await rig.times_done(job) == 0


@pytest.mark.asyncio
async def test_a_function_that_ignores_the_time_limit_is_not_committed(rig):
    """Swallowing the cancellation does not stretch the limit."""
    job = work()

    async def stubborn(connection):
        await write(connection, job)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done"

    async with rig.pool() as pool:
        with pytest.raises(TransactionTimeoutError):
            await pool.run_transaction(stubborn, timeout=0.2)
        assert resolutions(pool) == []
        assert await rig.times_done(job) == 0


@pytest.mark.asyncio
async def test_a_function_that_hangs_on_a_silent_peer_is_cut_off(rig):
    """Leaving its savepoint would wait for an answer for ever."""

    async def hang(connection, proxy):
        async with connection.transaction():
            proxy.silence()
            await write(connection, 0)

    async with rig.behind_a_proxy(stall_after=0) as (pool, proxy):
        async with asyncio.timeout(20):
            with pytest.raises(TransactionTimeoutError):
                await pool.run_transaction(hang, proxy, timeout=0.3)


@pytest.mark.asyncio
async def test_a_wait_for_a_connection_does_not_put_off_the_end(rig):
    """A function that will not leave loses its connection half a second after the limit."""
    async with rig.pool(max_size=1, stall_after=0) as pool:
        await pool.run_transaction(write, work())

        async def stay(connection):
            try:
                await asyncio.sleep(60)
            finally:
                await connection.execute("SELECT pg_sleep(60)")

        async with pool.acquire():
            before = pool._pool.now()
            running = asyncio.ensure_future(pool.run_transaction(stay, timeout=4.0))
            await asyncio.sleep(3.0)
        with pytest.raises(TransactionTimeoutError):
            await running
        # The promise is 4.5; with the wait counted twice it is 7.5.
        assert pool._pool.now() - before < 6.5


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "before", [asyncpg.SerializationError("before"), psycopg.errors.SerializationFailure("before")]
)
async def test_an_error_that_is_being_handled_is_not_taken_for_the_answer_to_commit(rig, before):
    """A transaction run in an ``except`` block loses its COMMIT's answer: it is asked about."""
    job = work()
    async with rig.behind_a_proxy() as (pool, proxy):
        lost = []

        def lose_one_answer(segment):
            if segment.direction is Direction.TO_SERVER:
                if not lost and "; commit" in (segment.text or ""):
                    lost.append(segment.link)
                return Verdict.PASS
            return Verdict.LOSE if segment.link in lost else Verdict.PASS

        proxy.policy = lose_one_answer
        try:
            raise before
        except DRIVER_ERRORS:
            assert await pool.run_transaction(write, job) == job
        assert resolutions(pool) == ["committed"]
        assert await rig.times_done(job) == 1


@pytest.mark.asyncio
async def test_an_error_that_is_being_handled_is_not_a_conflict(rig):
    """Only the server's own 40001 means another attempt, not one from before."""
    runs = []

    async def fail(connection):
        runs.append(1)
        raise psycopg.OperationalError("of somebody's own")

    async with rig.pool() as pool:
        try:
            raise psycopg.errors.SerializationFailure("before")
        except psycopg.Error:
            with pytest.raises(DRIVER_ERRORS):
                await pool.run_transaction(fail)
        assert runs == [1]


@pytest.mark.asyncio
async def test_work_with_one_id_is_done_once(rig):
    """An idempotency key: by one of many that try at once, and never again."""
    key, job = uuid4(), work()
    async with rig.pool(max_size=4) as pool:
        results = await asyncio.gather(
            *(pool.run_transaction(write, job, id=key) for _ in range(8)), return_exceptions=True
        )
        refused = [r for r in results if isinstance(r, TransactionAlreadyCommittedError)]
        assert results.count(job) == 1
        assert len(refused) == 7
        assert all(error.transaction_id == key for error in refused)
        assert outcome_of(refused[0]) is Outcome.ROLLED_BACK
        runs = []
        with pytest.raises(TransactionAlreadyCommittedError):
            await pool.run_transaction(runs.append, id=key)
        assert runs == []
        assert await rig.times_done(job) == 1
        assert await pool.transaction_outcome(key) is TransactionOutcome.COMMITTED


@pytest.mark.asyncio
async def test_an_id_declared_aborted_never_commits(rig):
    """Neither the transaction that is running nor one begun later."""
    key, job = uuid4(), work()

    async def ask_meanwhile(connection):
        await write(connection, job)
        assert await pool.transaction_outcome(key) is TransactionOutcome.ABORTED

    async with rig.pool() as pool:
        with pytest.raises(TransactionRolledBackError, match="can never commit"):
            await pool.run_transaction(ask_meanwhile, id=key)
        with pytest.raises(TransactionRolledBackError, match="can never commit"):
            await pool.run_transaction(write, job, id=key)
        assert await pool.transaction_outcome(key) is TransactionOutcome.ABORTED
        assert await rig.times_done(job) == 0


@pytest.mark.asyncio
async def test_a_function_must_not_end_the_transaction(rig):
    """What it committed is not exactly-once, and that is said."""
    job = work()

    async def commit(connection):
        await write(connection, job)
        await connection.execute("COMMIT")

    async with rig.pool(max_size=1) as pool:
        with pytest.raises(
            TransactionEndedError, match="ended the transaction by itself"
        ) as caught:
            await pool.run_transaction(commit)
        assert outcome_of(caught.value) is Outcome.UNKNOWN
        assert await rig.times_done(job) == 1
        assert await pool.run_transaction(write, job) == job


@pytest.mark.asyncio
async def test_misuse_is_refused_with_advice(rig):
    """Before anything is sent, or with nothing committed."""
    async with rig.pool() as pool:
        with pytest.raises(ValueError, match="isolation is one of"):
            await pool.run_transaction(write, 0, isolation="snapshot")
        with pytest.raises(PoolUsageError, match="leaves no trace"):
            await pool.run_transaction(write, 0, id=uuid4(), readonly=True)
        with pytest.raises(PoolUsageError, match="positive"):
            await pool.run_transaction(write, 0, timeout=0)
        with pytest.raises(PoolUsageError, match="coroutine function"):
            await pool.run_transaction(lambda connection: 1)
        await eventually(lambda: pool.get_idle_size() == pool.get_size())


@pytest.mark.asyncio
async def test_the_connection_is_gone_when_the_transaction_is_over(rig):
    """Whoever kept it learns so."""
    async with rig.pool() as pool:
        kept = []

        async def keep(connection):
            kept.append(connection)

        await pool.run_transaction(keep)
        with pytest.raises(PoolUsageError, match="released"):
            await kept[0].execute("SELECT 1")


@pytest.mark.asyncio
async def test_a_leak_report_names_the_line_of_the_caller(rig):
    """Not one of poolkeeper's own."""
    async with rig.pool(leak_detection_timeout=0.1) as pool:

        async def linger(connection):
            await eventually(
                lambda: any(event.name == "connection_leak_suspected" for event in pool.seen)
            )

        await pool.run_transaction(linger)
        (event,) = [e for e in pool.seen if e.name == "connection_leak_suspected"]
        assert "test_run_transaction.py" in event.acquired_at


@pytest.mark.asyncio
async def test_an_id_may_come_as_text_and_must_be_a_uuid(rig):
    """As it comes in a header; anything else is refused before anything is sent."""
    async with rig.pool() as pool:
        key = str(uuid4())
        await pool.run_transaction(write, work(), id=key)
        with pytest.raises(poolkeeper.TransactionAlreadyCommittedError):
            await pool.run_transaction(write, work(), id=key)
        for ask in (
            lambda: pool.run_transaction(write, work(), id="order-17"),
            lambda: pool.transaction_outcome("order-17"),
        ):
            with pytest.raises(poolkeeper.PoolUsageError, match="Suggestion") as caught:
                await ask()
            assert poolkeeper.outcome_of(caught.value) is poolkeeper.Outcome.NOT_SENT
