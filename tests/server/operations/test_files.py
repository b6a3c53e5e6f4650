"""Operations of a server read and write files only where its operator said so."""

import json

import psycopg
import pytest

from tests.server.operations.asking import ask, create, events, serve, wait_for
from tests.server.processes import until


@pytest.fixture
def home(tmp_path):
    """A directory for operations, beside something that is nobody's business."""
    home = tmp_path / "operations"
    home.mkdir()
    (home / "people.csv").write_text("id,name\n1,Ann\n2,Ben\nx,Cyd\n")
    (tmp_path / "secret.csv").write_text("id,name\n9,Secret\n")
    (home / "link.csv").symlink_to(tmp_path / "secret.csv")
    (home / "up").symlink_to(tmp_path)
    return home


@pytest.fixture
def people(postgres):
    with psycopg.connect(postgres.url, autocommit=True) as conn:
        conn.execute("create table people (id int primary key, name text)")
    return postgres.url


def names(url):
    with psycopg.connect(url) as conn:
        return [name for (name,) in conn.execute("select name from people order by id")]


LOAD = {"kind": "load", "path": "people.csv", "into": "people", "on_bad_row": "reject"}


def test_without_a_directory_no_file_is_touched(people, home):
    """403 with advice, for what is asked for; and what is in the table is left to others."""
    with serve(people) as server:
        server.start()
        for body in (
            {**LOAD, "path": str(home / "people.csv")},
            {"kind": "export", "to": str(home / "out.csv"), "table": "people"},
        ):
            refused = ask(server, "POST", "", body)
            assert refused.status_code == 403
            assert refused.json()["type"] == "urn:poolkeeper:problem:forbidden"
            assert "--operations-dir" in refused.json()["detail"]
    assert ask_table(people) == []
    assert names(people) == []


def ask_table(url):
    with psycopg.connect(url) as conn:
        if conn.execute("select to_regclass('poolkeeper.operations')").fetchone()[0] is None:
            return []
        return conn.execute("select kind, state, error from poolkeeper.operations").fetchall()


def test_a_file_inside_is_loaded_and_its_bad_rows_can_be_read(people, home):
    """Its path is relative to the directory, or inside it."""
    with serve(people, f"--operations-dir={home}") as server:
        server.start()
        operation = create(server, LOAD)
        with events(server, operation["id"]) as followed:
            last = wait_for(followed, "end")
        assert (last["state"], last["rows_done"], last["rows_rejected"]) == ("done", 2, 1)
        assert names(people) == ["Ann", "Ben"]
        rejects = ask(server, "GET", f"/{operation['id']}/rejects").json()
        assert rejects["rows_rejected"] == 1
        [reject] = rejects["rejects"]
        assert (reject["line"], reject["sqlstate"], reject["truncated"]) == (4, "22P02", False)
        assert reject["raw"].strip() == "x,Cyd"
        same = ask(server, "POST", "", {**LOAD, "path": str(home / "people.csv")})
        assert (same.status_code, same.json()["id"]) == (200, operation["id"])


@pytest.mark.parametrize(
    "path",
    ["../secret.csv", "link.csv", "up/secret.csv", "/etc/passwd", "x/../../secret.csv", "."],
)
def test_no_path_leads_out_of_the_directory(served, path):
    """Not by .., by a link or by being absolute."""
    load = ask(served, "POST", "", {**LOAD, "path": path})
    export = ask(served, "POST", "", {"kind": "export", "to": path, "table": "people"})
    assert {load.status_code, export.status_code} == {403}, (load.text, export.text)
    assert ask(served, "GET", "?all=true").json() == {"operations": []}


@pytest.fixture
def served(people, home):
    with serve(people, f"--operations-dir={home}") as server:
        yield server.start()


def forge(url, kind, spec, cursor):
    """Put an operation into the table, as whoever may run SQL can."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "insert into poolkeeper.operations (id, name, kind, spec, cursor)"
            " values (gen_random_uuid(), %s, %s, %s, %s)",
            [f"forged {kind}", kind, json.dumps(spec), json.dumps(cursor)],
        )


def test_what_somebody_has_put_into_the_table_does_not_lead_out_either(people, home):
    """Whoever may run SQL can write there; paths are checked when an operation is taken up."""
    with serve(people, f"--operations-dir={home}") as server:
        server.start()
        good = create(server, LOAD)
        with events(server, good["id"]) as followed:
            wait_for(followed, "end")
        with psycopg.connect(people) as conn:
            query = "select spec, cursor, fingerprint from poolkeeper.operations"
            spec, _, _ = conn.execute(query).fetchone()
            start = conn.execute(
                "select cursor_from from poolkeeper.chunks order by seq limit 1"
            ).fetchone()[0]
        forge(people, "load", {**spec, "path": str(home / "link.csv")}, start)
        forged = until(lambda: [row for row in ask_table(people) if row[2]])
        assert [(kind, state) for kind, state, _ in forged] == [("load", "pending")]
        assert "not a file below the directory" in forged[0][2]
        assert names(people) == ["Ann", "Ben"]


@pytest.mark.parametrize(
    ("where", "value"),
    [("directory", "/tmp"), ("file", "../out.csv"), ("export", "/../../x"), (None, None)],
)
def test_no_forged_export_writes_elsewhere(served, people, home, where, value):
    """Directory, name of the file and checkpoint are all checked; a true one is done."""
    with psycopg.connect(people, autocommit=True) as conn:
        conn.execute("insert into people values (1, 'Ann')")
    first = create(served, {"kind": "export", "to": "first.csv", "table": "people"})
    with events(served, first["id"]) as followed:
        assert wait_for(followed, "end")["state"] == "done"
    assert (home / "first.csv").read_text().splitlines() == ["id,name", "1,Ann"]
    with psycopg.connect(people) as conn:
        spec = conn.execute("select spec from poolkeeper.operations").fetchone()[0]
        query = "select cursor_from from poolkeeper.chunks order by seq limit 1"
        cursor = conn.execute(query).fetchone()[0]
    spec["file"] = "second.csv"
    if where == "export":
        cursor["export"] = value
    elif where is not None:
        spec[where] = value
    forge(people, "export", spec, cursor)
    if where is None:
        until((home / "second.csv").exists)
        return
    [(_, state, error)] = until(lambda: [row for row in ask_table(people) if row[2] is not None])
    assert state == "pending"
    assert "not a file below the directory" in error
    assert sorted(path.name for path in home.glob("*.csv")) == [
        "first.csv",
        "link.csv",
        "people.csv",
    ]
    assert not (home.parent / "out.csv").exists()


def test_a_forged_operation_on_files_is_not_even_taken_up_without_a_directory(people):
    """Other operations are."""
    with serve(people) as server:
        server.start()
        first = create(server, {"kind": "backfill", "table": "people", "set": "name = upper(name)"})
        with events(server, first["id"]) as followed:
            wait_for(followed, "end")
        forge(people, "load", {"path": "/etc/passwd", "into": "people"}, {})
        second = create(
            server,
            {"kind": "backfill", "table": "people", "set": "name = 'x'"} | {"name": "second"},
        )
        with events(server, second["id"]) as followed:
            wait_for(followed, "end")
        found = {(kind, state, error) for kind, state, error in ask_table(people)}
        assert ("load", "pending", None) in found


def test_a_directory_that_is_none_is_told_at_the_start(postgres, tmp_path):
    """Not at the first load."""
    with serve(postgres.url, f"--operations-dir={tmp_path / 'nowhere'}") as server:
        code, said = server.end()
    assert code == 2
    assert "is no directory. Suggestion: make it (mkdir -p " in said
