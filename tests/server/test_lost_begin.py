"""A connection lost in answer to BEGIN, seen by the client of a real server process."""

import asyncio

import pytest

from poolkeeper.testing.proxy import FaultProxy
from tests.server.processes import ServerProcess

INSERT = {"query": "insert into t values (1)"}


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/sql", {}, {"queries": [INSERT]}),
        ("/v1/query", {}, {"query": "select 1", "readonly": True}),
        ("/v1/query", {"Accept": "application/x-ndjson"}, {"query": "select 1"}),
    ],
)
@pytest.mark.asyncio
async def test_a_connection_lost_in_answer_to_begin_is_a_transaction_rolled_back(
    postgres, path, headers, body
):
    """Nothing can have taken effect yet; the client may send it again."""
    async with FaultProxy.to(postgres.url) as proxy:
        with ServerProcess("--port=0", "--max-size=2", database_url=proxy.url) as server:
            await asyncio.to_thread(server.start)
            begun = proxy.wait_for_segment(
                lambda segment: (segment.text or "").lower().startswith("begin")
            )
            asking = asyncio.create_task(
                asyncio.to_thread(server.client.post, server.url + path, json=body, headers=headers)
            )
            segment = await begun
            proxy.reset(segment.link)
            answer = await asking
    assert answer.status_code == 503
    assert answer.json()["outcome"] == "rolled_back"
