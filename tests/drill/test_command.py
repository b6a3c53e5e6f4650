"""``poolkeeper drill`` as its users run it."""

import json
import subprocess
import sys

import pytest

from poolkeeper.drill.faults import FAULTS
from tests.cli.commands import poolkeeper

CONSENT = "--i-know-this-breaks-connections"
SHORT = ("--seconds=0.5", "--clients=6")


def test_the_faults_have_names_of_their_own_and_are_listed():
    """Each with one line."""
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    listed = poolkeeper("drill", "--list", env={"COLUMNS": "200"})
    assert listed.returncode == 0
    assert len(listed.stdout.splitlines()) == len(names)
    for fault in FAULTS:
        assert f"{fault.name} " in listed.stdout
        assert fault.what in listed.stdout


def test_an_unknown_fault_is_answered_with_those_there_are():
    answer = poolkeeper("drill", "--fault", "earthquake")
    assert answer.returncode == 2
    assert "'earthquake'" in answer.stderr
    assert "Suggestion: one of crash, " in answer.stderr


def test_somebody_s_database_needs_a_consent_that_says_to_what():
    """And its password is not shown."""
    answer = poolkeeper("drill", "--against", "postgresql://app:hush@db.example.com/shop")
    assert answer.returncode == 2
    assert "hush" not in answer.stderr
    assert "db.example.com" in answer.stderr
    assert "poolkeeper_drill" in answer.stderr
    assert CONSENT in answer.stderr


def test_somebody_s_server_is_never_stopped():
    """Faults that need the server are not offered, and refused when asked for."""
    url = ("--against", "postgresql://app@db.example.com/shop", CONSENT)
    assert "crash" not in poolkeeper("drill", *url, "--list").stdout
    answer = poolkeeper("drill", *url, "--fault", "crash")
    assert answer.returncode == 2
    assert "needs control of the server" in answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--driver", "odbc"),
        ("--driver", "psycopg", "--against", "postgresql+asyncpg://app@localhost/shop", CONSENT),
        ("--against", "mysql://app@localhost/shop", CONSENT),
    ],
)
def test_a_wrong_driver_is_a_wrong_call(arguments):
    answer = poolkeeper("drill", *arguments)
    assert answer.returncode == 2
    assert "Suggestion: " in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_database_that_cannot_be_reached_is_one_message():
    answer = poolkeeper("drill", "--against", "postgresql://app@127.0.0.1:1/shop", CONSENT)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert "Suggestion: " in answer.stderr


def test_a_missing_test_kit_is_named_with_what_to_install():
    """The other commands work without it."""
    program = (
        "import sys\n"
        "sys.modules['psutil'] = None\n"
        "sys.argv[1:] = ['drill', '--list']\n"
        "from poolkeeper.cli.app import run\n"
        "sys.exit(run())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "(psutil)" in answer.stderr
    assert "Suggestion: pip install 'poolkeeper[testing]'" in answer.stderr


@pytest.mark.slow
def test_a_drill_says_line_by_line_what_happened_and_writes_its_reports(tmp_path):
    """In an environment that has other options for the pool, these are used."""
    folder = tmp_path / "found"
    done = poolkeeper(
        *("drill", "--fault", "terminate-backends", "--report", str(folder), *SHORT),
        env={"POOL_MAX_SIZE": "3", "POOL_MIN_SIZE": "1", "POOL_TIMEOUT": "4", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ terminate-backends" in done.stdout
    assert "Nothing was lost, doubled or hung" in done.stdout
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.md", "report.json"}
    found = json.loads((folder / "report.json").read_text())
    (report,) = found["reports"]
    assert report["acknowledged"] > 0
    terms = found["terms"]
    assert (terms["connections"], terms["acquire_timeout"], terms["patience"]) == (3, 4.0, 14.0)
    assert done.stderr == ""


@pytest.mark.slow
def test_a_drill_against_a_database_leaves_it_as_it_was(postgres):
    """Its schema is gone, the ledger's stays: somebody else may have begun to use it."""
    before = "select nspname from pg_namespace order by 1"
    namespaces = postgres.server.psql(before, database=postgres.name)
    url = postgres.url.replace("postgresql://", "postgresql+psycopg://")
    faults = ("--fault", "reset-connections", "--fault", "terminate-backends")
    done = poolkeeper("drill", "--against", url, CONSENT, *faults, *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on psycopg" in done.stdout
    assert postgres.server.password not in done.stdout + done.stderr
    after = postgres.server.psql(before, database=postgres.name).splitlines()
    assert after == sorted([*namespaces.splitlines(), "poolkeeper"])


@pytest.mark.slow
def test_a_ledger_that_was_there_before_stays(postgres):
    """With what is in it."""
    postgres.server.psql(
        "create schema poolkeeper; create table poolkeeper.precious ()", database=postgres.name
    )
    done = poolkeeper("drill", "--against", postgres.url, CONSENT, "--fault", "hang-up", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = postgres.server.psql(
        "select to_regclass('poolkeeper.precious') is not null", database=postgres.name
    )
    assert found == "t"


def test_a_role_without_rights_gets_a_sentence(postgres):
    """And no traceback."""
    name = f"{postgres.name}_plain"
    server = postgres.server
    server.psql(f"create role {name} login password 'plain'", database=postgres.name)
    try:
        url = f"postgresql://{name}:plain@{postgres.url.rpartition('@')[2]}"
        done = poolkeeper("drill", "--against", url, CONSENT, "--fault", "hang-up", *SHORT)
        assert done.returncode == 1
        assert "Suggestion: use a role that may create schemas" in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    finally:
        server.psql(f"drop role {name}", database=postgres.name)
