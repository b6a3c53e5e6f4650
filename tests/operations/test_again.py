"""What has been done is not done again, and what is tried again is not tried for ever."""

import asyncio
import os

import pytest

from poolkeeper import PoolClosedError, PoolTimeoutError, create_pool
from poolkeeper.operations import (
    NotHereError,
    OperationConflictError,
    OperationError,
    OperationFailedError,
    OperationState,
    Step,
    worker,
)
from poolkeeper.operations.load.errors import BadRowError
from poolkeeper.operations.worker import ask
from tests.operations.test_lifecycle import Gate, counted, counting

pytestmark = pytest.mark.asyncio


async def rows(admin, table):
    return await admin.fetchval(f"SELECT count(*) FROM {table}")


async def test_files_of_one_name_do_not_hide_each_other(pool, admin, tmp_path):
    """A loop over directories that is run twice loads each file once."""
    await admin.execute("CREATE TABLE t (n int)")
    for _ in range(2):
        for number in (1, 2):
            path = tmp_path / str(number) / "data.csv"
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.write_text(f"n\n{number}\n")
            await (await pool.operations.load(path, into="t")).run()
    assert await rows(admin, "t") == 2


async def test_a_file_that_was_only_touched_is_not_loaded_again(pool, admin, tmp_path):
    """Its bytes decide; one that has other bytes is another file."""
    await admin.execute("CREATE TABLE t (n int)")
    path = tmp_path / "data.csv"
    path.write_text("n\n1\n2\n")
    await (await pool.operations.load(path, into="t")).run()
    os.utime(path, (1, 1))
    again = await pool.operations.load(path, into="t")
    assert (again.status.state, again.is_new) == (OperationState.DONE, False)
    path.write_text("n\n3\n4\n")
    other = await pool.operations.load(path, into="t")
    assert other.is_new
    await other.run()
    assert await rows(admin, "t") == 4


async def test_a_load_that_failed_with_nothing_done_may_be_asked_for_otherwise(
    pool, admin, tmp_path
):
    """Such as with the encoding its file really has; what cannot be done replaces nothing."""
    await admin.execute("CREATE TABLE t (s text)")
    path = tmp_path / "data.csv"
    path.write_bytes(b"s\nKroft\xe9\n")
    failed = await pool.operations.load(path, into="t")
    with pytest.raises(BadRowError, match=r"Suggestion: .*--encoding windows-1252") as caught:
        await failed.run()
    assert "reject" not in str(caught.value)
    with pytest.raises(OperationError, match="neither PostgreSQL nor Python"):
        await pool.operations.load(path, into="t", encoding="cp-9999")
    assert (await failed.refresh()).state is OperationState.FAILED
    operation = await pool.operations.load(path, into="t", encoding="windows-1252")
    assert operation.is_new
    await operation.run()
    assert (await failed.refresh()).state is OperationState.CANCELLED
    assert await admin.fetchval("SELECT s FROM t") == "Krofté"


async def test_a_failed_operation_that_has_committed_anything_is_not_replaced(
    pool, admin, tmp_path
):
    """What it has done would be done again. Nor is one that is not asked to change."""
    await admin.execute("CREATE TABLE t (n int)")
    path = tmp_path / "data.csv"
    path.write_text("n\n1\n")
    operation = await pool.operations.load(path, into="t")
    failed = "UPDATE poolkeeper.operations SET state = 'failed'"
    await admin.execute(failed)
    assert (await pool.operations.load(path, into="t")).status.id == operation.status.id
    for done, rejected in ((1, 0), (0, 1)):
        await admin.execute(f"{failed}, seq = 1, rows_done = {done}, rows_rejected = {rejected}")
        with pytest.raises(OperationConflictError, match="differs in null"):
            await pool.operations.load(path, into="t", null="-")
    step = await pool.operations.start("step", n=1)
    await admin.execute(f"{failed}, seq = 1 WHERE kind = 'custom'")
    with pytest.raises(OperationConflictError, match="differs in"):
        await pool.operations.start("step", n=2)
    assert (await step.refresh()).state is OperationState.FAILED


async def test_backfills_of_one_table_do_not_hide_each_other(pool, admin):
    """A script of several that is run twice has the effect of one run."""
    await admin.execute("CREATE TABLE t (id int PRIMARY KEY, n int, m int)")
    await admin.execute("INSERT INTO t VALUES (1, 0, 0)")
    for _ in range(2):
        for change in ("n = n + 1", "m = m + 1"):
            await (await pool.operations.backfill("t", set=change)).run()
    assert tuple(await admin.fetchrow("SELECT n, m FROM t")) == (1, 1)


async def test_options_that_may_change_do_so_in_every_unfinished_state(pool, admin):
    """Also back to what holds where nothing is said."""
    await admin.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
    operation = await pool.operations.backfill("t", set="n = 1", batch=10, pause=0.5)
    assert operation.status.spec["batch"] == 10
    again = await pool.operations.backfill("t", set="n = 1", batch=20)
    assert again.status.id == operation.status.id
    assert again.status.spec["batch"] == 20
    assert "pause" not in again.status.spec
    with pytest.raises(OperationError, match="batch is 'many'"):
        await pool.operations.backfill("t", set="n = 1", batch="many")


@pytest.mark.parametrize(
    "argument", [float("nan"), {1, 2}, "a\0b", "\udcff"], ids=["nan", "set", "nul", "surrogate"]
)
async def test_what_the_database_cannot_keep_is_refused_in_words(pool, argument):
    """Before anything is created."""
    with pytest.raises(OperationError, match="Suggestion: "):
        await pool.operations.start("step", value=argument)
    assert await pool.operations.list() == []


async def test_a_tuple_is_the_list_it_will_be(pool, admin):
    """Asked for twice it is one operation."""
    one = await pool.operations.start("step", ids=(1, 2))
    two = await pool.operations.start("step", ids=[1, 2])
    assert one.status.id == two.status.id


async def test_a_step_sees_its_cursor_as_the_database_keeps_it(pool, admin):
    """So an outage makes no difference."""
    seen = []

    @pool.operations.custom("step")
    async def step(connection, cursor):
        seen.append(cursor)
        return Step({1: (2, 3)}, done=len(seen) == 2)

    await (await pool.operations.start("step")).run()
    assert seen == [None, {"1": [2, 3]}]


async def test_an_error_that_cannot_be_stored_as_it_is_fails_the_operation(pool, admin):
    """And its text is there, readable."""

    @pool.operations.custom("step")
    async def step(connection, cursor):
        raise ValueError("bad byte \0 and \udcff")

    operation = await pool.operations.start("step")
    with pytest.raises(OperationFailedError, match="bad byte"):
        await operation.run()
    status = await operation.refresh()
    assert status.state is OperationState.FAILED
    assert r"bad byte \0 and \udcff" in status.error


async def test_a_busy_pool_of_the_steps_own_is_no_outage_of_the_database(pool, admin):
    """It is tried again, smaller pauses first, and in the end the operation fails."""
    calls = []

    @pool.operations.custom("step")
    async def step(connection, cursor):
        calls.append(1)
        if len(calls) < 3:
            raise PoolTimeoutError("no connection became free")
        return Step(done=True)

    status = await (await pool.operations.start("step")).run()
    assert (status.state, len(calls)) == (OperationState.DONE, 3)
    assert status.outages == 0


async def test_the_claim_is_kept_while_a_run_goes_to_its_place(pool, admin, postgres):
    """Skipping to a cursor may take longer than the lease."""
    await admin.execute("CREATE TABLE t (n int)")
    async with create_pool(postgres.url, min_size=1) as other:
        for each in (pool, other):
            each.operations.lease_seconds = 0.4
        here = asyncio.Event()
        go = asyncio.Event()
        kind = pool.operations._kinds["custom"]

        def start(spec, fingerprint, chunks, start=kind.start):
            run = start(spec, fingerprint, chunks)
            begin = run.begin

            async def slowly(connection, cursor):
                here.set()
                await go.wait()
                await begin(connection, cursor)

            run.begin = slowly
            return run

        kind.start = start
        await counting(pool, admin)
        await counting(other, admin)
        operation = await pool.operations.start("count", upto=3)
        run = asyncio.ensure_future(operation.run())
        await here.wait()
        owner = (await (await other.operations.get("count")).refresh()).owner
        heard = (await other.operations.get("count")).status.updated_at
        # three heartbeats later the lease would have ended long ago
        beats = 0
        while beats < 6:
            status = (await other.operations.get("count")).status
            beats += status.updated_at > heard
            heard = status.updated_at
        await other.operations.work(until_idle=True)
        assert (await operation.refresh()).owner == owner
        go.set()
        assert (await run).epoch == 1


async def test_who_waits_for_an_operation_hears_that_the_pool_was_closed(postgres, admin):
    """And is not cancelled itself."""
    async with create_pool(postgres.url, min_size=1) as pool:
        await counting(pool, admin)
        async with Gate(admin, 1) as gate:
            operation = await pool.operations.start("count", upto=3)
            run = asyncio.ensure_future(operation.run())
            await gate.reached()
            await pool.close()
            with pytest.raises(PoolClosedError, match="laid down"):
                await run
            assert not run.cancelled()


async def test_what_this_process_may_not_do_is_not_waited_for(pool, admin, tmp_path):
    """Unless another one is doing it."""
    await admin.execute("CREATE TABLE t (n int)")
    path = tmp_path / "t.csv"
    path.write_text("n\n1\n")
    operation = await pool.operations.load(path, into="t")
    pool.operations.confine_files(None)
    with pytest.raises(NotHereError, match="may not do a load"):
        await operation.run()


async def test_a_higher_default_isolation_does_not_end_workers(postgres, admin):
    """Nor does one stumble over another."""
    await admin.execute(
        f"ALTER DATABASE {postgres.name} SET default_transaction_isolation = 'serializable'"
    )
    async with create_pool(postgres.url) as one, create_pool(postgres.url) as two:
        await counting(one, admin)
        await counting(two, admin)
        for number in range(20):
            await one.operations.start("count", name=f"count {number}", upto=3)
        await asyncio.gather(
            *(pool.operations.work(concurrency=3, until_idle=True) for pool in (one, two))
        )
        await one.operations.work(until_idle=True)
    assert await counted(admin) == sorted([*range(3)] * 20)


async def test_transaction_timeout_of_the_role_does_not_end_chunks(postgres, admin):
    """Chunks have bounds of their own."""
    await admin.execute(f"ALTER DATABASE {postgres.name} SET transaction_timeout = '200ms'")
    async with create_pool(postgres.url, min_size=1) as pool:

        @pool.operations.custom("slow")
        async def slow(connection, cursor):
            await connection.execute("SELECT pg_sleep(0.4)")
            return Step(done=True)

        status = await (await pool.operations.start("slow")).run()
    assert (status.state, status.outages) == (OperationState.DONE, 0)


async def test_a_question_that_kills_its_connection_is_not_asked_for_ever(pool, monkeypatch):
    """Twenty times, with pauses, which are shorter here."""
    monkeypatch.setattr(worker, "LONGEST_PAUSE", 0.01)
    times = []

    async def suicidal(connection):
        times.append(1)
        await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    inner = await pool.operations._pool()
    with pytest.raises(Exception, match=r"terminat|closed"):
        await asyncio.wait_for(ask(inner, suicidal), 100)
    assert len(times) == 20


async def test_unfinished_operations_are_listed_first(pool, admin):
    """However many have been done since."""
    await counting(pool, admin)
    waiting = await pool.operations.start("count", name="waiting", upto=1)
    await waiting.pause()
    for _ in range(3):
        await (await pool.operations.start("count", name="done", upto=1)).run()
    assert (await pool.operations.list(limit=1))[0].name == "waiting"
