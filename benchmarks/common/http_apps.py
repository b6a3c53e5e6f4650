"""The applications poolkeeper's server is compared with, written as their documentation does."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse

SIZE = 10


def fastapi_asyncpg() -> FastAPI:
    """FastAPI on ``asyncpg.Pool``."""
    import asyncpg
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(
            os.environ["DATABASE_URL"], min_size=SIZE, max_size=SIZE
        ) as pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/accounts/{number}")
    async def account(number: int) -> dict[str, Any]:
        async with app.state.pool.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT id, owner, balance FROM accounts WHERE id = $1", number
            )
        return dict(row)

    return app


def starlette_psycopg() -> Starlette:
    """Starlette on psycopg's pool, in autocommit mode: no BEGIN and COMMIT around one statement."""
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    pool = AsyncConnectionPool(
        os.environ["DATABASE_URL"],
        min_size=SIZE,
        max_size=SIZE,
        open=False,
        kwargs={"autocommit": True, "row_factory": dict_row},
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with pool:
            yield

    async def account(request: Request) -> JSONResponse:
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT id, owner, balance FROM accounts WHERE id = %s",
                [int(request.path_params["number"])],
            )
            return JSONResponse(await cursor.fetchone())

    return Starlette(routes=[Route("/accounts/{number}", account)], lifespan=lifespan)


async def hello(scope: Any, _receive: Any, send: Any) -> None:
    """No framework, no database: what is left for anybody under this web server."""
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"17")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"hello":"world"}'})
