"""The examples do what they say."""

import re

import pytest

from tests.docs.markdown import ROOT
from tests.docs.runner import run

EXAMPLES = ROOT / "examples"


def test_quickstart_uses_the_pool(postgres, tmp_path) -> None:
    output = run(EXAMPLES / "quickstart.py", cwd=tmp_path, database_url=postgres.url)
    assert "visits: 10" in output
    assert re.search(r"^connections: [1-4] of 4$", output, re.MULTILINE)
    # the table, ten visits, the count
    assert "acquisitions: 12" in output
    assert postgres.server.psql("select count(*) from visit", database=postgres.name) == "10"


def test_quickstart_without_a_database_says_what_is_missing(tmp_path) -> None:
    """A sentence, no traceback."""
    with pytest.raises(AssertionError, match=r"^set DATABASE_URL, such as \S+\n") as caught:
        run(EXAMPLES / "quickstart.py", cwd=tmp_path)
    assert "Traceback" not in str(caught.value)


def test_watch_an_outage_shows_it_from_loss_to_recovery(tmp_path) -> None:
    """In this order; no client was refused, since the outage was shorter than their patience."""
    output = run(EXAMPLES / "watch_an_outage.py", cwd=tmp_path)
    expected = [
        "pool_initialized",
        "killing every process",
        "database_connection_lost",
        "reconnect_attempt  attempt=1",
        "health: unhealthy, 20 clients wait",
        "PostgreSQL accepts connections",
        "database_reconnected",
        "pool_closed",
        "answered: ",
        "cut off in flight: ",
    ]
    # the pool may be back before the process that started the database says so
    places = [output.index(text) for text in expected if text != "PostgreSQL accepts connections"]
    assert places == sorted(places), output
    assert "refused: " not in output


def test_load_through_outages_loads_every_row_once(tmp_path) -> None:
    """The database was killed twice on the way."""
    output = run(EXAMPLES / "load_through_outages.py", cwd=tmp_path)
    assert output.count("killing every process") == 2
    assert "goes on at" in output
    # a server that is starting may take a connection and lose it again
    assert re.search(r"done: 1,000,000 rows, [2-9] outages ridden out", output)
    assert "rows: 1,000,000, different ones: 1,000,000" in output


def test_every_example_is_tested() -> None:
    # the last one in tests/asgi
    tested = {
        "quickstart.py",
        "watch_an_outage.py",
        "load_through_outages.py",
        "fastapi_app.py",
    }
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
