"""The example takes orders exactly once while its database dies."""

import asyncio
import importlib.util
import random
from pathlib import Path
from uuid import uuid4

import pytest

from poolkeeper.testing.contracts import eventually
from tests.asgi.serving import problem, serving

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app.py"


@pytest.fixture
def app(crashable_postgres, monkeypatch):
    """As `uvicorn fastapi_app:app` imports it."""
    monkeypatch.setenv("DATABASE_URL", crashable_postgres.url)
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.mark.asyncio
async def test_orders_are_taken_once_through_a_crash(app, crashable_postgres):
    """Clients send an order again, with its key, until it is accepted."""
    async with serving(app) as client:
        taken = []

        async def buy(customer):
            for number in range(10):
                item, key = f"{customer}-{number}", str(uuid4())
                # Some ask twice without need, as after a lost answer.
                for _ in range(random.choice([1, 2])):
                    while True:
                        answer = await client.post(
                            f"/orders/{item}", headers={"Idempotency-Key": key}
                        )
                        if answer.status_code == 201:
                            break
                        assert problem(answer)[0] in {502, 503, 504}
                    assert answer.json() == {"id": key, "item": item}
                taken.append(item)

        customers = asyncio.gather(*map(buy, range(8)))
        await eventually(lambda: len(taken) >= 30)
        await asyncio.to_thread(crashable_postgres.crash)
        await asyncio.to_thread(crashable_postgres.start)
        await customers
        assert (await client.get("/orders")).json() == 80
        exported = (await client.get("/export")).text.split()
        assert sorted(exported) == sorted(taken)
        assert (await client.get("/readyz")).text == "ok\n"
        assert "poolkeeper_pool_max_connections" in (await client.get("/metrics")).text


@pytest.mark.asyncio
async def test_an_order_without_a_key_is_the_clients_mistake(app):
    """FastAPI's own answer."""
    async with serving(app) as client:
        assert (await client.post("/orders/tea")).status_code == 422
