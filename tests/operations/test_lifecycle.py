"""Operations are created once, go on where they stopped, and obey people."""

import asyncio
import uuid
from itertools import pairwise

import asyncpg
import pytest

from poolkeeper import PoolClosedError, create_pool
from poolkeeper.operations import (
    NotHereError,
    OperationConflictError,
    OperationError,
    OperationFailedError,
    OperationNotFoundError,
    OperationState,
    OperationStoppedError,
    OperationsUnavailableError,
    Step,
    facade,
)
from poolkeeper.operations.model import LEGAL, UNFINISHED, may_become
from poolkeeper.testing.contracts import eventually

pytestmark = pytest.mark.asyncio


async def counting(pool, admin, name="count"):
    """Register a step that leaves one row per call, and make its table."""
    await admin.execute("CREATE TABLE IF NOT EXISTS counted (n int)")

    @pool.operations.custom(name)
    async def count(connection, cursor, upto):
        n = cursor or 0
        await connection.execute("INSERT INTO counted VALUES ($1)", n)
        return Step(n + 1, rows=1, done=n + 1 >= upto)


async def counted(admin):
    """The numbers that were left, in order."""
    return [row["n"] for row in await admin.fetch("SELECT n FROM counted ORDER BY n")]


class Gate:
    """A lock that keeps steps from going on from the row of a certain number."""

    def __init__(self, admin, number):
        self.admin = admin
        self.number = number

    async def __aenter__(self):
        await self.admin.execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF NEW.n >= {self.number} THEN PERFORM pg_advisory_xact_lock(42); END IF; "
            "RETURN NEW; END $$; "
            "CREATE TRIGGER hold BEFORE INSERT ON counted FOR EACH ROW EXECUTE FUNCTION hold()"
        )
        await self.admin.execute("SELECT pg_advisory_lock(42)")
        return self

    async def reached(self):
        await eventually(
            lambda: self.admin.fetchval(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                " AND objid = 42 AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )

    async def open(self):
        await self.admin.execute("SELECT pg_advisory_unlock(42)")

    async def __aexit__(self, *_):
        await self.admin.execute("SELECT pg_advisory_unlock_all()")


async def test_an_operation_runs_to_its_end_once(pool, admin):
    """Its status tells the rows, its chunks cover it without a gap."""
    await counting(pool, admin)
    operation = await pool.operations.start("count", upto=25)
    assert operation.status.state is OperationState.PENDING
    status = await operation.run()
    assert (status.state, status.rows_done, status.fraction) == (OperationState.DONE, 25, 1.0)
    assert await counted(admin) == list(range(25))
    chunks = await admin.fetch("SELECT * FROM poolkeeper.chunks ORDER BY seq")
    assert [chunk["seq"] for chunk in chunks] == list(range(25))
    assert all(a["cursor_to"] == b["cursor_from"] for a, b in pairwise(chunks))
    assert [event.name for event in pool.seen if "operation" in event.name] == [
        "operation_claimed",
        "operation_ended",
    ]


async def test_the_same_call_finds_the_unfinished_operation(pool, admin):
    """Also at the same moment; one of them is created."""
    await counting(pool, admin)
    found = await asyncio.gather(*(pool.operations.start("count", upto=5) for _ in range(5)))
    assert len({operation.status.id for operation in found}) == 1
    ended = await asyncio.gather(*(operation.run() for operation in found))
    assert {status.state for status in ended} == {OperationState.DONE}
    assert await counted(admin) == list(range(5))


async def test_an_unfinished_operation_is_not_mistaken_for_another(pool, admin):
    """The error says in what they differ."""
    await counting(pool, admin)
    await pool.operations.start("count", upto=5)
    with pytest.raises(OperationConflictError, match=r"differs in arguments.*Suggestion: "):
        await pool.operations.start("count", upto=6)
    other = await pool.operations.start("count", name="other", upto=6)
    assert (await other.run()).rows_done == 6


async def test_a_finished_operation_makes_room_for_a_new_one_of_its_name(pool, admin):
    """A nightly job has the same name every night."""
    await counting(pool, admin)
    first = await pool.operations.start("count", upto=2)
    await first.run()
    second = await pool.operations.start("count", upto=2)
    await second.run()
    assert first.status.id != second.status.id
    assert await counted(admin) == [0, 0, 1, 1]
    assert (await pool.operations.get("count")).status.id == second.status.id
    assert (await pool.operations.get(str(first.status.id))).status.id == first.status.id


async def test_stop_lays_an_operation_down_and_the_next_run_goes_on(pool, admin):
    """Nothing is done again, and nobody waits for a lease."""
    await counting(pool, admin)
    operation = await pool.operations.start("count", upto=50)
    stop = asyncio.Event()

    def report(report):
        if report.status.seq >= 10:
            stop.set()

    status = await operation.run(report=report, stop=stop)
    assert status.state is OperationState.PENDING
    assert 10 <= status.seq < 50
    assert status.owner is None
    status = await operation.run()
    assert (status.state, status.epoch) == (OperationState.DONE, 2)
    assert await counted(admin) == list(range(50))


async def test_cancelling_run_lays_the_operation_down(pool, admin):
    """The chunk at hand is undone; another run goes on at once."""
    await counting(pool, admin)
    async with Gate(admin, 5) as gate:
        operation = await pool.operations.start("count", upto=10)
        run = asyncio.ensure_future(operation.run())
        await gate.reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert (await operation.refresh()).state is OperationState.PENDING
        await gate.open()
        assert (await operation.run()).rows_done == 10
    assert await counted(admin) == list(range(10))


async def test_a_paused_operation_stands_still_until_it_is_resumed(pool, admin):
    """Whoever waits for it hears of it."""
    await counting(pool, admin)
    async with Gate(admin, 5) as gate:
        operation = await pool.operations.start("count", upto=10)
        run = asyncio.ensure_future(operation.run())
        await gate.reached()
        other = await pool.operations.get("count")
        assert (await other.pause()).state is OperationState.PAUSED
        await gate.open()
        with pytest.raises(OperationStoppedError, match="paused") as caught:
            await run
        assert caught.value.state == "paused"
    assert await counted(admin) == list(range(5))
    with pytest.raises(OperationStoppedError):
        await operation.run()
    assert (await operation.resume()).state is OperationState.PENDING
    assert (await operation.run()).state is OperationState.DONE
    assert await counted(admin) == list(range(10))


async def test_a_cancelled_operation_never_goes_on(pool, admin):
    """What is committed stays; its name is free."""
    await counting(pool, admin)
    async with Gate(admin, 5) as gate:
        operation = await pool.operations.start("count", upto=10)
        run = asyncio.ensure_future(operation.run())
        await gate.reached()
        await operation.cancel()
        await gate.open()
        with pytest.raises(OperationStoppedError, match="cancelled"):
            await run
    assert await counted(admin) == list(range(5))
    for move in (operation.resume, operation.retry, operation.pause):
        with pytest.raises(OperationConflictError, match="cancelled"):
            await move()
    await operation.delete()
    with pytest.raises(OperationNotFoundError):
        await operation.refresh()
    assert await admin.fetchval("SELECT count(*) FROM poolkeeper.chunks") == 0


async def test_what_has_ended_long_ago_is_forgotten_and_nothing_else(pool, admin, monkeypatch):
    """Not what is unfinished, however old; in portions, with the chunks."""
    monkeypatch.setattr(facade, "PRUNED_AT_A_TIME", 2)
    assert await pool.operations.prune(older_than=0) == 0
    await counting(pool, admin)
    for number in range(7):
        await (await pool.operations.start("count", upto=1, name=f"count {number}")).run()
    for number in (7, 8):
        await pool.operations.start("count", upto=1, name=f"count {number}")
    await (await pool.operations.get("count 8")).cancel()
    await admin.execute(
        "UPDATE poolkeeper.operations SET created_at = created_at - interval '2 days',"
        " finished_at = finished_at - interval '1 day' WHERE name <> 'count 6'"
    )
    assert await pool.operations.prune(older_than=2 * 86_400) == 0
    assert await pool.operations.prune(older_than=3_600) == 7
    left = [status.name for status in await pool.operations.list()]
    assert sorted(left) == ["count 6", "count 7"]
    assert await admin.fetchval("SELECT count(*) FROM poolkeeper.chunks") == 1
    assert await pool.operations.prune(older_than=0) == 1


async def test_a_step_that_fails_ends_the_operation_until_it_is_retried(pool, admin):
    """The error says where and why; what was committed is not done again."""
    await admin.execute("CREATE TABLE counted (n int CHECK (n <> 3))")
    await counting(pool, admin)
    operation = await pool.operations.start("count", upto=6)
    with pytest.raises(OperationFailedError, match=r"after 3 rows.*23514.*Suggestion: ") as caught:
        await operation.run()
    assert isinstance(caught.value.__cause__, asyncpg.CheckViolationError)
    status = await operation.refresh()
    assert (status.state, status.error) == (OperationState.FAILED, str(caught.value))
    with pytest.raises(OperationFailedError, match="23514"):
        await operation.run()
    with pytest.raises(OperationConflictError, match="failed"):
        await operation.delete()
    await admin.execute("ALTER TABLE counted DROP CONSTRAINT counted_n_check")
    await operation.retry()
    assert (await operation.run()).rows_done == 6
    assert await counted(admin) == list(range(6))


async def test_asking_again_for_what_has_failed_retries_it(pool, admin):
    """The same command is all a person needs to know."""
    await admin.execute("CREATE TABLE counted (n int CHECK (n <> 3))")
    await counting(pool, admin)
    with pytest.raises(OperationFailedError):
        await (await pool.operations.start("count", upto=6)).run()
    await admin.execute("ALTER TABLE counted DROP CONSTRAINT counted_n_check")
    assert (await (await pool.operations.start("count", upto=6)).run()).rows_done == 6


async def test_a_swallowed_error_is_not_taken_for_a_committed_chunk(pool, admin):
    """PostgreSQL answers such a COMMIT with ROLLBACK."""
    await admin.execute("CREATE TABLE counted (n int)")

    @pool.operations.custom("swallow")
    async def swallow(connection, cursor):
        try:
            await connection.execute("INSERT INTO nowhere VALUES (1)")
        except asyncpg.PostgresError:
            return Step("next", rows=1, done=True)

    operation = await pool.operations.start("swallow")
    with pytest.raises(OperationFailedError):
        await operation.run()
    assert (await operation.refresh()).rows_done == 0


async def test_a_step_nobody_here_knows_is_left_to_other_processes(pool, admin, postgres):
    """It says what to import, and a process that has it does the work."""
    operation = await pool.operations.start("count", upto=3)
    with pytest.raises(NotHereError, match="Suggestion: import"):
        await operation.run()
    assert (await operation.refresh()).state is OperationState.PENDING
    async with create_pool(postgres.url, min_size=1) as other:
        await counting(other, admin)
        await other.operations.work(until_idle=True)
    assert (await operation.refresh()).state is OperationState.DONE


async def test_what_a_step_must_not_return_is_told(pool, admin):
    """None is neither an end nor a next step."""

    @pool.operations.custom("vague")
    async def vague(connection, cursor):
        return None

    with pytest.raises(OperationError, match=r"returned None.*Suggestion: return Step"):
        await (await pool.operations.start("vague")).run()
    with pytest.raises(OperationError, match="coroutine function"):
        pool.operations.custom("plain")(lambda connection, cursor: None)
    with pytest.raises(OperationError, match="JSON"):
        await pool.operations.start("vague", name="when", at=uuid.uuid4())


async def test_workers_share_the_work_and_each_operation_is_done_once(pool, admin, postgres):
    """Two pools, two operations at a time each."""
    await counting(pool, admin)
    for number in range(8):
        await pool.operations.start("count", name=f"count {number}", upto=5)
    async with create_pool(postgres.url, min_size=1) as other:
        await counting(other, admin)
        await asyncio.gather(
            pool.operations.work(concurrency=2, until_idle=True),
            other.operations.work(concurrency=2, until_idle=True),
        )
    await pool.operations.work(until_idle=True)
    assert await counted(admin) == sorted([*range(5)] * 8)
    assert {status.state for status in await pool.operations.list()} == {OperationState.DONE}
    assert await pool.operations.list(finished=False) == []


async def test_watching_ends_with_the_operation(pool, admin):
    """Each look is newer than the last."""
    await counting(pool, admin)
    operation = await pool.operations.start("count", upto=30)
    run = asyncio.ensure_future(operation.run())
    seen = [status.seq async for status in (await pool.operations.get("count")).watch(0.001)]
    assert seen == sorted(seen)
    assert seen[-1] == 30
    await run


async def test_asking_makes_no_tables(pool, admin):
    """Only work does."""
    assert await pool.operations.list() == []
    with pytest.raises(OperationNotFoundError, match="nothing"):
        await pool.operations.get("nothing")
    assert await admin.fetchval("SELECT to_regnamespace('poolkeeper')") is None


async def test_a_role_that_may_not_make_the_tables_learns_what_to_do(postgres, admin):
    """And nothing was changed."""
    await admin.execute("CREATE ROLE humble LOGIN PASSWORD 'humble'")
    try:
        url = f"postgresql://humble:humble@{postgres.url.partition('@')[2]}"
        async with create_pool(url, min_size=1) as pool:
            with pytest.raises(OperationsUnavailableError, match="init-db") as caught:
                await pool.operations.start("count")
            assert "humble:humble" not in str(caught.value)
    finally:
        await admin.execute("DROP OWNED BY humble; DROP ROLE humble")


async def test_closing_the_pool_lays_operations_down_and_leaves_no_session(postgres, admin):
    """Another process goes on without waiting for the lease."""
    async with create_pool(postgres.url, min_size=1) as pool:
        await counting(pool, admin)
        async with Gate(admin, 5) as gate:
            operation = await pool.operations.start("count", upto=10)
            run = asyncio.ensure_future(operation.run())
            await gate.reached()
            await pool.close()
            with pytest.raises((asyncio.CancelledError, PoolClosedError)):
                await run
    assert await admin.fetchval("SELECT state FROM poolkeeper.operations") == "pending"
    await eventually(
        lambda: admin.fetchval(
            "SELECT count(*) = 0 FROM pg_stat_activity"
            " WHERE application_name LIKE 'poolkeeper worker%' AND datname = current_database()"
        )
    )


async def test_a_pool_of_psycopg_has_operations_too(postgres, admin):
    """They run on connections of asyncpg; what only libpq knows is left out."""
    url = postgres.url.replace("postgresql://", "postgresql+psycopg://")
    url += ("&" if "?" in url else "?") + "connect_timeout=5&keepalives=1"
    async with create_pool(url, min_size=1) as pool:
        await counting(pool, admin)
        assert (await (await pool.operations.start("count", upto=3)).run()).rows_done == 3


async def test_every_state_can_be_left_as_the_table_says():
    """And the ends are ends."""
    assert {state for state in OperationState if state not in UNFINISHED} == {
        OperationState.DONE,
        OperationState.CANCELLED,
    }
    assert may_become(OperationState.PENDING) == ["failed", "paused", "running"]
    assert all(new in LEGAL for moves in LEGAL.values() for new in moves)
