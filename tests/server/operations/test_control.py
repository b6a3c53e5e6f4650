"""Operations obey people, over HTTP as everywhere; those who may."""

import pytest

from tests.server.operations.asking import (
    BACKFILL,
    ROWS,
    ask,
    create,
    events,
    make_things,
    serve,
    things,
    wait_for,
)
from tests.server.processes import active, barrier

READER = {"authorization": "Bearer the-one-that-reads"}
WRITER = {"authorization": "Bearer the-one-that-writes"}
TOKENS = """
[[token]]
name = "reader"
secret = "the-one-that-reads"
read_only = true
[[token]]
name = "writer"
secret = "the-one-that-writes"
max_concurrency = 1
"""


def held(url):
    """Whether the backfill waits at the barrier."""
    return active(url, "update things") or active(url, "UPDATE")


def test_a_pause_holds_until_it_is_resumed(postgres):
    """Those who watch see both; all rows are changed once."""
    make_things(postgres.url, held_from=501)
    with serve(postgres.url) as server:
        server.start()
        with barrier(postgres.url):
            operation = create(server)
            with events(server, operation["id"]) as followed:
                wait_for(followed, seq=5)
                paused = ask(server, "POST", f"/{operation['id']}/pause")
                assert (paused.status_code, paused.json()["state"]) == (200, "paused")
                assert wait_for(followed, state="paused")["seq"] == 5
        assert ask(server, "POST", f"/{operation['id']}/pause").json()["state"] == "paused"
        assert things(postgres.url) == {0: ROWS - 500, 1: 500}
        refused = ask(server, "POST", f"/{operation['id']}/retry")
        assert (refused.status_code, refused.json()["type"]) == (
            409,
            "urn:poolkeeper:problem:operation-conflict",
        )
        with events(server, operation["id"]) as followed:
            wait_for(followed, state="paused")
            assert ask(server, "POST", f"/{operation['id']}/resume").status_code == 200
            assert wait_for(followed, "end")["state"] == "done"
        assert things(postgres.url) == {1: ROWS}


def test_what_is_cancelled_stays_so_and_can_be_forgotten(postgres):
    """What was committed stays; only what is over can be deleted."""
    make_things(postgres.url, held_from=501)
    with barrier(postgres.url), serve(postgres.url) as server:
        server.start()
        path = f"/{create(server)['id']}"
        with events(server, path[1:]) as followed:
            wait_for(followed, seq=5)
            assert ask(server, "DELETE", path).status_code == 409
            assert ask(server, "POST", f"{path}/cancel").json()["state"] == "cancelled"
            assert wait_for(followed, "end")["state"] == "cancelled"
        assert things(postgres.url) == {0: ROWS - 500, 1: 500}
        assert ask(server, "POST", f"{path}/resume").status_code == 409
        deleted = ask(server, "DELETE", path)
        assert (deleted.status_code, deleted.content) == (204, b"")
        gone = ask(server, "GET", path)
        assert gone.status_code == 404
        assert gone.json()["type"] == "urn:poolkeeper:problem:operation-not-found"


def test_a_failed_operation_goes_on_where_it_failed_after_its_reason_is_mended(postgres):
    """The stream ends with the error; a retry does only what is left."""
    make_things(postgres.url)
    with serve(postgres.url) as server:
        server.start()
        server.sql("alter table things add check (n = 0 or id <= 700)")
        operation = create(server)
        with events(server, operation["id"]) as followed:
            failed = wait_for(followed, "end")
        assert (failed["state"], failed["rows_done"]) == ("failed", 700)
        assert "SQLSTATE 23514" in failed["error"]
        server.sql("alter table things drop constraint things_check")
        assert ask(server, "POST", f"/{operation['id']}/retry").json()["error"] is None
        with events(server, operation["id"]) as followed:
            assert wait_for(followed, "end")["state"] == "done"
        assert things(postgres.url) == {1: ROWS}


def test_an_ended_stream_does_not_bring_a_browser_back_for_ever(postgres):
    """204 to whoever has seen the end; whoever has not, sees it."""
    make_things(postgres.url)
    with serve(postgres.url) as server:
        server.start()
        operation = create(server)
        with events(server, operation["id"]) as followed:
            *_, (name, last, _) = followed
        assert name == "end"
        path = f"/{operation['id']}/events"
        again = ask(server, "GET", path, **{"last-event-id": last})
        assert (again.status_code, again.content) == (204, b"")
        with events(server, operation["id"], **{"last-event-id": "3"}) as followed:
            [(name, _, document)] = followed
        assert (name, document["state"]) == ("end", "done")
        assert server.client.head(f"{server.url}/v1/operations{path}").status_code == 200


def test_who_may_only_read_can_look_and_not_steer(postgres, tmp_path):
    """403 for everything else, and nothing is begun; a stream is no request of its token's."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(TOKENS)
    make_things(postgres.url, held_from=501)
    with barrier(postgres.url), serve(postgres.url, f"--token-file={tokens}") as server:
        server.start()
        assert ask(server, "GET").status_code == 401
        refused = ask(server, "POST", "", BACKFILL, **READER)
        assert (refused.status_code, refused.json()["type"]) == (
            403,
            "urn:poolkeeper:problem:read-only",
        )
        assert ask(server, "GET", "?all=true", **READER).json() == {"operations": []}
        path = f"/{create(server, **WRITER)['id']}"
        with events(server, path[1:], **READER) as followed:
            wait_for(followed, seq=5)
        for verb in ("pause", "resume", "retry", "cancel"):
            assert ask(server, "POST", f"{path}/{verb}", **READER).status_code == 403
        assert ask(server, "DELETE", path, **READER).status_code == 403
        assert ask(server, "GET", f"{path}/rejects", **READER).json()["rejects"] == []
        with events(server, path[1:], **WRITER) as followed:
            wait_for(followed, state="running")
            assert ask(server, "POST", f"{path}/pause", **WRITER).status_code == 200


def test_a_server_that_only_reads_shows_and_does_nothing(postgres):
    """Nor can it be told to carry operations out."""
    with serve(postgres.url, "--read-only") as server:
        server.start()
        assert ask(server, "POST", "", BACKFILL).status_code == 403
        assert ask(server, "GET").json() == {"operations": []}
    with serve(postgres.url, "--read-only", "--operations=1") as server:
        code, said = server.end()
        assert code == 2
        assert "--operations and --read-only contradict each other" in said


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=1001", "?limit=x", "?limit=²", "?all=yes", "?everything=true"]
)
def test_a_misspelt_question_is_400(postgres, query):
    """And says what would be right."""
    with serve(postgres.url) as server:
        server.start()
        answer = ask(server, "GET", query)
        assert answer.status_code == 400
        assert "Suggestion: " in answer.json()["detail"]
