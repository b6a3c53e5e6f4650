"""Nobody works on a request for longer than it is of use."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from poolkeeper.asgi import DeadlineMiddleware, set_deadline, time_left
from poolkeeper.testing.contracts import eventually
from tests.asgi.serving import (
    DRIVERS,
    FRAMEWORKS,
    OF_THE_POOL,
    answers,
    make_app,
    make_pool,
    problem,
    serving,
)

SLEEPS = "select pg_sleep(600)"


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return request.param


async def sleep_in_the_database(pool):
    await pool.execute(SLEEPS)


def running(admin):
    """Whether a statement of the pool runs on the server."""

    async def count():
        return await admin.fetchval(
            f"select count(*) from pg_stat_activity where {OF_THE_POOL} and state = 'active'"
        )

    return count


def idle(admin):
    async def none():
        return not await running(admin)()

    return none


@pytest.mark.asyncio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_statement_is_cancelled_in_the_database(framework, driver, postgres, admin):
    """504 to a GET, 502 to a POST, whose outcome is unknown; the connection works again."""
    pool = make_pool(postgres.url, driver=driver)
    endpoints = {"/": answers(sleep_in_the_database)}
    async with serving(make_app(framework, pool, endpoints, deadline=0.1)) as client:
        read, written = await client.get("/"), await client.post("/")
        assert problem(read) == (504, "request-deadline", "unknown")
        assert problem(written) == (502, "request-deadline", "unknown")
        assert "look before" not in read.text
        assert "look before" in written.text
        await eventually(idle(admin))
        await pool.execute("select 1")


@pytest.mark.asyncio
async def test_a_waiting_request_gives_up_its_place(framework, postgres):
    """It was certainly not executed, and says so; nothing of it is left in the queue."""
    pool = make_pool(postgres.url)
    app = make_app(framework, pool, {"/": answers(sleep_in_the_database)}, deadline=0.1)
    async with serving(app) as client, pool.acquire():
        assert problem(await client.post("/")) == (503, "pool-timeout", "not_executed")
        assert pool.get_statistics().waiting_requests == 0


@pytest.mark.asyncio
async def test_a_task_that_outlives_its_request_waits_as_long_as_it_likes(framework, postgres):
    """The deadline of the request is not its."""
    pool = make_pool(postgres.url)
    tasks = []

    async def start(pool):
        tasks.append(asyncio.create_task(pool.fetchval("select 1")))
        await sleep_in_the_database(pool)

    app = make_app(framework, pool, {"/": answers(start)}, deadline=0.1)
    async with serving(app) as client:
        async with pool.acquire():
            assert problem(await client.post("/")) == (503, "pool-timeout", "not_executed")
            assert pool.get_statistics().waiting_requests == 1
        assert await tasks[0] == 1


@pytest.mark.asyncio
async def test_a_request_that_waits_with_its_time_left_is_503(framework, postgres):
    """It was certainly not executed, and says so."""
    pool = make_pool(postgres.url)

    async def work(pool):
        async with pool.acquire(timeout=time_left()):
            return "got one"

    app = make_app(framework, pool, {"/": answers(work)}, deadline=0.2)
    async with serving(app) as client:
        async with pool.acquire():
            assert problem(await client.post("/")) == (503, "pool-timeout", "not_executed")
        assert (await client.post("/")).text == "got one"


@pytest.mark.asyncio
async def test_a_client_may_shorten_its_time_but_not_lengthen_it(postgres):
    """Milliseconds in X-Timeout-Ms."""
    left = []

    async def work(pool):
        left.append(time_left())

    app = make_app("starlette", make_pool(postgres.url), {"/": answers(work)}, deadline=30.0)
    async with serving(app) as client:
        for asked in ("2000", "999999999"):
            assert (await client.get("/", headers={"X-Timeout-Ms": asked})).status_code == 200
        await client.get("/")
    assert left[0] < 2.0 < left[1] < 30.0
    assert 2.0 < left[2] < 30.0


@pytest.mark.asyncio
async def test_a_longer_time_may_be_allowed(postgres):
    """Up to the longest there is."""
    left = []

    async def work(pool):
        left.append(time_left())

    endpoints = {"/": answers(work)}
    limits = {"deadline": 30.0, "longest_deadline": 60.0}
    async with serving(
        make_app("starlette", make_pool(postgres.url), endpoints, **limits)
    ) as client:
        await client.get("/", headers={"X-Timeout-Ms": "50000"})
        await client.get("/", headers={"X-Timeout-Ms": "90000"})
    assert 30.0 < left[0] < 50.0 < left[1] < 60.0


@pytest.mark.asyncio
@pytest.mark.parametrize("nonsense", ["0", "-1", "1.5", "soon", "", "1e3", "٣", "9999999999"])
async def test_a_time_that_is_none_is_400(postgres, nonsense):
    """The handler is not even called."""
    called = []

    async def work(pool):
        called.append(1)

    app = make_app("starlette", make_pool(postgres.url), {"/": answers(work)})
    async with serving(app) as client:
        answer = await client.get("/", headers={"X-Timeout-Ms": nonsense.encode()})
    assert problem(answer) == (400, "bad-request", "not_executed")
    assert called == []


@pytest.mark.asyncio
async def test_a_response_that_has_begun_is_cut(framework, postgres, caplog):
    """Its client sees that the end is missing, and the server's log says why."""

    async def endpoint(request):
        async def rows():
            yield "first\n"
            await sleep_in_the_database(request.state.pool)

        return StreamingResponse(rows())

    received = []
    app = make_app(framework, make_pool(postgres.url), {"/": endpoint}, deadline=0.3)
    async with serving(app) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            async with client.stream("GET", "/") as answer:
                received.append(answer.status_code)
                async for text in answer.aiter_text():
                    received.append(text)  # noqa: PERF401 - kept when the next one fails
    assert received == [200, "first\n"]
    assert "ResponseCutError: The response to GET / was cut off after 0.3" in caplog.text
    assert "Unexpected ASGI message" not in caplog.text


@pytest.mark.asyncio
async def test_a_handler_may_take_the_time_it_wants(framework, postgres):
    """For streams and exports."""

    async def endpoint(request):
        set_deadline(None)
        assert time_left() is None
        await asyncio.sleep(0.2)
        set_deadline(20.0)
        assert 10.0 < time_left() < 20.0
        return PlainTextResponse("done")

    app = make_app(framework, make_pool(postgres.url), {"/": endpoint}, deadline=0.1)
    async with serving(app) as client:
        assert (await client.get("/")).text == "done"


@pytest.mark.asyncio
async def test_a_background_task_has_no_deadline(framework, postgres):
    """It runs when the client has its answer already."""
    finished = asyncio.Event()

    async def later():
        await asyncio.sleep(0.2)
        finished.set()

    async def endpoint(request):
        return PlainTextResponse("answer", background=BackgroundTask(later))

    app = make_app(framework, make_pool(postgres.url), {"/": endpoint}, deadline=0.1)
    app.state.cancel = True
    async with serving(app) as client:
        assert (await client.get("/")).text == "answer"
        await finished.wait()


@pytest.mark.asyncio
async def test_a_background_task_survives_the_leaving_of_its_client(framework, postgres):
    """Also where leaving cancels: its request has been answered."""
    left = asyncio.Event()
    finished = asyncio.Event()

    async def later():
        await left.wait()
        await asyncio.sleep(0.05)
        finished.set()

    async def endpoint(request):
        return PlainTextResponse("answer", background=BackgroundTask(later))

    pool = make_pool(postgres.url)
    app = make_app(framework, pool, {"/": endpoint}, cancel_on_disconnect=True)
    async with serving(app) as client:
        async with httpx.AsyncClient(base_url=client.base_url) as leaving:
            assert (await leaving.get("/")).text == "answer"
        left.set()
        await finished.wait()


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [None, b"x" * 200_000])
async def test_a_client_that_leaves_takes_its_statement_along(framework, postgres, admin, body):
    """Where the application wants that; with and without a body to read first."""
    pool = make_pool(postgres.url)

    async def endpoint(request):
        assert await request.body() == (body or b"")
        return PlainTextResponse(str(await sleep_in_the_database(pool)))

    app = make_app(framework, pool, {"/": endpoint}, cancel_on_disconnect=True)
    async with serving(app) as client:
        asking = asyncio.create_task(client.post("/", content=body))
        await eventually(running(admin))
        asking.cancel()
        await eventually(idle(admin))
        await pool.execute("select 1")


@pytest.mark.asyncio
async def test_a_client_that_leaves_changes_nothing_otherwise(postgres, admin):
    """The work goes on, as ASGI servers have it."""
    await admin.execute("create table done (work int); select pg_advisory_lock(1)")
    ended = []

    async def work(pool):
        try:
            await pool.execute("insert into done select 1 from pg_advisory_xact_lock(1)")
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    app = make_app("starlette", make_pool(postgres.url), {"/": answers(work)})
    async with serving(app) as client:
        asking = asyncio.create_task(client.post("/"))
        await eventually(running(admin))
        asking.cancel()
        await eventually(lambda: not client.server.server_state.connections)
        await admin.execute("select pg_advisory_unlock(1)")
        await eventually(lambda: ended)
    assert ended == ["done"]


@pytest.mark.asyncio
async def test_a_transaction_at_its_deadline_leaves_nothing_behind(framework, postgres, admin):
    """It is rolled back with the statement it was at."""
    await admin.execute("create table done (work int)")

    async def work(pool):
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("insert into done values (1)")
            await connection.execute(SLEEPS)

    pool = make_pool(postgres.url)
    async with serving(make_app(framework, pool, {"/": answers(work)}, deadline=0.2)) as client:
        assert problem(await client.post("/")) == (502, "request-deadline", "unknown")
        await eventually(idle(admin))
    assert await admin.fetchval("select count(*) from done") == 0


@pytest.mark.asyncio
async def test_time_limits_of_the_application_stay_its_own():
    """Only the deadline's own end is answered here."""

    async def endpoint(request):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(DeadlineMiddleware, default=30.0)
    async with serving(app) as client:
        assert (await client.get("/")).status_code == 500


@pytest.mark.asyncio
async def test_the_header_may_have_another_name_or_none():
    """Some gateways have their own."""

    async def endpoint(request):
        return PlainTextResponse(str(time_left() < 2.0))

    said = {}
    for header in ("X-Patience-Ms", None):
        app = Starlette(routes=[Route("/", endpoint)])
        app.add_middleware(DeadlineMiddleware, header=header)
        async with serving(app) as client:
            for name in ("X-Patience-Ms", "X-Timeout-Ms"):
                said[header, name] = (await client.get("/", headers={name: "1000"})).text
    assert said == {
        ("X-Patience-Ms", "X-Patience-Ms"): "True",
        ("X-Patience-Ms", "X-Timeout-Ms"): "False",
        (None, "X-Patience-Ms"): "False",
        (None, "X-Timeout-Ms"): "False",
    }


def test_outside_of_a_request_there_is_no_deadline():
    """Code shared with scripts needs no special case."""
    assert time_left() is None
    set_deadline(1.0)
    assert time_left() is None
