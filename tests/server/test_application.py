"""Requests that come past the router look like any other from outside."""

import pytest

from tests.server.processes import ServerProcess


@pytest.mark.parametrize("path", ["/sql", "/v1/query"])
def test_what_comes_past_the_router_is_framed_and_counted_like_the_rest(server, path):
    """Its names are on the answer, and its path is a label of the metrics."""
    answer = server.client.post(
        f"{server.url}{path}", json={"query": "select 1"}, headers={"X-Request-Id": "mine"}
    )
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine"
    assert "db;dur=" in answer.headers["server-timing"]
    line = f'poolkeeper_http_requests_total{{code="200",route="{path}"}}'
    assert line in server.get("/metrics").text


@pytest.mark.parametrize("path", ["/sql", "/v1/query"])
def test_other_methods_on_the_same_path_go_through_the_router(server, path):
    """They are told which method there is."""
    answer = server.get(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_page_that_may_use_the_server_is_told_so_on_every_path(postgres):
    """With origins allowed, answers need what only the long way adds."""
    origin = "https://app.example.com"
    options = ("--port=0", f"--cors-origin={origin}", "--insecure-no-auth")
    with ServerProcess(*options, database_url=postgres.url) as server:
        answer = server.start().sql("select 1", headers={"Origin": origin})
    assert answer.headers["access-control-allow-origin"] in {origin, "*"}


def test_of_two_headers_alike_the_first_counts(server):
    """Nobody can slip a second one past a check of the first."""
    twice = [("Neon-Array-Mode", "true"), ("Neon-Array-Mode", "false")]
    body = {"query": "select 1 as n"}
    answer = server.client.post(f"{server.url}/sql", json=body, headers=twice)
    assert answer.json()["rows"] == [[1]]
