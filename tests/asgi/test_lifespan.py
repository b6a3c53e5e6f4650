"""The pool opens and closes with its application."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from poolkeeper import PoolInitializationError
from poolkeeper.asgi import health_routes, lifespan
from poolkeeper.testing.contracts import eventually
from tests.asgi.serving import (
    FRAMEWORKS,
    OF_THE_POOL,
    DidNotStartError,
    answers,
    make_app,
    make_pool,
    problem,
    serving,
)


async def one(pool):
    return await pool.fetchval("select 1")


@pytest.mark.asyncio
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_the_pool_is_open_while_the_application_runs(framework, postgres, admin):
    """In the state of requests and of the application, and gone afterwards."""
    pool = make_pool(postgres.url)
    app = make_app(framework, pool, {"/": answers(one)})
    async with serving(app) as client:
        assert (await client.get("/")).text == "1"
        assert app.state.pool is pool
    assert pool.is_closing()
    assert await admin.fetchval(f"select count(*) from pg_stat_activity where {OF_THE_POOL}") == 0


@pytest.mark.asyncio
async def test_a_mounted_application_has_the_pool_too(postgres):
    """State is handed down."""
    inner = Starlette(routes=[Route("/one", answers(one))])
    app = Starlette(routes=[Mount("/inner", inner)], lifespan=lifespan(make_pool(postgres.url)))
    async with serving(app) as client:
        assert (await client.get("/inner/one")).text == "1"


@pytest.mark.asyncio
async def test_the_applications_own_lifespan_lives_within_the_pools(postgres):
    """It may use the pool at its start and at its end; what it yields is in the state."""
    seen = []

    @asynccontextmanager
    async def own(app):
        seen.append(await app.state.pool.fetchval("select 'start'"))
        yield {"greeting": "hello"}
        seen.append(await app.state.pool.fetchval("select 'end'"))

    async def greet(request):
        return PlainTextResponse(request.state.greeting + str(await one(request.state.pool)))

    app = make_app("fastapi", make_pool(postgres.url), {"/": greet}, start={"then": own})
    async with serving(app) as client:
        assert (await client.get("/")).text == "hello1"
        assert seen == ["start"]
    assert seen == ["start", "end"]


@pytest.mark.asyncio
async def test_the_pool_is_closed_when_the_applications_own_start_fails(postgres):
    """Nothing is left open."""
    pool = make_pool(postgres.url)

    @asynccontextmanager
    async def own(app):
        raise RuntimeError("no")
        yield

    with pytest.raises(DidNotStartError):
        async with serving(make_app("starlette", pool, {}, start={"then": own})):
            pass
    assert pool.is_closing()
    assert pool.get_size() == 0


@pytest.mark.asyncio
async def test_an_application_may_start_again_when_it_makes_its_pool_by_a_function(postgres):
    """A pool can be opened once."""
    app = make_app("starlette", lambda: make_pool(postgres.url), {"/": answers(one)})
    pools = []
    for _ in range(2):
        async with serving(app) as client:
            assert (await client.get("/")).text == "1"
            pools.append(app.state.pool)
    assert pools[0] is not pools[1]


@pytest.mark.asyncio
async def test_without_a_database_the_application_does_not_start(crashable_postgres):
    """With the pool's own error, which says what to do."""
    crashable_postgres.stop()
    pool = make_pool(crashable_postgres.url, initialization_attempts=1)
    context = lifespan(pool)(Starlette())
    with pytest.raises(PoolInitializationError, match="Suggestion: "):
        await context.__aenter__()
    with pytest.raises(DidNotStartError):
        async with serving(make_app("fastapi", pool, {})):
            pass


@pytest.mark.asyncio
async def test_without_a_database_it_starts_if_told_so_and_works_when_there_is_one(
    crashable_postgres,
):
    """Until then requests wait as in an outage, and the probe says not ready."""
    crashable_postgres.stop()
    pool = make_pool(crashable_postgres.url, min_size=2, max_size=3, outage_patience=0.1)
    endpoints = {"/": answers(one)}
    app = make_app("starlette", pool, endpoints, start={"require_database": False})
    app.routes.extend(health_routes())
    async with serving(app) as client:
        await eventually(lambda: pool.get_statistics().total_connect_failures)
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200
        while (answer := await client.get("/")).status_code != 503:
            pass
        assert problem(answer) == (503, "database-unavailable", "not_executed")
        await asyncio.to_thread(crashable_postgres.start)

        async def ready():
            return (await client.get("/readyz")).status_code == 200

        await eventually(ready)
        assert (await client.get("/")).text == "1"
        await eventually(lambda: pool.get_size() == 2)


@pytest.mark.asyncio
async def test_running_requests_end_before_the_pool_closes(postgres, admin):
    """A shutdown in the middle of a statement costs it nothing."""
    await admin.execute("select pg_advisory_lock(1)")
    waits = answers(lambda pool: pool.fetchval("select 'done' from pg_advisory_xact_lock(1)"))
    pool = make_pool(postgres.url)
    waiting = "select count(*) from pg_stat_activity where wait_event = 'advisory'"

    async def under_way():
        return await admin.fetchval(waiting)

    app = make_app("starlette", pool, {"/": waits})
    # A client of its own: the other is closed before the server stops.
    async with httpx.AsyncClient(timeout=60) as patient, serving(app) as client:
        asking = asyncio.create_task(patient.get(client.base_url))
        await eventually(under_way)
        client.server.should_exit = True
        await admin.execute("select pg_advisory_unlock(1)")
        assert (await asking).text == "done"
    assert pool.get_size() == 0


@pytest.mark.asyncio
async def test_close_timeout_bounds_how_long_the_pool_waits(postgres):
    """Who still has a connection then is cut off."""
    pool = make_pool(postgres.url, close_timeout=60.0)
    async with lifespan(pool, close_timeout=0.01)(Starlette()):
        holder = await pool.acquire()
    assert pool.get_size() == 0
    assert holder.is_closed()


@pytest.mark.asyncio
async def test_any_asgi_framework_gets_its_state(postgres):
    """An application object without a state of its own will do."""
    pool = make_pool(postgres.url)
    async with lifespan(pool)(object()) as state:
        assert state == {"pool": pool}
        assert await one(state["pool"]) == 1
