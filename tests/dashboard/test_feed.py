"""What the server sends to dashboards."""

import json

import httpx
import pytest

from tests.dashboard.conftest import serve


def events(lines):
    """Pairs of name and content, as they come."""
    name = None
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def until_rows(stream):
    """The events up to the next samples, by name."""
    seen = {}
    for name, content in stream:
        seen[name] = content
        if name == "rows":
            return seen
    raise AssertionError("the stream ended")


def test_a_fresh_page_gets_what_happened_before_it_came(server):
    """Samples are taken whether somebody looks or not."""
    with server.client.stream("GET", f"{server.url}/dashboard/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        stream = events(response.iter_lines())
        first = until_rows(stream)
        second = until_rows(stream)
    columns = first["hello"]["columns"]
    assert all(len(row) == len(columns) for row in first["rows"])
    with server.client.stream("GET", f"{server.url}/dashboard/events") as response:
        later = until_rows(events(response.iter_lines()))
    known = first["rows"] + second["rows"]
    assert later["rows"][: len(known)] == known
    assert [row[0] for row in later["rows"]] == sorted(row[0] for row in later["rows"])


def test_what_has_not_changed_is_not_sent_again(server):
    server.sql("select * from nowhere")
    with server.client.stream("GET", f"{server.url}/dashboard/events") as response:
        stream = events(response.iter_lines())
        first = until_rows(stream)
        assert {"hello", "now", "outages", "errors", "slow"} <= first.keys()
        if not first["errors"]:
            # what was built for the latest sample, just before the request
            assert "errors" in until_rows(stream)
        assert until_rows(stream).keys() <= {"now", "rows"}
        server.sql("select * from elsewhere")
        changed = until_rows(stream)
        while "errors" not in changed:
            changed = until_rows(stream)
    assert "elsewhere" in changed["errors"][0]["statement"]


def test_a_page_that_does_not_read_costs_nothing_and_catches_up(server):
    """The others are not held up; all samples are there when it reads at last."""
    with server.client.stream("GET", f"{server.url}/dashboard/events") as slow:
        lines = events(slow.iter_lines())
        seen = until_rows(lines)["rows"]
        with server.client.stream("GET", f"{server.url}/dashboard/events") as quick:
            stream = events(quick.iter_lines())
            reference = until_rows(stream)["rows"]
            for _ in range(3):
                reference += until_rows(stream)["rows"]
        while seen[-1] != reference[-1]:
            seen += until_rows(lines)["rows"]
    assert seen == reference[-len(seen) :] or seen[-len(reference) :] == reference


@pytest.mark.parametrize("path", ["/", "/dashboard/app.js", "/dashboard/style.css"])
def test_a_file_is_sent_once_and_runs_nothing_from_elsewhere(server, path):
    response = server.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    again = server.get(path, headers={"If-None-Match": f'"other", {response.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    other = server.get(path, headers={"If-None-Match": '"other"'})
    assert other.content == response.content


@pytest.mark.parametrize("name", ["nothing.js", "..%2fassets.py", "README.md"])
def test_other_files_are_not_served(server, name):
    response = server.get(f"/dashboard/{name}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_asking_for_the_head_of_the_stream_ends(server):
    assert server.client.head(f"{server.url}/dashboard/events").status_code == 200


def test_only_the_numbers_need_a_token(postgres):
    """The page has to load before somebody can type one in."""
    with serve(postgres.url, env={"POOLKEEPER_TOKEN": "correct-horse"}) as server:
        server.start()
        assert server.get("/").status_code == 200
        assert server.get("/dashboard/app.js").status_code == 200
        refused = server.get("/dashboard/events")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        asked = httpx.Headers({"Authorization": "Bearer correct-horse"})
        url = f"{server.url}/dashboard/events"
        with server.client.stream("GET", url, headers=asked) as response:
            hello = until_rows(events(response.iter_lines()))["hello"]
        assert (hello["token"], hello["admin"]) == ("default", True)


def test_no_password_and_no_token_is_in_what_is_sent(postgres):
    """Not even where a statement has them."""
    env = {"POOLKEEPER_TOKEN": "correct-horse"}
    with serve(postgres.url, env=env) as server:
        server.start()
        headers = {"Authorization": "Bearer correct-horse"}
        server.sql("select 'correct-horse' from nowhere", headers=headers)
        url = f"{server.url}/dashboard/events"
        with server.client.stream("GET", url, headers=headers) as response:
            told = until_rows(events(response.iter_lines()))
    assert "nowhere" in told["errors"][0]["statement"]
    assert "correct-horse" not in json.dumps(told)
