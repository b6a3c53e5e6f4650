"""Orders over HTTP that are taken exactly once, whatever happens to the database meanwhile.

Needs a database and two packages: pip install 'poolkeeper[server]' fastapi
DATABASE_URL=postgresql://user:password@localhost:5432/app uvicorn fastapi_app:app

    curl -X POST localhost:8000/orders/tea -H "Idempotency-Key: $(uuidgen)"
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import StreamingResponse

import poolkeeper
from poolkeeper.asgi import (
    health_routes,
    install,
    lifespan,
    metrics_routes,
    set_deadline,
    time_left,
)


@asynccontextmanager
async def prepare(app: FastAPI) -> AsyncIterator[None]:
    """Runs within the pool's life."""
    await app.state.pool.execute(
        "CREATE TABLE IF NOT EXISTS orders (id uuid PRIMARY KEY, item text)"
    )
    yield


# The URL and everything else about the pool come from the environment.
app = FastAPI(lifespan=lifespan(poolkeeper.create_pool, then=prepare))
app.router.routes.extend([*health_routes(), *metrics_routes()])
install(app, deadline=10.0, cancel_on_disconnect=True)


async def borrow(request: Request) -> AsyncIterator[Any]:
    """A connection for a handler, waited for no longer than the answer is of use."""
    async with request.state.pool.acquire(timeout=time_left()) as connection:
        yield connection


Connection = Annotated[Any, Depends(borrow)]


@app.get("/orders")
async def count(connection: Connection) -> int:
    """How many there are."""
    number: int = await connection.fetchval("SELECT count(*) FROM orders")
    return number


@app.post("/orders/{item}", status_code=201)
async def order(
    item: str, request: Request, idempotency_key: Annotated[UUID, Header()]
) -> dict[str, str]:
    """Take an order once, however often a client that got no answer sends it."""

    async def insert(connection: Any) -> None:
        await connection.execute("INSERT INTO orders VALUES ($1, $2)", idempotency_key, item)

    # It has been taken already when the answer to an earlier attempt was lost.
    with suppress(poolkeeper.TransactionAlreadyCommittedError):
        await request.state.pool.run_transaction(insert, id=idempotency_key, timeout=time_left())
    return {"id": str(idempotency_key), "item": item}


@app.get("/export")
async def export(request: Request) -> StreamingResponse:
    """All of them, line by line; as long as that takes."""
    set_deadline(None)

    async def lines() -> AsyncIterator[str]:
        async with request.state.pool.acquire() as connection, connection.transaction():
            async for row in connection.cursor("SELECT item FROM orders"):
                yield row["item"] + "\n"

    return StreamingResponse(lines(), media_type="text/plain")
