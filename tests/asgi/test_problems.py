"""Failures of pool and database, really made to happen, as answers of an application."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from poolkeeper import (
    DatabaseUnavailableError,
    PoolConfigurationError,
    PoolTimeoutError,
    PoolUsageError,
    TransactionOutcomeUnknownError,
    TransactionRolledBackError,
)
from poolkeeper.asgi import failure_of
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.testing.contracts import eventually
from tests.asgi.serving import (
    DRIVERS,
    FRAMEWORKS,
    OF_THE_POOL,
    answers,
    end_sessions,
    make_app,
    make_pool,
    problem,
    serving,
)

ADVISORY = f"{OF_THE_POOL} and wait_event = 'advisory'"


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture(params=DRIVERS)
def driver(request):
    return request.param


def sessions(admin, condition):
    async def count():
        return await admin.fetchval(f"select count(*) from pg_stat_activity where {condition}")

    return count


def in_a_transaction(statement, **options):
    """Work that runs one statement in ``run_transaction``."""

    async def work(pool):
        async def body(connection):
            return await connection.execute(statement)

        return await pool.run_transaction(body, **options)

    return answers(work)


async def one(pool):
    await pool.execute("select 1")
    return 1


@pytest.mark.asyncio
async def test_no_connection_in_time_is_503(framework, driver, postgres):
    """The request did not run, and works when one is free."""
    pool = make_pool(postgres.url, driver=driver, timeout=0.05)
    ran = []

    async def work(pool):
        ran.append(await one(pool))
        return 1

    async with serving(make_app(framework, pool, {"/": answers(work)})) as client:
        async with pool.acquire():
            answer = await client.post("/")
            assert problem(answer) == (503, "pool-timeout", "not_executed")
            assert ran == []
        assert (await client.post("/")).text == "1"


@pytest.mark.asyncio
async def test_a_full_queue_is_503(framework, postgres):
    """At once."""
    pool = make_pool(postgres.url, max_waiting=0)
    app = make_app(framework, pool, {"/": answers(one)})
    async with serving(app) as client, pool.acquire():
        assert problem(await client.get("/")) == (503, "queue-full", "not_executed")


@pytest.mark.asyncio
async def test_a_database_that_is_away_is_503_until_it_is_back(
    framework, driver, crashable_postgres
):
    """After kill -9; Retry-After is kept by the first request that comes back."""
    pool = make_pool(crashable_postgres.url, driver=driver, outage_patience=0.1)
    async with serving(make_app(framework, pool, {"/": answers(one)})) as client:
        assert (await client.get("/")).text == "1"
        await asyncio.to_thread(crashable_postgres.crash)
        while (answer := await client.get("/")).status_code == 502:
            pass
        assert problem(answer) == (503, "database-unavailable", "not_executed")
        await asyncio.to_thread(crashable_postgres.start)
        await asyncio.sleep(int(answer.headers["retry-after"]))
        assert (await client.get("/")).text == "1"


@pytest.mark.asyncio
async def test_a_connection_lost_in_mid_statement_is_502(framework, driver, postgres, admin):
    """Whether the statement took effect nobody knows."""
    await admin.execute("select pg_advisory_lock(1)")
    pool = make_pool(postgres.url, driver=driver)
    waits = answers(lambda pool: pool.execute("select pg_advisory_lock(1)"))
    async with serving(make_app(framework, pool, {"/": waits})) as client:
        asking = asyncio.create_task(client.post("/"))
        await eventually(sessions(admin, ADVISORY))
        await end_sessions(admin)
        answer = await asking
        assert problem(answer) == (502, "outcome-unknown", "unknown")
        assert "retry_after" not in answer.json()


@pytest.mark.asyncio
async def test_a_connection_that_is_reset_without_a_word_is_502(
    driver, fault_proxy, postgres, admin
):
    """As the end of its host or of a firewall's patience does."""
    await admin.execute("select pg_advisory_lock(1)")
    pool = make_pool(fault_proxy.url, driver=driver)
    waits = answers(lambda pool: pool.execute("select pg_advisory_lock(1)"))
    async with serving(make_app("starlette", pool, {"/": waits})) as client:
        asking = asyncio.create_task(client.post("/"))
        await eventually(sessions(admin, ADVISORY))
        fault_proxy.reset(fault_proxy.links)
        assert problem(await asking) == (502, "outcome-unknown", "unknown")


@pytest.mark.asyncio
async def test_a_connection_that_died_before_it_was_used_is_503(framework, postgres, admin):
    """The statement was never sent."""

    async def work(pool):
        async with pool.acquire() as connection:
            await end_sessions(admin)
            await eventually(connection.is_closed)
            await connection.execute("select 1")

    async with serving(
        make_app(framework, make_pool(postgres.url), {"/": answers(work)})
    ) as client:
        assert problem(await client.post("/")) == (503, "connection-lost", "not_executed")


@pytest.mark.asyncio
async def test_a_transaction_lost_before_its_commit_is_503(driver, postgres, admin):
    """It was rolled back."""
    await admin.execute("select pg_advisory_lock(1)")
    pool = make_pool(postgres.url, driver=driver)
    endpoint = in_a_transaction("select pg_advisory_lock(1)", retries=0)
    async with serving(make_app("starlette", pool, {"/": endpoint})) as client:
        asking = asyncio.create_task(client.post("/"))
        await eventually(sessions(admin, ADVISORY))
        await end_sessions(admin, "wait_event = 'advisory'")
        assert problem(await asking) == (503, "transaction-lost", "rolled_back")


@pytest.mark.asyncio
async def test_a_commit_nobody_can_ask_about_is_502_with_its_id(fault_proxy, postgres, admin):
    """The id finds out what became of it when the database can be asked again."""
    await admin.execute(
        """create table done (work int);
        create function hold() returns trigger language plpgsql as
            $$ begin perform pg_advisory_xact_lock(1); return null; end $$;
        create constraint trigger hold after insert on done deferrable initially deferred
            for each row execute function hold()"""
    )
    pool = make_pool(fault_proxy.url, timeout=1.0)
    endpoints = {"/": in_a_transaction("insert into done values (1)"), "/one": answers(one)}
    async with serving(make_app("starlette", pool, endpoints)) as client:
        assert (await client.post("/")).status_code == 200  # the ledger exists now
        await admin.execute("select pg_advisory_lock(1)")
        asking = asyncio.create_task(client.post("/"))
        await eventually(sessions(admin, ADVISORY))
        await fault_proxy.refuse()
        fault_proxy.reset(fault_proxy.links)
        answer = await asking
        assert problem(answer) == (502, "outcome-unknown", "unknown")
        await fault_proxy.heal(links=True)
        await admin.execute("select pg_advisory_unlock(1)")

        async def reachable():
            return (await client.get("/one")).status_code == 200

        await eventually(reachable)
        outcome = await pool.transaction_outcome(answer.json()["transaction_id"])
        done = await admin.fetchval("select count(*) from done")
        assert (outcome.value, done) in {("committed", 2), ("aborted", 1)}


@pytest.mark.asyncio
async def test_a_transaction_out_of_time_is_504(postgres, admin):
    """And rolled back."""
    await admin.execute("create table done (work int)")
    pool = make_pool(postgres.url)
    endpoint = in_a_transaction("insert into done select 1 from pg_sleep(600)", timeout=0.1)
    async with serving(make_app("starlette", pool, {"/": endpoint})) as client:
        assert problem(await client.post("/")) == (504, "transaction-timeout", "rolled_back")
    assert await admin.fetchval("select count(*) from done") == 0


@pytest.mark.asyncio
async def test_a_statement_timeout_is_504(framework, driver, postgres):
    """PostgreSQL cancelled it, so it had no effect."""

    async def work(pool):
        async with pool.acquire() as connection:
            await connection.execute("set statement_timeout = '10ms'")
            await connection.execute("select pg_sleep(600)")

    pool = make_pool(postgres.url, driver=driver)
    async with serving(make_app(framework, pool, {"/": answers(work)})) as client:
        assert problem(await client.post("/")) == (504, "statement-timeout", "rolled_back")


@pytest.mark.asyncio
async def test_a_time_limit_of_the_driver_is_504_only_to_who_did_not_write(postgres):
    """Whether the statement took effect is unknown, and matters to a POST."""
    pool = make_pool(postgres.url, command_timeout=0.05)
    slow = answers(lambda pool: pool.execute("select pg_sleep(600)"))
    async with serving(make_app("starlette", pool, {"/": slow})) as client:
        assert problem(await client.get("/")) == (504, "timeout", "unknown")
        assert problem(await client.post("/")) == (502, "timeout", "unknown")


@pytest.mark.asyncio
async def test_what_has_been_done_before_is_409(framework, postgres, admin):
    """With the key it was done under; nothing is done twice."""
    await admin.execute("create table done (work int)")
    key = uuid4()
    endpoint = in_a_transaction("insert into done values (1)", id=key)
    pool = make_pool(postgres.url)
    async with serving(make_app(framework, pool, {"/": endpoint})) as client:
        assert (await client.post("/")).status_code == 200
        answer = await client.post("/")
        assert problem(answer) == (409, "already-committed", "executed")
        assert answer.json()["transaction_id"] == str(key)
    assert await admin.fetchval("select count(*) from done") == 1


@pytest.mark.asyncio
async def test_a_request_during_the_shutdown_is_503_and_told_to_go_elsewhere(postgres):
    """Its connection is closed, so that the next one reaches another instance."""
    pool = make_pool(postgres.url)
    async with serving(make_app("starlette", pool, {"/": answers(one)})) as client:
        await pool.close()
        answer = await client.get("/")
        assert problem(answer) == (503, "draining", "not_executed")
        assert answer.headers["connection"] == "close"


SQL_MISTAKES = {
    "syntax": ("selec 1", ()),
    "constraint": ("insert into once values (1)", ()),
    "type": ("select $1::int", ("x",)),
    "division": ("select 1 / $1::int", (0,)),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("mistake", SQL_MISTAKES)
async def test_mistakes_in_sql_are_the_applications(framework, postgres, admin, mistake):
    """500, as without us; a client-side refusal of an argument, too."""
    await admin.execute("create table once (id int primary key); insert into once values (1)")
    text, args = SQL_MISTAKES[mistake]
    endpoint = answers(lambda pool: pool.fetch(text, *args))
    async with serving(make_app(framework, make_pool(postgres.url), {"/": endpoint})) as client:
        answer = await client.post("/")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")


@pytest.mark.asyncio
async def test_psycopgs_mistakes_are_the_applications_too(postgres):
    """The same with the other driver, wherever it notices."""

    async def work(pool):
        async with pool.acquire() as connection:
            await connection.execute("select %s::int", [object()])

    pool = make_pool(postgres.url, driver="psycopg")
    endpoints = {"/": answers(work), "/sql": answers(lambda pool: pool.execute("selec 1"))}
    async with serving(make_app("starlette", pool, endpoints)) as client:
        assert (await client.post("/")).status_code == 500
        assert (await client.post("/sql")).status_code == 500


@pytest.mark.asyncio
async def test_misuse_of_the_pool_is_the_applications(postgres):
    """A released connection that is used again is a bug, and no reason to come back."""

    async def work(pool):
        async with pool.acquire() as connection:
            pass
        await connection.execute("select 1")

    pool = make_pool(postgres.url)
    async with serving(make_app("starlette", pool, {"/": answers(work)})) as client:
        assert (await client.post("/")).status_code == 500


@pytest.mark.asyncio
async def test_the_applications_own_handlers_come_first(framework, postgres):
    """Of a subclass, a parent, or an error that is theirs anyway."""

    async def conflict(request, error):
        return JSONResponse({"mine": type(error).__name__}, 409)

    async def busy(request, error):
        return PlainTextResponse("my own words", 429)

    pool = make_pool(postgres.url, timeout=0.05)
    endpoints = {
        "/busy": answers(one),
        "/twice": answers(lambda pool: pool.execute("create table a (); create table a ()")),
    }
    app = make_app(framework, pool, endpoints)
    app.add_exception_handler(ConnectionPoolError, busy)
    app.add_exception_handler(asyncpg.DuplicateTableError, conflict)
    async with serving(app) as client:
        assert (await client.post("/twice")).json() == {"mine": "DuplicateTableError"}
        async with pool.acquire():
            answer = await client.post("/busy")
    assert (answer.status_code, answer.text) == (429, "my own words")


@pytest.mark.asyncio
async def test_strangers_learn_nothing_and_the_log_has_it_all(crashable_postgres, caplog):
    """No address, no user, no message of an exception in the answer."""
    pool = make_pool(crashable_postgres.url, outage_patience=0.1)
    app = make_app("starlette", pool, {"/": answers(one)})
    async with serving(app) as client:
        await asyncio.to_thread(crashable_postgres.stop)
        while (answer := await client.get("/?token=s3cret")).status_code != 503:
            pass
        for inner in ("127.0.0.1", "postgres", str(crashable_postgres.port), "asyncpg", "refused"):
            assert inner not in answer.text
        logged = [record for record in caplog.records if record.name == "poolkeeper.asgi"][-1]
        assert (logged.kind, logged.method, logged.path) == ("database-unavailable", "GET", "/")
        assert f"127.0.0.1:{crashable_postgres.port}" in logged.error
        assert "s3cret" not in str(vars(logged))
        # a logging set up without us shows the message alone
        said = logged.getMessage()
        assert said.startswith("request_failed: GET /, 503 database-unavailable, not_executed: ")
        assert said.endswith(logged.error)
        app.debug = True
        answer = await client.get("/")
        assert "127.0.0.1" in answer.json()["error"]


@pytest.mark.asyncio
async def test_a_response_that_has_begun_is_cut_and_not_written_over(postgres, admin, caplog):
    """The client sees that it is incomplete, and the server's log the reason."""
    await admin.execute("select pg_advisory_lock(1)")

    async def endpoint(request):
        async def rows():
            yield "first\n"
            await request.state.pool.execute("select pg_advisory_lock(1)")
            yield "last\n"

        return StreamingResponse(rows())

    async with serving(make_app("starlette", make_pool(postgres.url), {"/": endpoint})) as client:
        received = []

        async def read():
            async with client.stream("GET", "/") as answer:
                received.append(answer.status_code)
                async for text in answer.aiter_text():
                    received.append(text)  # noqa: PERF401 - kept when the next one fails

        reading = asyncio.create_task(read())
        await eventually(sessions(admin, ADVISORY))
        await end_sessions(admin)
        with pytest.raises(Exception, match="incomplete chunked read"):
            await reading
    assert received == [200, "first\n"]
    assert "terminating connection due to administrator command" in caplog.text
    assert "Unexpected ASGI message" not in caplog.text


@pytest.mark.asyncio
async def test_twenty_customers_notice_a_crash_only_as_a_pause(crashable_postgres):
    """Orders in run_transaction, kill -9 in the middle: each is there exactly once."""
    crashable_postgres.psql("create table orders (item text)")

    async def order(request):
        item = request.path_params["item"]

        async def insert(connection):
            await connection.execute("insert into orders values ($1)", item)

        await request.state.pool.run_transaction(insert)
        return PlainTextResponse(item)

    pool = make_pool(crashable_postgres.url, max_size=4, timeout=30.0)
    app = make_app("fastapi", pool, {"/orders/{item}": order})
    async with serving(app) as client:
        done = []

        async def buy(customer):
            for number in range(10):
                answer = await client.post(f"/orders/{customer}-{number}")
                assert answer.status_code == 200, answer.text
                done.append(answer.text)

        customers = asyncio.gather(*map(buy, range(20)))
        await eventually(lambda: len(done) >= 50)
        await asyncio.to_thread(crashable_postgres.crash)
        await asyncio.to_thread(crashable_postgres.start)
        await customers
    assert sorted(crashable_postgres.psql("select item from orders").split()) == sorted(done)


def test_errors_that_are_not_listed_are_the_applications():
    """Each of these needs a person, not another try."""
    mine = (PoolUsageError, PoolConfigurationError, ConnectionPoolError, ValueError, OSError)
    assert [failure_of(kind("x")) for kind in mine] == [None] * len(mine)


def test_a_subclass_is_answered_like_its_parent():
    """Also one of the application's."""

    class Mine(PoolTimeoutError):
        pass

    assert failure_of(Mine("x")).kind == "pool-timeout"
    assert failure_of(TransactionRolledBackError("x")).status == 503
    key = uuid4()
    unknown = failure_of(TransactionOutcomeUnknownError("x", transaction_id=key))
    assert unknown.facts == {"transaction_id": str(key)}


def test_those_who_come_back_do_not_all_come_at_once():
    """Retry-After differs from request to request, and is never 0."""
    error = PoolTimeoutError("x")
    seconds = {failure_of(error).retry_after for _ in range(50)}
    assert seconds == {1}
    away = DatabaseUnavailableError("x", next_attempt_seconds=1.5)
    seconds = {failure_of(away).retry_after for _ in range(200)}
    assert seconds == {2, 3}
