"""The how-to about Neon's clients is programs that work."""

import json
import os

import pytest

from tests.clients.node import HERE, connection_string
from tests.clients.page import PRINTED, PROGRAMS, save_programs
from tests.server.processes import ServerProcess

TOKEN = "a token/with:odd@signs"


def test_every_program_that_prints_is_run():
    """The others are imported by them or by other tests."""
    assert set(PROGRAMS) - set(PRINTED) == {"patient.mjs", "again.mjs", "preload.mjs"}


@pytest.mark.parametrize("name", sorted(set(PRINTED) - {"token.mjs"}))
def test_programs_print_what_the_page_says(node, postgres, tmp_path, name):
    """Each on a fresh database."""
    with ServerProcess("--port=0", "--max-size=2", database_url=postgres.url) as server:
        server.database_url = postgres.url
        server.start()
        save_programs(tmp_path, server)
        assert node.run(name, env=node.environment(server), cwd=tmp_path) == PRINTED[name]


@pytest.mark.parametrize(("retry_after", "told"), [("0.1", "200 6\n"), ("61", "503 1\n")])
def test_the_patient_fetch_goes_on_for_a_minute_and_no_longer(node, tmp_path, retry_after, told):
    """However often it is refused; a wait beyond its minute is not begun."""
    (tmp_path / "patient.mjs").write_text(PROGRAMS["patient.mjs"]["code"], encoding="utf-8")
    environment = {"PATH": os.environ["PATH"]}
    assert node.run("patient.mjs", str(tmp_path), retry_after, env=environment) == told


def test_a_token_is_accepted_both_ways(node, postgres, tmp_path):
    """As authToken, and as the connection string's password."""
    token = {"POOLKEEPER_TOKEN": TOKEN}
    with ServerProcess("--port=0", database_url=postgres.url, env=token) as server:
        server.database_url = postgres.url
        server.start()
        save_programs(tmp_path, server)
        environment = node.environment(server, **token)
        assert node.run("token.mjs", env=environment, cwd=tmp_path) == PRINTED["token.mjs"]


def test_without_the_token_the_driver_says_so(node, postgres):
    """A NeonDbError with PostgreSQL's code for it, whichever way a wrong one comes."""
    with ServerProcess("--port=0", f"--token={TOKEN}", database_url=postgres.url) as server:
        server.database_url = postgres.url
        server.start()
        answers = json.loads(node.run("wrong_token.mjs", env=node.environment(server)))
    assert [answer["code"] for answer in answers] == ["28P01", "28P01"]
    by_header, by_password = (answer["message"] for answer in answers)
    assert "The token was not accepted" in by_header
    assert "has no password, or a wrong one" in by_password


def test_an_application_is_pointed_here_without_a_change(node, server, tmp_path):
    """`node --import` alone sets the endpoint."""
    save_programs(tmp_path, server)
    (tmp_path / "application.mjs").write_text(
        "import { neon, Pool } from '@neondatabase/serverless';\n"
        "const url = process.env.DATABASE_URL;\n"
        "console.log(await neon(url)`select 1 as a`);\n"
        "console.log((await new Pool({ connectionString: url }).query('select 2 as a')).rows);\n"
    )
    environment = node.environment(server)
    output = node.run("--import", "./preload.mjs", "application.mjs", env=environment, cwd=tmp_path)
    assert output == "[ { a: 1 } ]\n[ { a: 2 } ]\n"


def test_the_lock_file_names_no_other_machine():
    """Packages come from the configured registry; hashes say what they are."""
    lock = json.loads((HERE / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    origins = {entry["resolved"] for entry in packages.values() if "resolved" in entry}
    assert all(origin.startswith("https://registry.npmjs.org/") for origin in origins)


def test_connection_strings_lead_nowhere():
    """What the programs get names no host that exists."""
    assert connection_string("postgresql://me:secret@127.0.0.1:5/db") == (
        "postgresql://me:none@db.example.com/db"
    )
