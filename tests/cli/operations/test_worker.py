"""``poolkeeper worker`` does what waits, and can be stopped at any time."""

import signal

import psycopg
import pytest

from poolkeeper import create_pool
from tests.cli.commands import poolkeeper
from tests.cli.operations.processes import (
    Process,
    all_there_once,
    held,
    make_orders,
    state,
    write_orders,
)

STEPS = """
from poolkeeper.operations import Step, custom

@custom("count up")
async def count_up(connection, cursor, to):
    number = cursor or 0
    await connection.execute("insert into orders values ($1)", number)
    return Step(number + 1, rows=1, done=number + 1 >= to)
"""


@pytest.fixture
def waiting(postgres, tmp_path):
    """A load that waits for a worker; gives its file."""
    make_orders(postgres.url)
    orders = write_orders(tmp_path / "orders.csv")
    options = ("load", str(orders), "--into", "orders", "--detach")
    assert poolkeeper(*options, env={"DATABASE_URL": postgres.url}).returncode == 0
    return orders


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_is_asked_to_stop_lays_its_work_down(postgres, waiting, number) -> None:
    """It has done what was asked of it: exit code 0."""
    with held(postgres.url) as hold, Process(postgres.url, "worker") as worker:
        hold.wait_until_reached(worker)
        worker.signal(number)
        worker.wait_for("stopping after the present chunks")
        hold.release()
        code, _, err = worker.end()
    assert code == 0
    assert "orders.csv into orders: laid down at" in err
    assert state(postgres.url)[0] == "pending"
    with Process(postgres.url, "worker", "--until-idle") as worker:
        assert worker.end()[0] == 0
    assert all_there_once(postgres.url)


def test_a_worker_takes_over_from_one_that_was_killed(postgres, waiting) -> None:
    with held(postgres.url) as hold, Process(postgres.url, "worker") as first:
        session = hold.wait_until_reached(first)
        with Process(postgres.url, "worker") as second:
            second.wait_for("working at")
            first.kill()
            assert "takes over at" in second.wait_for("orders.csv into orders")
            hold.wait_until_reached(second, besides=[session])
            hold.release()
            second.wait_for("orders.csv into orders: done")
    assert all_there_once(postgres.url)


def test_a_worker_survives_the_database(crashable_postgres, tmp_path) -> None:
    """And may be started before it."""
    url = crashable_postgres.dsn("postgres")
    make_orders(url)
    orders = write_orders(tmp_path / "orders.csv")
    options = ("load", str(orders), "--into", "orders", "--detach")
    assert poolkeeper(*options, env={"DATABASE_URL": url}).returncode == 0
    crashable_postgres.crash()
    with Process(url, "worker", POOL_OUTAGE_PATIENCE="1") as worker:
        worker.wait_for("the database is away")
        crashable_postgres.start()
        worker.wait_for("orders.csv into orders: done")
    assert all_there_once(url)


@pytest.mark.asyncio
async def test_steps_of_ones_own_come_from_a_module(postgres, tmp_path) -> None:
    """Of the directory the worker is started in; one that lacks them leaves the work alone."""
    make_orders(postgres.url)
    (tmp_path / "steps.py").write_text(STEPS, encoding="utf-8")
    async with create_pool(postgres.url) as pool:
        await pool.operations.start("count up", to=5)
    with Process(postgres.url, "worker", "--until-idle") as worker:
        code, _, err = worker.end()
    assert code == 0
    assert "This process has no step 'count up'" in err
    assert "1 operation still waits for a worker that can do what this one cannot" in err
    assert "nothing is left to do" not in err
    assert state(postgres.url, "count up") == ("pending", 0)
    options = ("worker", "--import", "steps", "--until-idle")
    with Process(postgres.url, *options, cwd=tmp_path) as worker:
        code, _, err = worker.end()
    assert code == 0
    assert "nothing is left to do" in err
    assert state(postgres.url, "count up") == ("done", 5)
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("select count(*) from orders").fetchone() == (5,)


def test_files_can_be_confined_to_a_directory(postgres, waiting, tmp_path) -> None:
    """Whoever may write to the database does not choose what is read on this machine."""
    inside = tmp_path / "inside"
    inside.mkdir()
    options = ("worker", "--until-idle", "--files-below", str(inside))
    with Process(postgres.url, *options) as worker:
        code, _, err = worker.end()
    assert code == 0
    assert str(waiting) in err
    assert state(postgres.url) == ("pending", 0)


def test_a_module_that_is_not_there_is_a_wrong_call(postgres) -> None:
    done = poolkeeper("worker", "--import", "no.such", env={"DATABASE_URL": postgres.url})
    assert done.returncode == 2
    assert "There is no module 'no.such' to import" in done.stderr


def test_a_wrong_password_ends_a_worker(postgres) -> None:
    """Waiting would not mend it."""
    url = postgres.url.replace(postgres.server.password, "wrong-password")
    done = poolkeeper("worker", env={"DATABASE_URL": url})
    assert done.returncode == 1
    assert "password authentication failed" in done.stderr
    assert "wrong-password" not in done.stderr
    assert "Traceback" not in done.stderr
