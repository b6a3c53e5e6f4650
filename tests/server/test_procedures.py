"""A procedure commits on its way: its failure does not mean that nothing took effect."""

import httpx
import pytest

PROCEDURE = """
    create or replace procedure halfway(code text) language plpgsql as $$
    begin
        insert into halves values (code);
        commit;
        raise exception 'after the commit' using errcode = code;
    end $$
"""


@pytest.fixture(scope="module")
def table(server):
    server.sql("create table if not exists halves (code text)")
    assert server.sql(PROCEDURE).status_code == 200


def rows(server, code):
    return server.sql("select code from halves where code = $1", code).json()["rows"]


@pytest.mark.parametrize("path", ["/sql", "/v1/query"])
@pytest.mark.parametrize("code", ["40001", "P0001", "23505", "25006"])
@pytest.mark.parametrize("words", ["call", "/* twice? */ CALL"])
def test_what_a_procedure_committed_is_not_said_to_be_rolled_back(server, table, path, code, words):
    """Whoever sent it again would double what it committed."""
    before = len(rows(server, code))
    answer = server.client.post(f"{server.url}{path}", json={"query": f"{words} halfway('{code}')"})
    body = answer.json()
    assert len(rows(server, code)) == before + 1
    assert (body["outcome"], body["retryable"]) == ("unknown", False)
    assert answer.status_code != 503
    assert "Retry-After" not in answer.headers
    assert body["code"] == code


@pytest.mark.parametrize("path", ["/sql", "/v1/query"])
def test_a_procedure_at_its_deadline_may_have_committed(server, table, path):
    answer = httpx.post(
        f"{server.url}{path}",
        json={"query": "do $$ begin commit; perform pg_sleep(60); end $$"},
        headers={"X-Timeout-Ms": "300"},
        timeout=60,
    )
    body = answer.json()
    assert (body["outcome"], body["retryable"]) == ("unknown", False)


def test_other_statements_are_rolled_back_as_before(server, table):
    body = server.sql("insert into halves values (1/0)").json()
    assert body["outcome"] == "rolled_back"


@pytest.mark.parametrize("path", ["/sql", "/v1/query"])
def test_megabytes_of_an_error_are_cut(server, path):
    """Somebody's RAISE is no way around the bound on answers."""
    raising = (
        "do $$ begin raise exception '%', repeat('z', 3000000)"
        " using hint = repeat('h', 3000000); end $$"
    )
    answer = server.client.post(f"{server.url}{path}", json={"query": raising})
    assert answer.status_code == 400
    assert len(answer.content) < 100_000
