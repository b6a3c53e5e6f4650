"""Wrong calls are told apart from a world that is to blame, and no password is ever shown."""

import pytest

from tests.cli.commands import poolkeeper
from tests.cli.operations.processes import ROWS, Process, held, make_orders, write_orders

WRONG = [
    ((), "No database URL"),
    (("--database-url", "shop"), "is not a URL"),
    (("--map", "name"), "is not of the form NAME=VALUE"),
    (("--set", "a=1", "--set", "a=2"), "names 'a' twice"),
    (("--columns", "a,,b"), "has an empty name in it"),
    (("--format", "xml"), "xml"),
    (("--max-rejects", "-1"), "--max-rejects"),
]


@pytest.mark.parametrize(("options", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_load_exits_with_2_and_says_why(options, said) -> None:
    done = poolkeeper("load", "orders.csv", "--into", "orders", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("backfill", "users"), "either --set or --delete"),
        (("backfill", "users", "--set", "a = 1", "--delete"), "not both"),
        (("backfill", "users", "--delete", "--sweep"), "--sweep needs --where"),
        (("export", "--to", "x.csv"), "either a table or --query"),
        (("export", "users", "--query", "select 1", "--to", "x.csv"), "either a table or --query"),
        (("operations", "show", "x"), "No database URL"),
        (("worker",), "No database URL"),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_wrong_calls_of_the_others(arguments, said) -> None:
    done = poolkeeper(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_database_that_cannot_be_reached_is_told_in_the_pools_words(postgres, tmp_path) -> None:
    """With where its URL is from, and without its password."""
    orders = write_orders(tmp_path / "orders.csv", rows=3)
    server = postgres.server
    url = f"postgresql://app:s3cret-word@{server.host}:1/shop"
    arguments = ("load", str(orders), "--into", "orders")
    env = {"POOL_OUTAGE_PATIENCE": "0.5"}
    for options, given, source in (
        ((), {"DATABASE_URL": url}, "DATABASE_URL"),
        (("--database-url", url), {}, "--database-url"),
    ):
        done = poolkeeper(*arguments, *options, env={**env, **given})
        assert done.returncode == 1
        assert "has been unreachable for" in done.stderr
        assert f"The database URL is from {source}" in done.stderr
        assert "s3cret-word" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


def test_the_way_to_go_on_does_not_show_the_password(postgres, tmp_path) -> None:
    """Although it was on the command line."""
    make_orders(postgres.url)
    orders = write_orders(tmp_path / "orders.csv")
    options = ("load", str(orders), "--into", "orders", "--database-url", postgres.url)
    with held(postgres.url) as hold, Process(None, *options) as process:
        hold.wait_until_reached(process)
        process.signal()
        process.wait_for("stopping")
        hold.release()
        code, _, err = process.end()
    assert code == 130
    assert "***" in err
    assert postgres.server.password not in err


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+asyncpg", "postgres"])
def test_a_url_for_any_driver_will_do(postgres, tmp_path, scheme) -> None:
    make_orders(postgres.url)
    orders = write_orders(tmp_path / "orders.csv", rows=3)
    url = postgres.url.replace("postgresql", scheme, 1)
    done = poolkeeper("load", str(orders), "--into", "orders", env={"DATABASE_URL": url})
    assert done.returncode == 0, done.stderr


def test_what_is_missing_is_an_error_with_advice(postgres, tmp_path) -> None:
    """A file, a table: exit code 1."""
    orders = write_orders(tmp_path / "orders.csv", rows=3)
    env = {"DATABASE_URL": postgres.url}
    for file, table in ((orders, "no_such_table"), (tmp_path / "no such.csv", "orders")):
        done = poolkeeper("load", str(file), "--into", table, env=env)
        assert done.returncode == 1
        assert "Suggestion: " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture
def filled(postgres):
    """The table with a key and with rows in it."""
    make_orders(postgres.url)
    postgres.server.psql(
        f"insert into orders select n, 'x' from generate_series(0, {ROWS - 1}) n;"
        "alter table orders add primary key (id)",
        database=postgres.name,
    )
    return postgres


def test_a_backfill_has_the_same_faces(filled) -> None:
    """It is interrupted, and goes on with the same command."""
    options = ("backfill", "orders", "--set", "note = 'y'")
    with held(filled.url) as hold, Process(filled.url, *options) as process:
        hold.wait_until_reached(process)
        process.signal()
        process.wait_for("stopping")
        hold.release()
        assert process.end()[0] == 130
    with Process(filled.url, *options) as process:
        code, out, err = process.end()
    assert code == 0, err
    assert out.startswith(f"update orders: {ROWS:,} rows")
    changed = "select count(*) from orders where note = 'y'"
    assert filled.server.psql(changed, database=filled.name) == str(ROWS)


def test_an_export_has_the_same_faces(filled, tmp_path) -> None:
    target = tmp_path / "orders.csv"
    with Process(filled.url, "export", "orders", "--to", str(target)) as process:
        code, out, err = process.end()
    assert code == 0, err
    assert out.startswith(f"orders to orders.csv: {ROWS:,} rows")
    lines = target.read_text(encoding="utf-8").splitlines()
    assert lines == ["id,note", *(f"{n},x" for n in range(ROWS))]


def test_a_backfill_that_fails_says_each_thing_once(filled) -> None:
    """Where it was, why, and how to go on."""
    options = ("backfill", "orders", "--set", "note = 1 / (id - 50000)")
    with Process(filled.url, *options) as process:
        code, _, err = process.end()
    assert code == 1
    assert err.count("failed after") == 1
    assert " < id <= " in err
    assert "poolkeeper operations retry" in err
