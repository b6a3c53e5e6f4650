"""What the connection string of Neon's clients is good for."""

import pytest
from starlette.datastructures import Headers

from poolkeeper.server.access import Access
from poolkeeper.server.neon.identity import ConnectionString, Identity, Served
from poolkeeper.server.neon.request import BadRequestError
from poolkeeper.server.settings import Token
from poolkeeper.server.status import UnauthorizedError
from poolkeeper.server.turned_away import ForbiddenError

SHOP = Served("shop", "app")
OPEN = Identity(Access(), SHOP)
GUARDED = Identity(Access([Token("web", "s3cret/with@signs")]), SHOP)
ENCODED = "s3cret%2Fwith%40signs"


def headers(connection_string=None, **given):
    raw = {name.replace("_", "-"): value for name, value in given.items()}
    if connection_string is not None:
        raw["Neon-Connection-String"] = connection_string
    return Headers(raw)


@pytest.mark.parametrize(
    ("text", "user", "password", "database"),
    [
        ("postgres://app:pw@host/shop", "app", "pw", "shop"),
        ("postgresql://app@host:5433/shop", "app", "", "shop"),
        ("POSTGRESQL://host/shop", "", "", "shop"),
        ("postgres://app:@host/shop", "app", "", "shop"),
        ("postgres://a%40b:p%3A%2F@h/d%20b", "a@b", "p:/", "d b"),
        ("postgres://app:p:w@[::1]:5432/shop", "app", "p:w", "shop"),
        ("postgres://app:pw@h1:1,h2:2/shop?sslmode=require", "app", "pw", "shop"),
        (
            "postgres://app:pw@ep-x.eu.neon.tech/shop?"
            "application_name=pkg%3Anpm%2F%2540neondatabase%2Fserverless%401.2.0",
            "app",
            "pw",
            "shop",
        ),
    ],
)
def test_a_connection_string_is_read_as_clients_write_it(text, user, password, database):
    """Names are percent-decoded; host, port and options may be anything."""
    assert ConnectionString.parse(text) == ConnectionString(user, password, database)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "mysql://app:hunter2@host/shop",
        "postgres://app:hunter2@host",
        "postgres://app:hunter2@/shop",
        "postgres://app:hunt/er2@host/shop",
        "postgres://app:hunt@er2@host/shop",
        "postgres://app:hunter2@host/shop#hunter2",
        "postgres://app:hunter2%@host/shop",
        "postgres://app:hunter2@host/sh/op",
        "postgres://app:hunter2@host/" + "x" * 10000,
        "host=h password=hunter2",
    ],
)
def test_what_cannot_be_read_is_refused_and_not_repeated(text):
    """A part of it could be the password."""
    with pytest.raises(BadRequestError, match="Suggestion: ") as caught:
        OPEN.check(headers(text))
    assert "hunt" not in str(caught.value)


def test_the_password_stays_out_of_sight():
    """Also where somebody prints the object."""
    assert "hunter2" not in repr(ConnectionString.parse("postgres://app:hunter2@host/shop"))


def test_without_tokens_the_password_does_not_matter():
    """There is nothing to compare it with; the pool's own password is not the client's business."""
    assert OPEN.check(headers("postgres://app:anything@host/shop")) is None
    assert OPEN.check(headers()) is None


def test_the_password_counts_as_the_token():
    """Unmodified clients have no other place for it."""
    token = GUARDED.check(headers(f"postgres://app:{ENCODED}@host/shop"))
    assert token.name == "web"


def test_authorization_counts_where_it_is_sent():
    """Clients with an authToken send both; a wrong one is not saved by a right password."""
    right = {"authorization": "Bearer s3cret/with@signs"}
    assert GUARDED.check(headers("postgres://app@host/shop", **right)).name == "web"
    assert GUARDED.check(headers(**right)).name == "web"
    with pytest.raises(UnauthorizedError):
        GUARDED.check(headers(f"postgres://app:{ENCODED}@host/shop", authorization="Bearer no"))


@pytest.mark.parametrize(
    "text", ["postgres://app:wrong@host/shop", "postgres://app@host/shop", "postgres://h/other"]
)
def test_a_wrong_password_learns_nothing(text):
    """Neither which database is served nor which role: the token comes first."""
    with pytest.raises(UnauthorizedError, match="Suggestion: ") as caught:
        GUARDED.check(headers(text))
    assert "shop" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        (f"postgres://app:{ENCODED}@host/other", "3D000", "shop"),
        (f"postgres://app:{ENCODED}@host/SHOP", "3D000", "shop"),
        (f"postgres://app:{ENCODED}@host/", "3D000", "shop"),
        (f"postgres://postgres:{ENCODED}@host/shop", "28000", "app"),
    ],
)
def test_another_database_or_role_is_refused_with_the_right_name(text, code, named):
    """Statements meant for one database must not run in another."""
    with pytest.raises(BadRequestError, match=f"'{named}'.* Suggestion: ") as caught:
        GUARDED.check(headers(text))
    assert caught.value.code == code
    assert "s3cret" not in str(caught.value)


def test_a_role_may_be_left_out():
    """And then the database's name is the role's, as everywhere with PostgreSQL."""
    assert OPEN.check(headers("postgres://host/shop")) is None
    Identity(Access(), Served("app", "app")).check(headers("postgres://app@host/"))


def test_pages_of_others_are_refused_with_a_connection_string_too():
    """It is no secret where no token is asked for."""
    with pytest.raises(ForbiddenError):
        OPEN.check(headers("postgres://app@host/shop", origin="https://example.com"))


def test_what_was_read_is_remembered_within_bounds():
    """Clients send the same string with every request; strangers may send any number."""
    identity = Identity(Access(), SHOP)
    for number in range(2000):
        identity.check(headers(f"postgres://app:{number}@host/shop"))
    assert len(identity._parsed) <= 256


@pytest.mark.parametrize(
    ("url", "served"),
    [
        ("postgresql+psycopg://a%40b:pw@h/d%20b", Served("d b", "a@b")),
        ("postgresql+psycopg://u@h1:1,h2:2/db?sslmode=disable", Served("db", "u")),
        ("postgresql+psycopg://h/?dbname=db&user=u", Served("db", "u")),
        ("postgresql+psycopg://u@/db?host=/run/postgresql", Served("db", "u")),
        ("postgresql+psycopg:///?service=prod", Served(None, None)),
    ],
)
def test_what_is_served_is_known_from_the_url(url, served):
    """As libpq reads it."""
    assert Served.by(url) == served


def test_what_the_url_leaves_out_comes_from_the_environment(monkeypatch):
    """As libpq does it."""
    monkeypatch.setenv("PGUSER", "from_env")
    assert Served.by("postgresql+psycopg://h/db") == Served("db", "from_env")


def test_nothing_is_compared_where_nobody_knows_what_is_served():
    """A service file may name anything."""
    Identity(Access(), Served(None, None)).check(headers("postgres://any@host/thing"))
