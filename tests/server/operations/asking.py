"""Requests about operations, and tables that keep them busy."""

import contextlib
import json

import psycopg

from tests.server.processes import ServerProcess

ROWS = 2_000
BACKFILL = {"kind": "backfill", "table": "things", "set": "n = n + 1", "batch": 100}


def serve(url, *options, **more):
    """A server on a database with a table of things."""
    return ServerProcess("--port=0", "--max-size=2", *options, database_url=url, **more)


def make_things(url, *, held_from=None):
    """A table; changing its rows from ``held_from`` on waits for what `barrier` holds."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create table things (id int primary key, n int not null default 0)")
        conn.execute("insert into things select generate_series(1, %s)", [ROWS])
        if held_from is not None:
            conn.execute(
                "create function hold() returns trigger language plpgsql as $$ begin "
                f"if new.id >= {held_from} then perform pg_advisory_xact_lock_shared(77); end if; "
                "return new; end $$; "
                "create trigger hold before update on things for each row execute function hold()"
            )


def things(url):
    """How many rows there are with each number."""
    with psycopg.connect(url) as conn:
        return dict(conn.execute("select n, count(*) from things group by n").fetchall())


def ask(server, method, path="", body=None, **headers):
    """A request below `/v1/operations`."""
    content = None if body is None else json.dumps(body).encode()
    return server.client.request(
        method, f"{server.url}/v1/operations{path}", content=content, headers=headers
    )


def create(server, body=BACKFILL, **headers):
    """Create an operation; its document."""
    answer = ask(server, "POST", "", body, **headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


@contextlib.contextmanager
def events(server, key, **headers):
    """The events of an operation, as (name, id, document)."""
    url = f"{server.url}/v1/operations/{key}/events"
    with server.client.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        yield _events(answer)


def _events(answer):
    fields = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])
        fields = {}


def wait_for(followed, *names, **facts):
    """The document of the next event with one of these names and all of these facts."""
    for name, _, document in followed:
        if (not names or name in names) and facts.items() <= document.items():
            return document
        assert name != "end", document
    raise AssertionError("the stream ended without an end")
