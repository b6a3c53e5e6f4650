"""Operations are begun over HTTP, once, and carried out by the server."""

import contextlib
import inspect
import json
import secrets
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from poolkeeper.operations.verbs import Verbs
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.operations.requests import KINDS, REQUIRED, parse_create_request
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
from tests.server.processes import active, barrier, until


def workers(url):
    """The workers that have sessions in the database."""
    query = (
        "select distinct application_name from pg_stat_activity"
        " where application_name like 'poolkeeper worker%' and datname = current_database()"
    )
    with psycopg.connect(url) as conn:
        return [name for (name,) in conn.execute(query)]


def test_what_is_begun_by_a_request_is_done_and_can_be_followed_to_its_end(postgres):
    """Nothing more is needed than the request; each row is changed once."""
    make_things(postgres.url)
    with serve(postgres.url) as server:
        server.start()
        answer = ask(server, "POST", "", BACKFILL)
        assert answer.status_code == 201
        operation = answer.json()
        assert answer.headers["location"] == f"/v1/operations/{operation['id']}"
        assert answer.headers["cache-control"] == "no-store"
        assert (operation["name"], operation["state"]) == ("update things", "pending")
        with events(server, operation["id"]) as followed:
            seen = list(followed)
        assert {name for name, _, _ in seen[:-1]} <= {"progress"}
        name, number, last = seen[-1]
        assert (name, last["state"], last["rows_done"]) == ("end", "done", ROWS)
        assert number == f"{last['seq']}-end"
        assert [document["seq"] for _, _, document in seen] == sorted(
            document["seq"] for _, _, document in seen
        )
        assert things(postgres.url) == {1: ROWS}
        shown = ask(server, "GET", "/update%20things").json()
        assert {key: shown[key] for key in ("id", "state")} == {
            "id": operation["id"],
            "state": "done",
        }
        assert "asked" not in shown["spec"]
        assert ask(server, "GET").json() == {"operations": []}
        [listed] = ask(server, "GET", "?all=true").json()["operations"]
        assert listed["id"] == operation["id"]


def test_nothing_is_asked_of_the_database_before_somebody_wants_an_operation(postgres):
    """No connection, no query, no tables; and looking makes no tables either."""
    with serve(postgres.url) as server:
        server.start()
        server.sql("select 1")
        server.get("/status")
        assert workers(postgres.url) == []
        assert ask(server, "GET").json() == {"operations": []}
        assert ask(server, "GET", "/nothing").status_code == 404
        found = server.sql(
            "select count(*)::int as n from pg_namespace where nspname = 'poolkeeper'"
        )
        assert found.json()["rows"] == [{"n": 0}]
        assert server.get("/status").json()["operations"]["working"] is False


def test_the_same_request_again_finds_the_same_operation(postgres):
    """200 instead of 201; another one of that name is refused, with what differs."""
    make_things(postgres.url, held_from=1)
    with barrier(postgres.url), serve(postgres.url) as server:
        server.start()
        first = create(server)
        again = ask(server, "POST", "", BACKFILL)
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
        other = ask(server, "POST", "", {**BACKFILL, "set": "n = 7"})
        assert (other.status_code, other.headers["content-type"]) == (
            409,
            "application/problem+json",
        )
        problem = other.json()
        assert problem["type"] == "urn:poolkeeper:problem:operation-conflict"
        assert (problem["outcome"], problem["retryable"]) == ("not_executed", False)
        assert "it differs in set" in problem["detail"]
        assert "Suggestion: " in problem["detail"]


def test_what_is_done_is_not_done_again_unless_that_is_said(postgres):
    """A request that is sent twice does not add twice."""
    make_things(postgres.url)
    with serve(postgres.url) as server:
        server.start()
        first = create(server)
        with events(server, first["id"]) as followed:
            wait_for(followed, "end", state="done")
        once_more = ask(server, "POST", "", BACKFILL)
        assert (once_more.status_code, once_more.json()["state"]) == (200, "done")
        assert things(postgres.url) == {1: ROWS}
        second = create(server, {**BACKFILL, "again": True})
        with events(server, second["id"]) as followed:
            wait_for(followed, "end", state="done")
        assert things(postgres.url) == {2: ROWS}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"kind": "backfill", "table": "nowhere", "set": "n = 1"}, 422, "no table 'nowhere'"),
        ({"kind": "backfill", "table": "things"}, 422, "needs either set= or delete"),
        ({"kind": "backfill", "table": "things", "set": "nothing = 1"}, 422, "nothing"),
        ({"kind": "backfill"}, 400, "needs `table`"),
        ({"kind": "magic"}, 400, "`kind`"),
        ({}, 400, "`kind`"),
        ([], 400, "not a JSON object"),
        ({**BACKFILL, "batches": 5}, 400, "`batches` is no option of a backfill"),
        ({**BACKFILL, "batch": "5"}, 400, "`batch` of a backfill is not a whole number"),
        ({**BACKFILL, "batch": True}, 400, "not a whole number"),
        ({**BACKFILL, "pause": -1}, 400, "number of seconds"),
        ({**BACKFILL, "key": ["id", 1]}, 400, "list of strings"),
        ({**BACKFILL, "name": ""}, 400, "`name`"),
        ({**BACKFILL, "name": "a\nb"}, 400, "`name`"),
        ({**BACKFILL, "where": "a = '\0'"}, 400, "NUL"),
        ({"kind": "custom", "step": "x", "arguments": {"n": 1e999}}, 400, "JSON"),
    ],
)
def test_what_cannot_be_begun_is_refused_with_advice(shared, body, status, words):
    """400 where the request is wrong, 422 where the database says no; nothing is begun."""
    answer = ask(shared, "POST", "", body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert "Suggestion: " in answer.json()["detail"]
    assert answer.json()["outcome"] == "not_executed"
    assert ask(shared, "GET", "?all=true").json() == {"operations": []}


@pytest.fixture(scope="module")
def shared(postgres_server):
    """A server whose database has a table of things."""
    url = postgres_server.create_database("operations_refused")
    make_things(url)
    with serve(url) as server:
        yield server.start()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "custom"])
def test_a_request_takes_what_the_library_takes(kind):
    """A new option must not be forgotten here, nor one that is gone be promised."""
    known = dict(inspect.signature(getattr(Verbs, kind)).parameters)
    del known["self"], known["name"]
    assert set(KINDS[kind]) == set(known)
    required = {name for name, one in known.items() if one.default is one.empty}
    assert set(REQUIRED[kind]) == required


def test_null_is_what_is_left_to_the_default():
    """As everywhere in JSON."""
    body = json.dumps({**BACKFILL, "where": None, "name": None}).encode()
    assert parse_create_request(body, None).given == {
        key: value for key, value in BACKFILL.items() if key != "kind"
    }
    with pytest.raises(BadRequestError, match="not JSON in UTF-8"):
        parse_create_request(b'{"kind": "backfill", "table": "\\ud800", "set": "a = 1"}', None)


def test_a_step_nobody_here_knows_waits_for_a_worker_that_does(postgres):
    """The server says so, and leaves it to others."""
    with serve(postgres.url) as server:
        server.start()
        operation = create(server, {"kind": "custom", "step": "ours", "arguments": {"upto": 3}})
        seen = until(
            lambda: (one := ask(server, "GET", f"/{operation['id']}").json())["error"] and one
        )
        assert seen["state"] == "pending"
        assert "This process has no step 'ours'" in seen["error"]
        assert server.get("/status").json()["operations"]["running"] == []


def test_a_database_without_a_place_for_operations_is_501(postgres, postgres_server):
    """Nothing was executed, and the answer says who has to do what."""
    guest = f"guest_{secrets.token_hex(6)}"
    postgres_server.psql(f"create role {guest} login password 'guest'")
    url = postgres.url.replace(postgres.url.split("//")[1].split("@")[0], f"{guest}:guest")
    make_things(postgres.url)
    with psycopg.connect(postgres.url, autocommit=True) as conn:
        conn.execute(
            f"grant all on things to {guest}; "
            f"revoke create on database {conn.info.dbname} from public"
        )
    with serve(url) as server:
        server.start()
        answer = ask(server, "POST", "", BACKFILL)
        problem = answer.json()
        assert (answer.status_code, problem["outcome"]) == (501, "not_executed")
        assert problem["type"] == "urn:poolkeeper:problem:operations-unavailable"
        assert "poolkeeper init-db" in problem["detail"]
        assert "127.0.0.1" not in answer.text


def test_a_database_that_is_away_is_503_with_a_time_to_come_back(crashable_postgres):
    """Nothing was executed; the same request is served when it is back."""
    url = crashable_postgres.dsn()
    make_things(url)
    # Short, for the answer is only wanted once the patience is over.
    with serve(url, env={"POOL_OUTAGE_PATIENCE": "0.2"}) as server:
        server.start()
        crashable_postgres.crash()
        for answer in (ask(server, "POST", "", BACKFILL), ask(server, "GET")):
            problem = answer.json()
            assert (answer.status_code, problem["outcome"]) == (503, "not_executed"), problem
            assert problem["type"] == "urn:poolkeeper:problem:database-unavailable"
            assert int(answer.headers["retry-after"]) >= 1
            assert problem["retryable"] is True
        crashable_postgres.start()
        until(lambda: ask(server, "POST", "", BACKFILL).status_code in {200, 201})
        with events(server, "update%20things") as followed:
            wait_for(followed, "end", state="done")
        assert things(url) == {1: ROWS}


def hold_creation(url):
    """From now on an operation is only created when `barrier` lets it."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "create function slow() returns trigger language plpgsql as $$ begin "
            "perform pg_advisory_xact_lock_shared(77); return new; end $$; "
            "create trigger slow before insert on poolkeeper.operations "
            "for each row execute function slow()"
        )


def prepare_tables(server, url):
    """Have the tables made, and creation held."""
    with events(server, create(server, {**BACKFILL, "name": "first"})["id"]) as followed:
        wait_for(followed, "end")
    hold_creation(url)


def test_a_creation_that_takes_too_long_is_in_doubt_and_may_be_sent_again(postgres):
    """502: whether it is there or not, the same request makes one of it."""
    make_things(postgres.url)
    with serve(postgres.url) as server:
        server.start()
        prepare_tables(server, postgres.url)
        with barrier(postgres.url):
            late = ask(server, "POST", "", BACKFILL, **{"x-timeout-ms": "300"})
        problem = late.json()
        assert (late.status_code, problem["outcome"]) == (502, "unknown")
        assert problem["type"] == "urn:poolkeeper:problem:operation-in-doubt"
        assert "took longer than 0.3 s" in problem["detail"]
        assert ask(server, "POST", "", BACKFILL).status_code in {200, 201}
        with events(server, "update%20things") as followed:
            wait_for(followed, "end", state="done")
        assert len(ask(server, "GET", "?all=true").json()["operations"]) == 2
        assert things(postgres.url) == {2: ROWS}


def test_a_creation_whose_connection_is_lost_for_good_is_in_doubt(crashable_postgres):
    """It was sent: that nothing was executed would be a guess."""
    url = crashable_postgres.dsn()
    make_things(url)
    with serve(url, env={"POOL_OUTAGE_PATIENCE": "0.2"}) as server, ThreadPoolExecutor() as clients:
        server.start()
        prepare_tables(server, url)
        # The barrier's own connection is lost, too.
        with contextlib.suppress(psycopg.OperationalError), barrier(url):
            sent = clients.submit(ask, server, "POST", "", BACKFILL)
            until(lambda: active(url, "insert into poolkeeper.operations"))
            crashable_postgres.crash()
            answer = sent.result()
        assert answer.status_code == 502, answer.text
        assert answer.json()["type"] == "urn:poolkeeper:problem:operation-in-doubt"
