"""``poolkeeper operations`` controls work that another process does."""

import json

import pytest

from tests.cli.commands import poolkeeper
from tests.cli.operations.processes import (
    ROWS,
    Process,
    all_there_once,
    held,
    make_orders,
    state,
    write_orders,
)

NAME = "orders.csv into orders"


@pytest.fixture
def orders(tmp_path, postgres):
    make_orders(postgres.url)
    return write_orders(tmp_path / "orders.csv")


@pytest.fixture
def operations(postgres):
    """Runs `poolkeeper operations …` to its end."""

    def run(*arguments):
        return poolkeeper("operations", *arguments, env={"DATABASE_URL": postgres.url})

    return run


def load(postgres, orders, *options):
    return Process(postgres.url, "load", str(orders), "--into", "orders", *options)


def test_a_detached_load_waits_for_a_worker(postgres, orders, operations) -> None:
    """It may be seen meanwhile, and is done by whoever comes."""
    with load(postgres, orders, "--detach") as process:
        code, out, _ = process.end()
    assert code == 0
    assert "`poolkeeper worker`" in out
    assert state(postgres.url) == ("pending", 0)
    assert NAME in operations("list").stdout
    with Process(postgres.url, "worker", "--until-idle") as worker:
        code, out, err = worker.end()
    assert (code, out) == (0, "")
    assert f"{NAME}: begins at 0 rows" in err
    assert f"{NAME}: done at {ROWS:,} rows" in err
    assert all_there_once(postgres.url)
    assert NAME not in operations("list").stdout
    assert NAME in operations("list", "--all").stdout


def test_a_paused_operation_stops_its_process_and_goes_on_when_resumed(
    postgres, orders, operations
) -> None:
    """The process ends with 1: it has not done what it was asked for."""
    with held(postgres.url) as hold, load(postgres, orders) as process:
        hold.wait_until_reached(process)
        done = operations("pause", NAME)
        assert done.returncode == 0, done.stderr
        assert "poolkeeper operations resume 'orders.csv into orders'" in done.stdout
        hold.release()
        code, _, err = process.end()
    assert code == 1
    assert "Somebody has paused the operation" in err
    assert "Traceback" not in err
    assert state(postgres.url)[0] == "paused"
    with Process(postgres.url, "worker", "--until-idle") as worker:
        assert worker.end()[0] == 0
    assert state(postgres.url)[0] == "paused"
    done = operations("resume", NAME)
    assert done.returncode == 0
    assert "waits for a worker" in done.stdout
    with Process(postgres.url, "worker", "--until-idle") as worker:
        assert worker.end()[0] == 0
    assert all_there_once(postgres.url)


def test_a_cancelled_operation_stays_as_it_is(postgres, orders, operations) -> None:
    """What was committed stays; nobody goes on with it."""
    with held(postgres.url) as hold, load(postgres, orders) as process:
        hold.wait_until_reached(process)
        assert operations("cancel", NAME).returncode == 0
        hold.release()
        code, _, err = process.end()
    assert code == 1
    assert "Somebody has cancelled the operation" in err
    done = operations("run", NAME)
    assert done.returncode == 1
    assert "cancelled" in done.stderr
    done = operations("prune", "--older-than", "1")
    assert (done.returncode, done.stdout) == (0, "0 operations deleted\n")
    done = operations("delete", NAME)
    assert done.returncode == 0
    assert operations("show", NAME).returncode == 1


def test_a_failed_operation_goes_on_where_it_stopped_when_retried(
    postgres, tmp_path, operations
) -> None:
    make_orders(postgres.url)
    orders = write_orders(tmp_path / "orders.csv")
    guard = "alter table orders add constraint guard check (id <> 100000)"
    postgres.server.psql(guard, database=postgres.name)
    with load(postgres, orders) as process:
        code, _, err = process.end()
    assert code == 1
    assert "the same command goes on there" in err
    assert "Traceback" not in err
    now, rows = state(postgres.url)
    assert now == "failed"
    assert rows > 0
    assert operations("resume", NAME).returncode == 1
    postgres.server.psql("alter table orders drop constraint guard", database=postgres.name)
    assert operations("retry", NAME).returncode == 0
    done = operations("run", NAME)
    assert done.returncode == 0, done.stderr
    assert f"resuming at {rows:,} rows" in done.stderr
    assert all_there_once(postgres.url)


def test_json_is_for_programs(postgres, orders, operations) -> None:
    """The same fields whatever shows them."""
    with load(postgres, orders, "--detach", "--json") as process:
        created = json.loads(process.end()[1])
    [listed] = json.loads(operations("list", "--json").stdout)
    shown = json.loads(operations("show", NAME, "--json").stdout)
    paused = json.loads(operations("pause", NAME, "--json").stdout)
    assert created["id"] == listed["id"] == shown["id"] == paused["id"]
    assert created.keys() == listed.keys() == shown.keys()
    assert (shown["state"], paused["state"]) == ("pending", "paused")
    # an id does for a name
    assert operations("show", created["id"]).returncode == 0


def test_show_tells_who_has_it_and_how_far_it_is(postgres, orders, operations) -> None:
    with held(postgres.url) as hold, load(postgres, orders) as process:
        hold.wait_until_reached(process)
        out = operations("show", NAME).stdout
        shown = {line[:11].strip(): line[11:].strip() for line in out.splitlines()}
        hold.release()
        assert process.end()[0] == 0
    assert shown["state"] == "running"
    assert shown["worker"].endswith(f":{process.pid}")
    assert shown["lease"].endswith(" left")
    assert int(shown["chunks"]) > 0
    assert shown["path"] == str(orders)


def test_watch_ends_with_the_operation_and_as_it_did(postgres, orders, operations) -> None:
    """Whoever works on it."""
    with held(postgres.url) as hold, load(postgres, orders) as process:
        hold.wait_until_reached(process)
        with Process(postgres.url, "operations", "watch", NAME) as watching:
            watching.wait_for(f":{process.pid} works on it")
            hold.release()
            code, out, _ = watching.end()
        assert process.end()[0] == 0
    assert code == 0
    assert f"done, {ROWS:,} rows" in out


def test_ctrl_c_ends_the_watching_and_not_the_work(postgres, orders) -> None:
    with held(postgres.url) as hold, load(postgres, orders) as process:
        hold.wait_until_reached(process)
        with Process(postgres.url, "operations", "watch", NAME) as watching:
            watching.wait_for("works on it")
            watching.signal()
            assert watching.end()[0] == 130
        hold.release()
        assert process.end()[0] == 0
    assert all_there_once(postgres.url)


def test_watching_what_fails_ends_with_the_reason(postgres, tmp_path) -> None:
    """And with exit code 1, for scripts that wait."""
    make_orders(postgres.url)
    orders = tmp_path / "orders.csv"
    orders.write_text("id,note\nx,one\n", encoding="utf-8")
    with load(postgres, orders, "--detach") as process:
        assert process.end()[0] == 0
    with Process(postgres.url, "operations", "watch", NAME) as watching:
        watching.wait_for("waiting: no worker has it")
        with Process(postgres.url, "worker", "--until-idle") as worker:
            assert worker.end()[0] == 0
        code, out, err = watching.end()
    assert (code, out) == (1, "")
    assert f"{NAME}: failed: " in err
    assert "line 2" in err


def test_nothing_is_made_by_looking(postgres, operations) -> None:
    """Where there never was an operation, there are no tables of operations either."""
    done = operations("list")
    assert done.returncode == 0
    assert "There is no unfinished operation" in done.stdout
    assert json.loads(operations("list", "--json").stdout) == []
    schemas = "select count(*) from pg_namespace where nspname = 'poolkeeper'"
    assert postgres.server.psql(schemas, database=postgres.name) == "0"


def test_an_unknown_name_is_an_error_that_says_where_to_look(operations) -> None:
    done = operations("show", "nothing of that name")
    assert done.returncode == 1
    assert "`poolkeeper operations list --all`" in done.stderr


def test_a_list_in_a_pipe_is_one_plain_line_each(postgres, orders, operations) -> None:
    """With when it was created, and nothing to fill the width."""
    with load(postgres, orders, "--detach") as process:
        assert process.end()[0] == 0
    head, line = operations("list").stdout.splitlines()
    assert head.split() == ["name", "kind", "state", "rows", "done", "age", "worker", "error"]
    assert line.endswith(" s")


def test_help_of_what_shows_an_operation_does_not_speak_of_its_end(operations) -> None:
    for name in ("show", "pause", "resume", "retry", "cancel"):
        assert "Print it as a JSON object" in operations(name, "--help").stdout
