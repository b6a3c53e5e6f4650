"""Applications as their users have them: behind uvicorn, on a socket."""

import asyncio
import socket
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.asgi import install, lifespan
from poolkeeper.testing.contracts import eventually

FRAMEWORKS = {"starlette": Starlette, "fastapi": FastAPI}
APPLICATION = "web application"
METHODS = ["GET", "POST"]
DRIVERS = ["asyncpg", "psycopg"]


class _Server(uvicorn.Server):
    """Leaves the signals of the test process alone."""

    @contextmanager
    def capture_signals(self):
        yield

    async def run(self, listener):
        # How uvicorn says that the application did not start.
        with suppress(SystemExit):
            await self.serve([listener])


class DidNotStartError(Exception):
    """The application's start failed."""


def make_pool(url, *, driver="asyncpg", **options):
    """A pool with one connection."""
    options = {"min_size": 1, "max_size": 1, "timeout": 10.0, "close_timeout": 2.0} | options
    url = url.replace("postgresql://", f"postgresql+{driver}://", 1)
    settings = {"application_name": APPLICATION}
    return ConnectionPoolManager(PoolConfig(database_url=url, **options), server_settings=settings)


def make_app(framework, pool, endpoints, *, start=None, **options):
    """An application with an endpoint per path, which returns a text."""
    routes = [Route(path, endpoint, methods=METHODS) for path, endpoint in endpoints.items()]
    app = FRAMEWORKS[framework](routes=routes, lifespan=lifespan(pool, **(start or {})))
    install(app, **options)
    return app


def answers(work):
    """An endpoint that answers with what ``await work(pool)`` returns."""

    async def endpoint(request):
        return PlainTextResponse(str(await work(request.state.pool)))

    return endpoint


@asynccontextmanager
async def serving(app):
    """A client of the application; at the end it is shut down as a signal would."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            app, lifespan="on", log_config=None, ws="none", timeout_graceful_shutdown=20
        )
        server = _Server(config)
        running = asyncio.create_task(server.run(listener))
        try:
            await eventually(lambda: server.started or running.done())
            if running.done():
                raise DidNotStartError
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                client.server = server
                yield client
        finally:
            server.should_exit = True
            await running


def problem(response):
    """Status, kind and outcome of a problem document; everything about it must agree."""
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    retry_after = response.headers.get("retry-after")
    assert (retry_after is not None) == (response.status_code == 503)
    if retry_after is not None:
        assert body["retry_after"] == int(retry_after) >= 1
    return response.status_code, body["type"].rpartition(":")[2], body["outcome"]


OF_THE_POOL = f"application_name = '{APPLICATION}' and datname = current_database()"


async def end_sessions(conn, condition="true"):
    """Terminate sessions of the pool, from a connection that is not the pool's."""
    await conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        f"where {OF_THE_POOL} and {condition}"
    )
