"""One borrower at a time: nothing of the one before, and no way to lose a connection."""

import asyncio

import asyncpg
import pytest

from poolkeeper import (
    PoolConfigurationError,
    PoolTimeoutError,
    PoolUsageError,
    create_pool,
)
from poolkeeper.core.sizing import expected_wait, smoothed_use
from poolkeeper.observability.events import ConnectionRecycled, DatabaseConnectionLost
from poolkeeper.testing.contracts import eventually
from tests.pool.conftest import postgres_world
from tests.pool.soundness import assert_sound

LOCK = 7


async def acknowledged(pool, statement):
    """Run a statement as a borrower who tries again while the connection is not usable."""
    async with pool.acquire() as connection:
        while True:
            try:
                return await connection.execute(statement)
            except asyncpg.InterfaceError:
                await asyncio.sleep(0)


async def waits_for_lock(world, count):
    """Return once ``count`` sessions of the pools stand before a lock."""
    await eventually(lambda: _stand_before_lock(world, count))


async def _stand_before_lock(world, count):
    return count == await world.admin.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = $1 AND wait_event_type = 'Lock'",
        world.application,
    )


async def _sleeps(world):
    return await world.admin.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    )


def is_inside(task, name):
    """Whether a task is suspended somewhere in the coroutine function ``name``."""
    frame = task.get_coro()
    while frame is not None:
        if getattr(frame, "__name__", None) == name:
            return True
        frame = getattr(frame, "cr_await", None)
    return False


@pytest.mark.asyncio
async def test_a_begin_in_flight_never_swallows_the_next_borrowers_write(real, postgres):
    """Its answer is late, the lease is released meanwhile: who comes next writes for good."""
    await real.admin.execute("CREATE TABLE written (x int)")
    async with real.pool(max_size=1) as pool:
        connection = await pool.acquire()
        pid = connection.get_server_pid()
        postgres.server.freeze(pid)
        try:
            begin = asyncio.create_task(connection.transaction().start())
            await asyncio.sleep(0)
            await pool.release(connection)
            write = asyncio.create_task(acknowledged(pool, "INSERT INTO written VALUES (1)"))
            # The write of a wrongly shared connection is tried before the answer comes.
            for _ in range(10):
                await asyncio.sleep(0)
        finally:
            postgres.server.thaw(pid)
        assert await write == "INSERT 0 1"
        await asyncio.gather(begin, return_exceptions=True)
        await assert_sound(pool, real)
    assert await real.admin.fetchval("SELECT count(*) FROM written") == 1


@pytest.mark.asyncio
async def test_a_prepared_statement_still_running_at_release_is_not_shared(real):
    """The next borrower gets another connection; the one before meets a closed one."""
    await real.admin.execute("SELECT pg_advisory_lock($1)", LOCK)
    async with real.pool(max_size=1) as pool:
        connection = await pool.acquire()
        statement = await connection.prepare("SELECT pg_advisory_xact_lock_shared($1)")
        left = asyncio.create_task(statement.fetch(LOCK))
        await waits_for_lock(real, 1)
        await pool.release(connection)
        assert await pool.fetchval("SELECT 42") == 42
        with pytest.raises(asyncpg.PostgresError):
            await left
        await real.admin.execute("SELECT pg_advisory_unlock($1)", LOCK)
        await assert_sound(pool, real)


@pytest.mark.asyncio
async def test_a_query_logger_does_not_see_the_next_borrowers_statements(real):
    """Also when its owner forgot to remove it."""
    seen = []
    async with real.pool(max_size=1) as pool:
        async with pool.acquire() as connection:
            connection.add_query_logger(lambda record: seen.append(record.query))
            await connection.fetchval("SELECT 'mine'")
            await eventually(lambda: seen)
        async with pool.acquire() as connection:
            # This logger tells when a forgotten one would have been told.
            later = []
            connection.add_query_logger(lambda record: later.append(record.query))
            await connection.fetchval("SELECT 'of the next'")
            await eventually(lambda: later)
    assert seen == ["SELECT 'mine'"]
    assert later == ["SELECT 'of the next'"]


@pytest.mark.asyncio
async def test_a_forgotten_listener_cannot_keep_a_connection_from_returning(real):
    """Not even where warnings are errors, as in this test run."""
    async with real.pool(max_size=1) as pool:
        connection = await pool.acquire()
        await connection.add_listener("news", print)
        await pool.release(connection)
        assert await pool.fetchval("SELECT count(*) FROM pg_listening_channels()") == 0
        await assert_sound(pool, real)


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["execute", "fetch", "fetchrow", "fetchval"])
async def test_using_a_released_connection_names_the_method_called(real, method):
    """With a statement the connection has in its cache, too."""
    async with real.pool(max_size=1) as pool:
        async with pool.acquire() as connection:
            await getattr(connection, method)("SELECT 1")
        with pytest.raises(PoolUsageError, match=rf"cannot call Connection\.{method}\(\): .*Sugg"):
            await getattr(connection, method)("SELECT 1")


@pytest.mark.asyncio
async def test_a_dispatcher_that_hands_out_connections_is_no_deadlock(real):
    """It waits for the next one while its jobs work and give theirs back."""
    await real.admin.execute("SELECT pg_advisory_lock($1)", LOCK)

    async def job(connection):
        try:
            await connection.execute(f"SELECT pg_advisory_xact_lock_shared({LOCK})")
        finally:
            await pool.release(connection)

    async def dispatch():
        jobs = []
        for _ in range(5):
            connection = await pool.acquire()
            jobs.append(asyncio.create_task(job(connection)))
        await asyncio.gather(*jobs)

    async with real.pool(max_size=2) as pool:
        dispatcher = asyncio.create_task(dispatch())
        await waits_for_lock(real, 2)
        await eventually(lambda: pool.get_statistics().waiting_requests)
        pool._pool.housekeep()
        await real.admin.execute("SELECT pg_advisory_unlock($1)", LOCK)
        await dispatcher
        await assert_sound(pool, real)


def test_one_very_long_use_does_not_make_a_later_burst_hopeless():
    """An hour's use moves the mean no further than a few short ones would."""
    mean = smoothed_use(0.001, 3600.0)
    assert mean > 0.001
    assert expected_wait(ahead=40, max_size=2, mean_use=mean) < 1.0


def test_long_uses_that_are_the_rule_are_learnt():
    """Only the exception is discounted."""
    mean = 0.001
    for _ in range(200):
        mean = smoothed_use(mean, 2.0)
    assert mean > 1.5


@pytest.mark.asyncio
@pytest.mark.parametrize("event_type", [ConnectionRecycled, DatabaseConnectionLost])
async def test_a_listener_may_terminate_the_pool_while_connections_are_released(real, event_type):
    """The release that caused the event succeeds, and so do those after it."""
    pool = real.pool(min_size=2)
    await pool.initialize()
    pool.add_event_listener(
        lambda event: pool.terminate() if isinstance(event, event_type) else None
    )
    held = [await pool.acquire() for _ in range(2)]
    waiters = [asyncio.create_task(pool.fetchval("SELECT 1")) for _ in range(3)]
    await eventually(lambda: pool.get_statistics().waiting_requests == 3)
    for connection in held:
        connection.terminate()
    for connection in held:
        await pool.release(connection)
    pool.terminate()
    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert all(isinstance(outcome, Exception) for outcome in outcomes), outcomes
    await pool.close()
    assert pool.get_size() == 0


@pytest.mark.asyncio
async def test_a_listener_may_terminate_the_pool_while_connections_expire(real):
    """Nothing is left of the pool, and expiring raises nothing."""
    pool = real.pool(min_size=2)
    await pool.initialize()
    heard = []

    def listener(event):
        if isinstance(event, ConnectionRecycled):
            heard.append(event)
            pool.terminate()

    pool.add_event_listener(listener)
    await eventually(lambda: pool.get_idle_size() == 2)
    await pool.expire_connections()
    await pool.close()
    assert heard
    assert pool.get_size() == 0


@pytest.mark.asyncio
async def test_an_acquire_context_serves_the_task_that_entered_it_first(world):
    """A second one is told so at once, and no connection is lost between the two."""
    async with world.pool(min_size=2, close_timeout=1) as pool:
        held = [await pool.acquire() for _ in range(2)]
        context = pool.acquire()

        async def use():
            async with context as connection:
                await connection.execute("SELECT 1")

        first = asyncio.create_task(use())
        second = asyncio.create_task(use())
        await eventually(lambda: pool.get_statistics().waiting_requests)
        for connection in held:
            await pool.release(connection)
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), PoolUsageError]
        await assert_sound(pool, world)


@pytest.mark.asyncio
async def test_a_cancelled_close_cuts_off_what_it_was_cancelling(crashable_postgres):
    """The server is silent, and the caller has no more time: no statement goes on waiting."""
    async with postgres_world(crashable_postgres.dsn()) as world:
        pool = world.pool(max_size=1)
        await pool.initialize()
        connection = await pool.acquire()
        statement = asyncio.create_task(connection.execute("SELECT pg_sleep(1)"))
        await eventually(lambda: _sleeps(world))
        crashable_postgres.freeze()
        try:
            closing = asyncio.create_task(pool.close(timeout=0.01))
            await eventually(
                lambda: any(is_inside(task, "_cancel") for task in asyncio.all_tasks())
            )
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert connection.is_closed()
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await statement
            assert pool.get_size() == 0
        finally:
            crashable_postgres.thaw()


@pytest.mark.asyncio
async def test_cancelling_every_task_during_a_reset_loses_no_capacity(memory):
    """Some signal handlers do; whoever still runs can have every connection."""
    before = asyncio.all_tasks()
    async with memory.pool(max_size=1) as pool:
        with memory.database.gates.closed("clean"):
            connection = await pool.acquire()
            await connection.execute("SET work_mem = '1MB'")
            await pool.release(connection)
            await memory.database.gates["clean"].reached()
            for task in asyncio.all_tasks() - before:
                task.cancel()
            # A gate opened at once would let the reset finish before the cancellation arrives.
            for _ in range(5):
                await asyncio.sleep(0)
        await assert_sound(pool, memory)


@pytest.mark.asyncio
async def test_cancelling_every_task_before_a_reset_began_loses_no_capacity(real):
    """A task cancelled before its first step never runs, yet its connection comes back."""
    before = asyncio.all_tasks()
    async with real.pool(max_size=1, timeout=2, close_timeout=1) as pool:
        connection = await pool.acquire()
        await connection.execute("SET work_mem = '1MB'")
        await pool.release(connection)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        assert await pool.fetchval("SELECT 1") == 1
        await assert_sound(pool, real)


@pytest.mark.asyncio
async def test_a_slow_setup_hook_runs_into_the_acquire_timeout(real):
    """It is an error of the pool's own, and says what to do."""
    never = asyncio.Event()

    async def setup(connection):
        await never.wait()

    async with real.pool(max_size=1, setup=setup, timeout=0.2) as pool:
        with pytest.raises(PoolTimeoutError, match=r"setup hook .*Suggestion: "):
            await pool.fetchval("SELECT 1")
        never.set()
        await eventually(lambda: pool.get_statistics().active_connections == 0)


@pytest.mark.asyncio
async def test_the_server_version_is_what_the_server_says(real):
    """Major and minor, and not what a distribution adds."""
    async with real.pool() as pool:
        said = await pool.fetchval("SHOW server_version")
        assert pool._pool.server_version == said.split()[0]


def test_create_pool_names_options_as_its_caller_did():
    """It takes ``acquire_timeout`` for what the configuration calls ``timeout``."""
    with pytest.raises(PoolConfigurationError) as caught:
        create_pool("postgresql://u@localhost/d", acquire_timeout=0)
    assert "acquire_timeout" in str(caught.value)
    assert caught.value.option == "acquire_timeout"


def test_create_pool_knows_a_misspelt_option():
    """Before anything is dialled, with the name that was meant."""
    with pytest.raises(PoolConfigurationError, match="did you mean max_size"):
        create_pool("postgresql://u@localhost/d", max_siz=3)
