"""What may be shown of a database URL, and what is told about a wrong one."""

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.urls import for_asyncpg, mask_url, redact, split_url

# Letters that occur in no other part of the URLs below: one of them in the output is a leak. The
# rest is what confuses parsers.
MARKERS = "ÄÖÜßZXQ89"
passwords = st.builds(
    lambda head, marker, tail: head + marker + tail,
    st.text(MARKERS + "@:/?#&=%[]'\\,;+ ", max_size=8),
    st.sampled_from(MARKERS),
    st.text(MARKERS + "@:/?#&=%[]'\\,;+ ", max_size=8),
)
anything = st.text(st.characters(codec="utf-8"), min_size=1)

URL_TEMPLATES = [
    "postgresql://user:{}@host:5432/db",
    "postgresql+asyncpg://user:{}@host/db?sslmode=require",
    "postgresql+psycopg://user:{}@h1:5432,h2:5433/db?target_session_attrs=any",
    "postgres://user:{}@[::1]:5432/db",
    "postgres://:{}@/db?host=/var/run/postgresql",
    "postgresql://user%40home:{}@host/db",
    "user:{}@host/db",
    "mysql://user:{}@host",
    "DATABASE_URL=postgresql://user:{}@host/db",
]
QUERY_TEMPLATES = [
    "postgresql://user@host:5432/db?password={}",
    "postgresql://user@host/db?user=u&password={}",
    "postgresql://host/db?sslpassword={}",
    "postgresql://host/db?pass%77ord={}",
]
# in a DSN, a password in quotes escapes ' and \ with a backslash
DSN_TEMPLATES = ["host=h password={} port=5432", "password = {}", "user=u PASSWORD={}"]


def dsn_quoted(password: str) -> str:
    return "'" + password.replace("\\", "\\\\").replace("'", "\\'") + "'"


@given(st.sampled_from(URL_TEMPLATES + QUERY_TEMPLATES + DSN_TEMPLATES), passwords)
@example("postgresql://user:{}@host/db", "X?password=Z@Q")
@example("postgresql://user@host:5432/db?password={}", "X@Z")
@example("postgresql://host/db?password={}", "X&Z=Q")
@example("host=h password={} port=5432", "X Z=Q")
@example("host=h password={} port=5432", "X host=h Z")
@example("password = {}", "X://Z")
def test_no_part_of_an_unescaped_password_survives_masking(template: str, password: str) -> None:
    """However badly a password is written, none of its letters is shown."""
    masked = mask_url(template.format(password))
    assert not set(masked) & set(MARKERS), masked
    assert "***" in masked


@given(st.sampled_from(URL_TEMPLATES + QUERY_TEMPLATES), anything)
def test_a_percent_encoded_password_is_replaced_and_nothing_else(
    template: str, password: str
) -> None:
    """Two different passwords leave the same masked URL, so nothing of either is in it."""
    masked = mask_url(template.format(quote(password, safe="")))
    assert masked == template.format("***")


@given(st.sampled_from(DSN_TEMPLATES), anything)
def test_a_quoted_dsn_password_is_replaced_and_nothing_else(template: str, password: str) -> None:
    """Quotes, spaces and backslashes do not end a quoted password early."""
    assert mask_url(template.format(dsn_quoted(password))) == template.format("***")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        # two passwords in one URL
        ("postgresql://u:X@host/db?sslpassword=Z", "postgresql://u:***@host/db?sslpassword=***"),
        # the colon was encoded along with the rest
        ("postgresql://u%3asecret@host/db", "postgresql://u%3a***@host/db"),
        # the port of a URL whose password is numeric is not shown as if it were harmless
        ("postgresql://u:777/x@host/db", "postgresql://u:***@host/db"),
        # "@" forgotten: what follows the colon is no port
        ("postgresql://user:secret/db", "postgresql://user:***"),
        ("host=h password='never closed port=5", "host=h password=***"),
        ("dbname=postgresql://u:secret@h/db", "dbname=postgresql://u:***@h/db"),
    ],
)
def test_doubtful_urls_are_masked_from_the_doubt_on(url: str, masked: str) -> None:
    """More is hidden rather than less."""
    assert mask_url(url) == masked


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql://",
        "postgresql://host/db",
        "postgresql://user@host:5432/db",
        "postgresql+asyncpg://user@[::1]:5432/db",
        "postgresql://[2001:db8::1]:5432,h2:5433/db?sslmode=require",
        "postgresql://user@h1:5432,h2:5433/db?application_name=a:b",
        "postgresql://user@/db?host=/var/run/postgresql",
        "host=localhost port=5432 dbname=app user=me",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    """Nothing to hide, nothing hidden: host, port and database are what people look for."""
    assert mask_url(url) == url


@given(st.text(MARKERS + "@:/?#&=%[]'\\,;+ \"", min_size=4), st.sampled_from([str, repr]))
@example("Z'Q\\X Z", repr)
def test_a_known_password_is_removed_from_a_message(password: str, spelling: object) -> None:
    """A driver may quote the password raw, as a Python literal or percent-encoded."""
    url = f"postgresql://user:{quote(password, safe='')}@host/db"
    shown = repr(password)[1:-1] if spelling is repr else password
    message = f"<begin {shown} / {quote(password, safe='')} / {quote(password)} end>"
    for secret in (password, url):
        assert redact(message, secret) == "<begin *** / *** / *** end>"


def test_a_password_in_the_query_is_a_known_password_too() -> None:
    """libpq and asyncpg both accept ``?password=``."""
    assert redact("no: s3cret!", "postgresql://h/db?password=s3cret%21&user=me") == "no: ***"


def test_a_very_short_password_is_removed_only_where_it_stands_alone() -> None:
    """Masking every "a" would destroy the message and give the password away."""
    assert redact("database 'a' is a no", "a") == "database '***' is *** no"


def test_nothing_known_means_nothing_removed() -> None:
    """No secrets, an empty one, or a URL without one."""
    text = "connection refused"
    assert redact(text) == redact(text, None, "", "postgresql://connection@refused/db") == text


@pytest.mark.parametrize(
    ("url", "driver", "dsn"),
    [
        ("postgres://u:p%40@h/db", "asyncpg", "postgres://u:p%40@h/db"),
        ("postgresql://u@h:5432/db", "asyncpg", "postgresql://u@h:5432/db"),
        ("PostgreSQL+AsyncPG://u@h/db", "asyncpg", "postgresql://u@h/db"),
        ("postgresql+psycopg://h1:1,h2:2/db", "psycopg", "postgresql://h1:1,h2:2/db"),
        ("postgresql://u@[::1]:5432/db", "asyncpg", "postgresql://u@[::1]:5432/db"),
        ("postgresql:///db?host=/tmp", "asyncpg", "postgresql:///db?host=/tmp"),
        ("postgresql://h?dbname=db", "asyncpg", "postgresql://h?dbname=db"),
        ("postgresql://?service=app", "asyncpg", "postgresql://?service=app"),
    ],
)
def test_the_scheme_names_the_driver(url: str, driver: str, dsn: str) -> None:
    """SQLAlchemy's form is accepted; drivers get the form they know."""
    assert split_url(url) == (driver, dsn)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "is not a URL"),
        ("localhost", "is not a URL"),
        ("host=localhost dbname=app", "keyword/value DSN"),
        ("host=h password=ZX://Q", "keyword/value DSN"),
        ("mysql://u:ÄÖÜ@h/db", "'mysql'"),
        ("postgresql+psycopg2://u:ÄÖÜ@h/db", "'psycopg2'"),
        ("postgresql://u:ÄÖÜ@/db", "no host"),
        ("postgresql://h1,,h2/db", "no host"),
        ("postgresql://u:ÄÖÜ@:5432/db", "no host"),
        ("postgresql://u:ÄÖÜ@h", "no database"),
        ("postgresql://u:ÄÖÜ@h/", "no database"),
        ("postgresql://u:ÄÖÜ@h:0/db", "port"),
        ("postgresql://u:ÄÖÜ@h:65536/db", "port"),
        ("postgresql://u:ÄÖÜ@h:abc/db", "port"),
        ("postgresql://u:ÄÖÜ@::1/db", "brackets"),
        ("postgresql://u:ÄÖÜ@[::1/db", "brackets"),
        ("postgresql://u:Ä@ÖÜ@h/db", "unescaped"),
        ("postgresql://u:Ä/ÖÜ@h/db", "unescaped"),
        ("postgresql://u:Ä?ÖÜ@h/db", "unescaped"),
        ("postgresql://u:Ä#ÖÜ@h/db", "unescaped"),
        ("postgresql://h/db#fragment", "unescaped"),
        ("postgresql://u:Ä%ÖÜ@h/db", "%25"),
        ("postgresql://u:Ä ÖÜ@h/db", "white space"),
        ("postgresql://h/db\n", "white space"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_advice(url: str, told: str) -> None:
    """The reason, a suggestion, and no password."""
    with pytest.raises(PoolConfigurationError) as refused:
        split_url(url)
    message = str(refused.value)
    assert told in message
    assert "Suggestion: " in message
    assert refused.value.option == "database_url"
    assert not set("ÄÖÜ") & set(message)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("postgresql+psycopg://u@h/db?connect_timeout=3&sslmode=require", "u@h/db?sslmode=require"),
        ("postgresql+psycopg://u@h/db?connect%5Ftimeout=3", "u@h/db"),
        ("postgresql+psycopg://u@h/db?sslsni=0&sslcertmode=allow&requirepeer=x", "u@h/db"),
        ("postgresql+psycopg://u@h/db?client_encoding=LATIN1", "u@h/db"),
        ("postgresql+psycopg://u@h/db?hostaddr=10.0.0.1", "u@h/db"),
        ("postgresql+psycopg://u@/db?hostaddr=10.0.0.1", "u@/db?host=10.0.0.1"),
        ("postgresql+psycopg://u@/db?host=/run/pg&port=5433", "u@/db?host=/run/pg&port=5433"),
        ("postgresql+psycopg://u@a:1,b:2/db?load_balance_hosts=random", "u@a:1,b:2/db"),
        (
            "postgresql+psycopg://u@h/db?options=-csearch_path%3Dx",
            "u@h/db?options=-csearch_path%3Dx",
        ),
        ("postgresql+asyncpg://u@h/db?work_mem=64MB", "u@h/db?work_mem=64MB"),
    ],
)
def test_a_url_for_libpq_leads_asyncpg_to_the_same_place(url: str, meant: str) -> None:
    """Without what only libpq knows of, which asyncpg takes for settings of the server."""
    assert for_asyncpg(url, {})[0] == f"postgresql://{meant}"


def test_arguments_that_only_psycopg_knows_do_not_reach_asyncpg() -> None:
    """Those that say where and as whom do; a callable password is what asyncpg takes as well."""

    def password() -> str:
        return "secret"

    given = {"dbname": "app", "password": password, "prepare_threshold": None, "options": "-cx=1"}
    _, kwargs = for_asyncpg("postgresql+psycopg://u@h/db", given)
    assert kwargs == {"database": "app", "password": password}
