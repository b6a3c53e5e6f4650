"""``outcome_of``: what a failed call left behind, for whatever it may raise."""

import asyncio

import asyncpg
import psycopg
import pytest

import poolkeeper
from poolkeeper import Outcome, outcome_of
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.outcomes import OURS, mark
from poolkeeper.testing.proxy import Direction, Verdict
from tests.transactions.conftest import value

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error)
NOT_SENT, ROLLED_BACK, UNKNOWN = Outcome.NOT_SENT, Outcome.ROLLED_BACK, Outcome.UNKNOWN


async def failure(work) -> BaseException:
    """What awaiting it raises."""
    try:
        await work
    except BaseException as error:
        return error
    pytest.fail("it did not fail")


async def end(rig, pid: int) -> None:
    await rig.admin.execute("SELECT pg_terminate_backend($1, 10000)", pid)


@pytest.mark.asyncio
async def test_a_statement_the_server_refused_was_rolled_back(rig):
    """Whatever the reason, if it was given as an error and not as the end of the session."""
    await rig.admin.execute("CREATE TABLE once (x int UNIQUE)")
    async with rig.pool(max_size=1) as pool:
        await pool.execute("INSERT INTO once VALUES (1)")
        for sql, code in [
            ("INSERT INTO once VALUES (1)", "23505"),
            ("SELECT 1 / 0", "22012"),
            ("SELEC", "42601"),
            ("SET statement_timeout = 20; SELECT pg_sleep(20)", "57014"),
        ]:
            error = await failure(pool.execute(sql))
            assert (error.sqlstate, outcome_of(error)) == (code, ROLLED_BACK)


@pytest.mark.asyncio
async def test_a_connection_lost_during_a_statement_leaves_its_outcome_open(rig):
    """The server may have got to its end."""
    async with rig.pool(max_size=1) as pool:
        running = asyncio.ensure_future(failure(pool.execute("SELECT pg_sleep(60)")))
        await rig.reached("wait_event = 'PgSleep'")
        await rig.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
            rig.application,
        )
        error = await running
        assert isinstance(error, DRIVER_ERRORS)
        assert outcome_of(error) is UNKNOWN


@pytest.mark.asyncio
async def test_a_statement_on_a_connection_known_to_be_closed_was_not_sent(rig):
    """The driver refuses before it writes anything."""
    async with rig.pool(max_size=1) as pool, pool.acquire() as connection:
        await end(rig, await value(connection, "SELECT pg_backend_pid()"))
        first = await failure(connection.execute("SELECT 1"))
        second = await failure(connection.execute("SELECT 1"))
        assert isinstance(first, DRIVER_ERRORS)
        assert isinstance(second, DRIVER_ERRORS)
        assert outcome_of(second) is NOT_SENT


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", ["asyncpg"])
async def test_a_transaction_whose_body_lost_its_connection_was_rolled_back(rig):
    """asyncpg hides the cause behind another error; COMMIT was never sent."""

    async def body(pool):
        async with pool.acquire() as connection, connection.transaction():
            await end(rig, await value(connection, "SELECT pg_backend_pid()"))
            await connection.execute("SELECT 1")

    async with rig.pool(max_size=1) as pool:
        error = await failure(body(pool))
        assert "__aexit__" in str(error)
        assert outcome_of(error) is ROLLED_BACK


@pytest.mark.asyncio
async def test_time_limits_and_cancellations_leave_the_outcome_open(rig):
    """The server may have been quicker than the request to stop."""
    async with rig.pool(max_size=1) as pool:

        async def limited():
            async with asyncio.timeout(0.05):
                await pool.execute("SELECT pg_sleep(60)")

        assert outcome_of(await failure(limited())) is UNKNOWN
        task = asyncio.ensure_future(pool.execute("SELECT pg_sleep(60)"))
        await rig.reached("wait_event = 'PgSleep'")
        task.cancel()
        assert outcome_of(await failure(task)) is UNKNOWN


@pytest.mark.asyncio
async def test_refusals_of_the_pool_were_not_sent(rig):
    """Full, closed, misused: even if their cause is a failure of another kind."""
    async with rig.pool(max_size=1, max_waiting=0) as pool:
        async with pool.acquire() as connection:
            assert outcome_of(await failure(pool.execute("SELECT 1"))) is NOT_SENT
        assert outcome_of(await failure(connection.execute("SELECT 1"))) is NOT_SENT
    assert outcome_of(await failure(pool.execute("SELECT 1"))) is NOT_SENT
    error = poolkeeper.DatabaseUnavailableError("away")
    error.__cause__ = asyncpg.ConnectionDoesNotExistError("lost")
    assert outcome_of(error) is NOT_SENT


def test_every_error_of_the_pool_has_an_outcome():
    """Those about transactions by name, the others as refusals."""
    expected = {
        "TransactionRolledBackError": ROLLED_BACK,
        "TransactionTimeoutError": ROLLED_BACK,
        "TransactionAbortedError": ROLLED_BACK,
        "TransactionAlreadyCommittedError": ROLLED_BACK,
        "TransactionOutcomeUnknownError": UNKNOWN,
        "TransactionEndedError": UNKNOWN,
    }
    kinds = [
        kind
        for name in poolkeeper.__all__
        if isinstance(kind := getattr(poolkeeper, name), type)
        and issubclass(kind, ConnectionPoolError)
    ]
    assert len(kinds) > len(OURS)
    for kind in kinds:
        assert outcome_of(kind("text")) is expected.get(kind.__name__, NOT_SENT), kind


@pytest.mark.parametrize(
    "error",
    [
        ValueError("yours"),
        TimeoutError(),
        ConnectionResetError(104, "reset"),
        asyncio.CancelledError(),
        asyncpg.InterfaceError("something new"),
        asyncpg.InternalClientError("something new"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        psycopg.OperationalError("consuming input failed: server closed the connection"),
        psycopg.errors.AdminShutdown("terminating connection"),
        ExceptionGroup("several", [asyncpg.UniqueViolationError("twice")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_certain_is_unknown(error):
    """When in doubt, in doubt."""
    assert outcome_of(error) is UNKNOWN


def test_an_error_of_somebodys_own_does_not_borrow_the_outcome_of_its_cause():
    """Whatever was done in between is not known here."""
    error = ValueError("mine")
    error.__cause__ = poolkeeper.PoolTimeoutError("full")
    assert outcome_of(error) is UNKNOWN


def test_a_closed_connection_after_a_lost_one_does_not_hide_the_loss():
    """asyncpg's words for both are the same; the context tells."""
    error = asyncpg.InterfaceError("connection is closed")
    error.__context__ = asyncpg.ConnectionDoesNotExistError("closed in the middle of operation")
    assert outcome_of(error) is UNKNOWN
    assert outcome_of(asyncpg.InterfaceError("connection is closed")) is NOT_SENT


def test_what_is_known_better_is_believed():
    """A retry that failed after an attempt in doubt, a rollback we saw happen."""
    error = KeyError("yours")
    mark(error, ROLLED_BACK)
    assert outcome_of(error) is ROLLED_BACK
    late = asyncpg.UniqueViolationError("twice")
    mark(late, UNKNOWN)
    assert outcome_of(late) is UNKNOWN


EARLIER = [
    poolkeeper.DatabaseUnavailableError("an earlier call"),
    asyncpg.SerializationError("an earlier call"),
    psycopg.errors.SerializationFailure("an earlier call"),
    psycopg.errors.UniqueViolation("an earlier call"),
]


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "lost",
    [
        psycopg.OperationalError("consuming input failed: server closed the connection"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.InternalClientError("got result for unknown protocol state"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_being_handled_says_nothing_of_the_call_made_meanwhile(earlier, lost):
    """Python chains the two; only the second one is about the call."""
    lost.__context__ = earlier
    assert outcome_of(lost) is UNKNOWN


@pytest.mark.asyncio
async def test_nothing_is_sent_twice_because_of_an_error_being_handled(rig):
    """The answer is lost, in a call made while an error that meant "not sent" was handled."""
    await rig.admin.execute("CREATE TABLE once (x int)")
    async with rig.behind_a_proxy() as (pool, proxy):
        await pool.execute("SELECT 1")
        sent = []

        def policy(segment):
            if "INSERT" in (segment.text or "") and segment.direction is Direction.TO_SERVER:
                sent.append(segment)
                return Verdict.DELIVER_THEN_RESET
            return Verdict.PASS

        proxy.policy = policy
        try:
            raise poolkeeper.DatabaseUnavailableError("an earlier call: nothing was sent")
        except poolkeeper.DatabaseUnavailableError:
            error = await failure(pool.execute("INSERT INTO once VALUES (1)"))
        assert outcome_of(error) is UNKNOWN
        assert len(sent) == 1
