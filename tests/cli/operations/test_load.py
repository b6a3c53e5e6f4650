"""``poolkeeper load`` comes to its end, whatever happens to it on the way."""

import gzip
import json
import os
import signal
import subprocess
import sys

import psycopg
import pytest

from tests.cli.operations.processes import (
    BACKGROUND,
    ROWS,
    Process,
    all_there_once,
    environment,
    held,
    make_orders,
    state,
    write_orders,
)


@pytest.fixture
def orders(tmp_path, postgres):
    make_orders(postgres.url)
    return write_orders(tmp_path / "orders.csv")


def load(url, file, *options, **more):
    return Process(url, "load", str(file), "--into", "orders", *options, **more)


def test_every_row_is_loaded_and_the_end_is_one_line(postgres, orders) -> None:
    with load(postgres.url, orders) as process:
        code, out, err = process.end()
    assert code == 0, err
    assert all_there_once(postgres.url)
    [line] = out.splitlines()
    assert line.startswith(f"orders.csv into orders: {ROWS:,} rows, in ")
    assert "rows/s" in line


def test_the_same_command_after_the_end_does_nothing_and_says_so(postgres, orders) -> None:
    """Doing it again must be asked for."""
    with load(postgres.url, orders) as process:
        assert process.end()[0] == 0
    with load(postgres.url, orders) as process:
        code, out, _ = process.end()
    assert code == 0
    assert f"{ROWS:,} rows; nothing to do. --again does it once more" in out
    assert all_there_once(postgres.url)


def test_json_is_the_final_status_and_nothing_else(postgres, orders) -> None:
    with load(postgres.url, orders, "--json", "--quiet") as process:
        code, out, err = process.end()
    status = json.loads(out)
    assert (code, err) == (0, "")
    assert (status["state"], status["rows_done"]) == ("done", ROWS)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lays_it_down_and_the_same_command_goes_on(
    postgres, orders, number, exit_code
) -> None:
    """After the present chunk, whose work is not lost."""
    with held(postgres.url) as hold, load(postgres.url, orders) as process:
        hold.wait_until_reached(process)
        before = state(postgres.url)[1]
        process.signal(number)
        process.wait_for("stopping after the present chunk")
        hold.release()
        code, out, err = process.end()
    assert (code, out) == (exit_code, "")
    assert f"poolkeeper load {orders} --into orders" in err
    now, rows = state(postgres.url)
    assert now == "pending"
    assert before < rows < ROWS
    with load(postgres.url, orders) as process:
        code, _, err = process.end()
    assert code == 0
    assert f"resuming at {rows:,} rows" in err
    assert all_there_once(postgres.url)


def test_the_second_signal_ends_it_at_once_and_nothing_is_lost(postgres, orders) -> None:
    """Although its session still hangs in the middle of a chunk."""
    with held(postgres.url) as hold:
        with load(postgres.url, orders) as process:
            session = hold.wait_until_reached(process)
            process.signal()
            process.wait_for("once more stops at once")
            process.signal()
            assert process.end()[0] == -signal.SIGINT
        with load(postgres.url, orders) as process:
            hold.wait_until_reached(process, besides=[session])
            hold.release()
            assert process.end()[0] == 0
    assert all_there_once(postgres.url)


def test_the_same_command_goes_on_after_kill_9(postgres, orders) -> None:
    """At once: nobody waits for the lease of a process that is gone."""
    with held(postgres.url) as hold:
        with load(postgres.url, orders, "--lease", "3600") as process:
            session = hold.wait_until_reached(process)
            process.kill()
        with load(postgres.url, orders, "--lease", "3600") as process:
            hold.wait_until_reached(process, besides=[session])
            hold.release()
            code, _, err = process.end()
    assert code == 0
    assert "taken over at" in err or "resuming at" in err
    assert all_there_once(postgres.url)


def test_a_second_process_follows_the_first_and_takes_over_when_it_dies(postgres, orders) -> None:
    with held(postgres.url) as hold, load(postgres.url, orders) as first:
        session = hold.wait_until_reached(first)
        with load(postgres.url, orders) as second:
            assert f":{first.pid} works on it" in second.wait_for("following")
            first.kill()
            second.wait_for("taken over at")
            hold.wait_until_reached(second, besides=[session])
            hold.release()
            assert second.end()[0] == 0
    assert all_there_once(postgres.url)


def test_a_follower_that_is_interrupted_leaves_the_work_to_the_first(postgres, orders) -> None:
    with held(postgres.url) as hold, load(postgres.url, orders) as first:
        hold.wait_until_reached(first)
        with load(postgres.url, orders) as second:
            second.wait_for("following")
            second.signal()
            code, _, err = second.end()
        assert code == 130
        assert f":{first.pid} has it" in err
        assert state(postgres.url)[0] == "running"
        hold.release()
        assert first.end()[0] == 0
    assert all_there_once(postgres.url)


def test_a_crash_of_the_database_is_ridden_out(crashable_postgres, tmp_path) -> None:
    """It says what it waits for, and where it goes on."""
    url = crashable_postgres.dsn("postgres")
    make_orders(url)
    orders = write_orders(tmp_path / "orders.csv")
    with held(url) as hold, load(url, orders) as process:
        hold.wait_until_reached(process)
        crashable_postgres.crash()
        process.wait_for("waiting: ")
        crashable_postgres.start()
        code, out, err = process.end()
    assert code == 0, err
    assert "goes on at" in err
    assert "outage" in out
    assert all_there_once(url)


def test_ctrl_c_in_an_outage_ends_it_although_nobody_answers(crashable_postgres, tmp_path) -> None:
    """The same command goes on when the database is back."""
    url = crashable_postgres.dsn("postgres")
    make_orders(url)
    orders = write_orders(tmp_path / "orders.csv")
    with held(url) as hold, load(url, orders, POOL_OUTAGE_PATIENCE="3600") as process:
        hold.wait_until_reached(process)
        crashable_postgres.crash()
        process.wait_for("waiting: ")
        process.signal()
        code, _, err = process.end()
    assert code == 130
    assert "laid down after" in err
    crashable_postgres.start()
    with load(url, orders) as process:
        assert process.end()[0] == 0
    assert all_there_once(url)


def test_patience_with_the_database_can_be_bounded(crashable_postgres, tmp_path) -> None:
    """Then it ends with a failure, in the pool's words, and can be gone on with."""
    url = crashable_postgres.dsn("postgres")
    make_orders(url)
    orders = write_orders(tmp_path / "orders.csv")
    options = ("--give-up-after", "0")
    with held(url) as hold, load(url, orders, *options, POOL_OUTAGE_PATIENCE="1") as process:
        hold.wait_until_reached(process)
        crashable_postgres.crash()
        code, _, err = process.end()
    assert code == 1
    assert "has been unreachable for" in err
    assert "The database URL is from DATABASE_URL" in err
    crashable_postgres.start()
    with load(url, orders) as process:
        assert process.end()[0] == 0
    assert all_there_once(url)


# Standard input -------------------------------------------------------------------------------


def spooled(tmp_path):
    return [path for path in tmp_path.rglob("*.spool") if path.is_file()]


def test_standard_input_is_kept_until_it_is_loaded(postgres, orders, tmp_path) -> None:
    where = {"XDG_STATE_HOME": str(tmp_path)}
    with orders.open() as stdin, load(postgres.url, "-", stdin=stdin, **where) as process:
        code, out, _ = process.end()
    assert code == 0
    assert out.startswith(f"stdin into orders: {ROWS:,} rows")
    assert all_there_once(postgres.url)
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("again", ["the same bytes", "operations run"])
def test_interrupted_standard_input_can_be_gone_on_with(postgres, orders, tmp_path, again) -> None:
    """By piping the same bytes again, or without them."""
    where = {"XDG_STATE_HOME": str(tmp_path)}
    with (
        held(postgres.url) as hold,
        orders.open() as stdin,
        load(postgres.url, "-", stdin=stdin, **where) as process,
    ):
        hold.wait_until_reached(process)
        process.signal()
        process.wait_for("stopping")
        hold.release()
        code, _, err = process.end()
    assert code == 130
    assert "poolkeeper operations run 'stdin into orders'" in err
    assert len(spooled(tmp_path)) == 1
    if again == "operations run":
        with Process(postgres.url, "operations", "run", "stdin into orders", **where) as process:
            assert process.end()[0] == 0
    else:
        with orders.open() as stdin, load(postgres.url, "-", stdin=stdin, **where) as process:
            assert process.end()[0] == 0
    assert all_there_once(postgres.url)
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("file", ["orders.csv", "orders.csv.gz"])
def test_same_bytes_through_a_pipe_are_loaded_once(postgres, orders, tmp_path, file) -> None:
    """As a file that has been loaded; what they hold decides, and --again does it once more."""
    if file.endswith(".gz"):
        (tmp_path / file).write_bytes(gzip.compress(orders.read_bytes(), 1))
    where = {"XDG_STATE_HOME": str(tmp_path)}
    for expected in (f"{ROWS:,} rows, in ", "nothing to do. --again does it once more"):
        with (tmp_path / file).open("rb") as stdin:
            process = load(postgres.url, "-", stdin=stdin, **where)
        with process:
            code, out, err = process.end()
        assert code == 0, err
        assert expected in out
        assert all_there_once(postgres.url)
        assert spooled(tmp_path) == []
    with (tmp_path / file).open("rb") as stdin:
        process = load(postgres.url, "-", "--again", stdin=stdin, **where)
    with process:
        assert process.end()[0] == 0
    assert not all_there_once(postgres.url)
    assert spooled(tmp_path) == []


def test_other_bytes_after_the_end_are_loaded(postgres, orders, tmp_path) -> None:
    where = {"XDG_STATE_HOME": str(tmp_path)}
    other = write_orders(tmp_path / "other.csv", rows=3)
    for path in (orders, other):
        with path.open() as stdin, load(postgres.url, "-", stdin=stdin, **where) as process:
            assert process.end()[0] == 0
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("select count(*) from orders").fetchone() == (ROWS + 3,)


def test_killed_load_of_a_pipe_goes_on_when_the_same_comes_again(
    postgres, orders, tmp_path
) -> None:
    """Every row once, and nothing is kept afterwards."""
    where = {"XDG_STATE_HOME": str(tmp_path)}
    with (
        held(postgres.url) as hold,
        orders.open() as stdin,
        load(postgres.url, "-", "--lease", "2", stdin=stdin, **where) as process,
    ):
        hold.wait_until_reached(process)
        process.kill()
    assert len(spooled(tmp_path)) == 1
    with orders.open() as stdin, load(postgres.url, "-", stdin=stdin, **where) as process:
        code, out, err = process.end()
    assert code == 0, err
    assert "of them in this run" in out
    assert all_there_once(postgres.url)
    assert spooled(tmp_path) == []


def test_nothing_is_kept_of_what_cannot_be_loaded(postgres, orders, tmp_path) -> None:
    """No operation needs it; one that is there already keeps its own."""
    where = {"XDG_STATE_HOME": str(tmp_path)}
    with (
        orders.open() as stdin,
        load(postgres.url, "-", "--detach", stdin=stdin, **where) as process,
    ):
        assert process.end()[0] == 0
    [before] = spooled(tmp_path)
    for arguments in (("--name", "other", "--map", "none=id"), ("--delimiter", ";")):
        with orders.open() as stdin, load(postgres.url, "-", *arguments, stdin=stdin, **where) as p:
            assert p.end()[0] == 1
        assert spooled(tmp_path) == [before]


@pytest.mark.parametrize(
    ("number", "code", "within"),
    [
        (signal.SIGTERM, 143, ()),
        (signal.SIGINT, 130, ()),
        (signal.SIGINT, 130, BACKGROUND),
        (signal.SIGHUP, 129, ()),
    ],
)
def test_nothing_is_kept_of_a_pipe_that_was_interrupted(
    postgres, tmp_path, number, code, within
) -> None:
    """Half of it cannot be loaded."""
    read, write = os.pipe()
    directory = tmp_path / "poolkeeper" / "spool"
    try:
        with load(
            postgres.url, "-", stdin=read, within=within, XDG_STATE_HOME=str(tmp_path)
        ) as process:
            while not list(directory.glob(".incomplete-*")):
                assert process.process.poll() is None
            process.signal(number)
            assert process.end()[0] == code
    finally:
        os.close(read)
        os.close(write)
    assert list(directory.glob(".incomplete-*")) == []


def test_other_bytes_are_not_taken_for_the_rest_of_the_first(postgres, orders, tmp_path) -> None:
    where = {"XDG_STATE_HOME": str(tmp_path)}
    with (
        orders.open() as stdin,
        load(postgres.url, "-", "--detach", stdin=stdin, **where) as process,
    ):
        assert process.end()[0] == 0
    other = write_orders(tmp_path / "other.csv", rows=3)
    with other.open() as stdin, load(postgres.url, "-", stdin=stdin, **where) as process:
        code, _, err = process.end()
    assert code == 1
    assert "is of other input than what came now" in err
    assert "poolkeeper operations cancel 'stdin into orders'" in err
    assert len(spooled(tmp_path)) == 1


# Rejected rows --------------------------------------------------------------------------------


def test_rejected_rows_are_told_and_shown(postgres, tmp_path) -> None:
    """The exit code is 0: that was asked for."""
    make_orders(postgres.url)
    orders = tmp_path / "orders.csv"
    orders.write_text("id,note\n1,one\nx\x1b[31m,two\n3,three\n", encoding="utf-8")
    with load(postgres.url, orders, "--on-bad-row", "reject") as process:
        code, out, err = process.end()
    assert code == 0
    assert "2 rows, 1 row rejected" in out
    assert "poolkeeper operations rejects 'orders.csv into orders'" in err
    name = "orders.csv into orders"
    with Process(postgres.url, "operations", "rejects", name) as process:
        code, out, _ = process.end()
    assert code == 0
    assert "line 3: " in out
    assert "22P02" in out
    assert "\x1b" not in out
    target = tmp_path / "rejects.csv"
    with Process(postgres.url, "operations", "rejects", name, "--csv", str(target)) as process:
        assert process.end()[0] == 0
    [header, row] = target.read_text(encoding="utf-8").splitlines()
    assert header == "line,raw,sqlstate,message"
    assert row.startswith('3,"x\x1b[31m,two",22P02,')


def test_a_bad_row_fails_with_its_place_and_without_a_traceback(postgres, tmp_path) -> None:
    make_orders(postgres.url)
    orders = tmp_path / "orders.csv"
    orders.write_text("id,note\n1,one\nx,two\n", encoding="utf-8")
    with load(postgres.url, orders) as process:
        code, out, err = process.end()
    assert (code, out) == (1, "")
    assert "line 3" in err
    assert "Suggestion: " in err
    assert "Traceback" not in err


def test_a_pipe_of_commands_works_as_one(postgres, orders, tmp_path) -> None:
    """As in `psql … | poolkeeper load -`."""
    done = subprocess.run(
        f"tail -n +2 {orders} | head -n 1000 | {sys.executable} -m poolkeeper"
        " load - --into orders --no-header --columns id,note --quiet",
        shell=True,
        env=environment(postgres.url, XDG_STATE_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("select count(*) from orders").fetchone() == (1000,)


def test_rows_whose_key_was_there_are_counted_at_the_end(postgres, orders) -> None:
    """They are neither loaded nor refused."""
    make = "alter table orders add primary key (id); insert into orders values (7), (9)"
    postgres.server.psql(make, database=postgres.name)
    with load(postgres.url, orders, "--on-conflict", "nothing") as process:
        code, out, err = process.end()
    assert code == 0, err
    assert f"{ROWS - 2:,} rows, 2 rows left out as their key was there already, in " in out
