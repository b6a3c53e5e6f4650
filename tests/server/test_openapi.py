"""The OpenAPI document, and what a program that believes it may meet."""

import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks

from poolkeeper.server.api.openapi import document
from poolkeeper.server.app import build_app
from poolkeeper.server.lifecycle import Lifecycle
from poolkeeper.server.settings import ServerSettings
from tests.docs.test_reference import unopened_pool


def no_bug(_context, response, _case):
    """502 to 504 and 507 are answers, 500 is none."""
    assert response.status_code != 500


CHECKS = [
    no_bug,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(document())


def test_the_document_is_served_as_it_is(server):
    """Under the well-known name."""
    answer = server.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(document()))
    assert answer.json()["openapi"].startswith("3.1")


def test_every_path_that_runs_something_is_described():
    """A new endpoint of the API must not be forgotten here."""
    app = build_app(unopened_pool(), ServerSettings(), Lifecycle())
    paths = {route.path.replace(":path", "") for route in app.routes}
    served = {path for path in paths if path.startswith("/v1/") or path == "/sql"}
    assert served == set(document()["paths"])


@pytest.mark.asyncio
async def test_a_request_refused_without_a_connection_does_not_make_the_queue_look_fast():
    """Retry-After is made from connections given back; rejections are none."""
    app = build_app(unopened_pool(), ServerSettings(), Lifecycle())
    [endpoint] = [route.endpoint for route in app.routes if route.path == "/v1/transaction"]
    pace = endpoint._engine.pace
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        body = {"statements": [{"query": "select 1"}]}
        answer = await client.post("/v1/transaction", json=body)
    assert answer.status_code == 503
    assert pace.per_second() == 0


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_a_program_sends_is_answered_as_described(case, server):
    """No 500, and no status, type or member that is not in the document."""
    case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)


@pytest.mark.parametrize("path", list(document()["paths"]))
def test_whatever_is_sent_instead_of_json_is_400(server, path):
    """Depth, size and encodings that break parsers."""
    method = "GET" if "get" in document()["paths"][path] and "{" in path else "POST"
    for body in (b"\xff\xfe", b"[" * 100_000, b'{"query":' * 20_000, b"1e999999", b'"\\ud800"'):
        answer = httpx.request(
            method, f"{server.url}{path.replace('{key}', '%20')}", content=body, timeout=60
        )
        assert answer.status_code in ({404} if "operations/" in path else {400, 200}), answer.text
