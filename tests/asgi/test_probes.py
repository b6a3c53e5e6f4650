"""Probes and metrics of an application say how its pool is, and never use it."""

import asyncio

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from poolkeeper.asgi import health_routes, lifespan, metrics_routes
from poolkeeper.testing.contracts import eventually
from tests.asgi.serving import FRAMEWORKS, make_pool, serving

PATHS = ["/livez", "/readyz", "/health", "/metrics"]


def application(framework, pool, *, given=False):
    own = [pool] if given else []
    routes = [*health_routes(*own), *metrics_routes(*own)]
    return FRAMEWORKS[framework](routes=routes, lifespan=lifespan(pool))


@pytest.mark.asyncio
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("given", [False, True])
async def test_a_healthy_pool_is_ready(framework, given, postgres):
    """The pool of the lifespan, or one that is given."""
    pool = make_pool(postgres.url, pool_name="shop")
    async with serving(application(framework, pool, given=given)) as client:
        assert [(await client.get(path)).status_code for path in PATHS] == [200] * 4
        report = (await client.get("/health")).json()
        assert (report["status"], report["database"]["pool"]["total"]) == ("healthy", 1)
        metrics = await client.get("/metrics")
        assert 'poolkeeper_pool_connections{pool="shop",state="idle"} 1.0' in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert (await client.get("/metrics", headers=accept)).text.endswith("# EOF\n")


@pytest.mark.asyncio
async def test_an_exhausted_pool_is_ready(postgres):
    """Busy is not broken, and every probe answers although nobody can get a connection."""
    pool = make_pool(postgres.url)
    async with serving(application("starlette", pool)) as client, pool.acquire():
        waiting = asyncio.ensure_future(pool.fetchval("select 1"))
        await eventually(lambda: pool.get_statistics().waiting_requests)
        assert [(await client.get(path)).status_code for path in PATHS] == [200] * 4
        acquisitions = pool.get_statistics().total_acquisitions
        assert acquisitions == 1
        waiting.cancel()


@pytest.mark.asyncio
async def test_a_pool_without_a_database_is_not_ready_but_alive(crashable_postgres):
    """And ready again when the database is back."""
    pool = make_pool(crashable_postgres.url)
    async with serving(application("fastapi", pool)) as client:
        await asyncio.to_thread(crashable_postgres.stop)

        async def status(path):
            return (await client.get(path)).status_code

        async def not_ready():
            return await status("/readyz") == 503

        await eventually(not_ready)
        assert [await status(path) for path in PATHS] == [200, 503, 503, 200]
        assert (await client.get("/readyz")).text == "database disconnected\n"
        await asyncio.to_thread(crashable_postgres.start)

        async def ready():
            return await status("/readyz") == 200

        await eventually(ready)


@pytest.mark.asyncio
async def test_several_pools_share_one_page_of_metrics(postgres):
    """Told apart by their names."""
    pools = [make_pool(postgres.url, pool_name=name) for name in ("shop", "archive")]
    app = Starlette(routes=metrics_routes(*pools))
    async with pools[0], pools[1], serving(app) as client:
        text = (await client.get("/metrics")).text
    assert 'pool="shop"' in text
    assert 'pool="archive"' in text


@pytest.mark.asyncio
async def test_an_application_without_the_pools_lifespan_is_told(caplog):
    """What is missing, and how to mend it."""
    app = FastAPI(routes=health_routes())
    async with serving(app) as client:
        assert (await client.get("/readyz")).status_code == 500
    assert "lifespan=poolkeeper.asgi.lifespan(pool)" in caplog.text
