"""What happens to operations, and to those who watch them, when something goes down."""

import os
import signal

import psycopg
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
from tests.server.processes import barrier, until


def make_noted(url):
    """A table that notes each change of a row, so that none can be undone by another."""
    make_things(url)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create table noted (id int)")
        conn.execute(
            "create function note() returns trigger language plpgsql as $$ begin "
            "insert into noted values (new.id); return null; end $$; "
            "create trigger note after update on things for each row execute function note()"
        )


def noted(url):
    """How many changes, and of how many rows."""
    with psycopg.connect(url) as conn:
        return conn.execute("select count(*), count(distinct id) from noted").fetchone()


def test_an_outage_is_told_waited_out_and_doubles_nothing(crashable_postgres):
    """The stream stays open: `waiting` with the reason, then progress, then the end."""
    url = crashable_postgres.dsn()
    make_noted(url)
    with serve(url) as server:
        server.start()
        operation = create(server, {**BACKFILL, "batch": 10, "pause": 0.02})
        with events(server, operation["id"]) as followed:
            before = wait_for(followed, state="running")
            crashable_postgres.crash()
            waiting = wait_for(followed, "waiting")
            assert waiting["waiting_for"]
            assert waiting["seq"] >= before["seq"]
            crashable_postgres.start()
            resumed = wait_for(followed, "progress", "end")
            assert resumed["waiting_for"] is None
            last = resumed if resumed["state"] == "done" else wait_for(followed, "end")
            assert (last["state"], last["rows_done"]) == ("done", ROWS)
            assert last["outages"] >= 1
        assert things(url) == {1: ROWS}
        assert noted(url) == (ROWS, ROWS)


def test_a_wait_for_somebody_elses_lock_is_told(postgres):
    """As the reason in the stream, and in what a GET says; then it goes on."""
    make_things(postgres.url)
    with serve(postgres.url) as server:
        server.start()
        with psycopg.connect(postgres.url) as conn:
            conn.execute("select from things where id = 1000 for update")
            operation = create(server, {**BACKFILL, "lock_timeout": 0.05})
            with events(server, operation["id"]) as followed:
                told = wait_for(followed, "waiting")
                assert "lock" in told["waiting_for"].lower()
                until(lambda: ask(server, "GET", f"/{operation['id']}").json()["waiting_for"])
                conn.rollback()
                assert wait_for(followed, "end")["state"] == "done"
        assert things(postgres.url) == {1: ROWS}


def test_a_server_that_goes_down_lays_its_operation_down_for_the_next(postgres):
    """SIGTERM commits the chunk at hand or undoes it; nobody has to wait for a lease."""
    make_noted(postgres.url)
    with serve(postgres.url) as server:
        server.start()
        operation = create(server, {**BACKFILL, "batch": 10, "pause": 0.05})
        with events(server, operation["id"]) as followed:
            while not wait_for(followed, state="running")["seq"]:
                pass
            server.signal(signal.SIGTERM)
            # It ends, with a reason and without an end.
            rest = list(followed)
        assert "end" not in {name for name, _, _ in rest}
        assert server.end()[0] == 0
    with psycopg.connect(postgres.url) as conn:
        query = "select state, owner, rows_done from poolkeeper.operations"
        [(state, owner, done)] = conn.execute(query).fetchall()
        assert (state, owner) == ("pending", None)
        assert 0 < done < ROWS
        assert conn.execute("select count(*) from noted").fetchone()[0] == done
    with serve(postgres.url, "--operations=1") as second:
        second.start()
        # Nobody has asked it for anything.
        until(lambda: things(postgres.url) == {1: ROWS})
        with events(second, operation["id"]) as followed:
            last = wait_for(followed, "end")
        assert (last["state"], last["epoch"]) == ("done", 2)
    assert noted(postgres.url) == (ROWS, ROWS)


def test_operations_are_laid_down_before_the_delay_of_a_drain_is_over(postgres):
    """Load balancers are waited for, and another server need not wait for them."""
    make_things(postgres.url)
    with (
        serve(postgres.url, "--drain-delay=3600") as server,
        serve(postgres.url, "--operations=1") as second,
    ):
        server.start()
        operation = create(server, {**BACKFILL, "batch": 10, "pause": 0.05})
        with events(server, operation["id"]) as followed:
            wait_for(followed, state="running")
        server.signal(signal.SIGTERM)
        server.wait_for("server_draining")
        second.start()
        with events(second, operation["id"]) as followed:
            last = wait_for(followed, "end")
        assert (last["state"], last["epoch"]) == ("done", 2)
        assert server.get("/livez").status_code == 200
    assert things(postgres.url) == {1: ROWS}


def test_a_chunk_that_takes_too_long_is_undone_when_the_server_goes_down(postgres):
    """Within the drain, and the operation is free at once."""
    make_things(postgres.url, held_from=501)
    with barrier(postgres.url), serve(postgres.url) as server:
        server.start()
        operation = create(server, {**BACKFILL, "lock_timeout": 3600})
        with events(server, operation["id"]) as followed:
            wait_for(followed, seq=5)
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0
        with psycopg.connect(postgres.url) as conn:
            query = "select state, seq from poolkeeper.operations"
            assert conn.execute(query).fetchall() == [("pending", 5)]
        assert things(postgres.url) == {0: ROWS - 500, 1: 500}


def test_a_server_told_to_carry_out_none_leaves_them_to_others(postgres):
    """It begins, shows and steers them."""
    make_things(postgres.url)
    with serve(postgres.url, "--operations=0") as idle, serve(postgres.url) as busy:
        idle.start()
        busy.start()
        operation = create(idle)
        assert idle.get("/status").json()["operations"]["working"] is False
        with events(idle, operation["id"]) as followed:
            wait_for(followed, state="pending")
            # The same request wakes the one that may work.
            assert ask(busy, "POST", "", BACKFILL).status_code == 200
            assert wait_for(followed, "end")["state"] == "done"
        assert things(postgres.url) == {1: ROWS}


@pytest.mark.slow
def test_of_several_processes_one_works_and_the_one_in_its_place_goes_on(postgres):
    """Whichever is asked; a worker in each would only ask the database in vain."""
    make_things(postgres.url, held_from=501)
    options = ("--processes=2", "--statement-timeout=0")
    with serve(postgres.url, *options) as server:
        server.url = server.wait_for("server_started")["urls"][0]

        def processes():
            found = server.get("/status").json()["processes"]
            return {one["process"]: one["answer"] for one in found if "answer" in one}

        with barrier(postgres.url):
            operation = create(server)
            until(lambda: any(one["operations"]["running"] for one in processes().values()))
            with events(server, operation["id"]) as followed:
                wait_for(followed, seq=5)
            found = processes()
            assert [found[number]["operations"]["working"] for number in (0, 1)] == [True, False]
            os.kill(found[0]["server"]["pid"], signal.SIGKILL)
        until(lambda: things(postgres.url) == {1: ROWS})
