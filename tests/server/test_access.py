"""Who may use the server."""

import hashlib

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from poolkeeper.server.access import Access
from poolkeeper.server.cors import cors
from poolkeeper.server.origin import is_local_origin, is_own_host, is_same_origin
from poolkeeper.server.settings import Token
from poolkeeper.server.status import UnauthorizedError
from poolkeeper.server.turned_away import ForbiddenError

NOBODY_ASKED = Access()


def headers(**given):
    return Headers({name.replace("_", "-"): value for name, value in given.items()})


@pytest.mark.parametrize(
    ("origin", "local"),
    [
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://app.localhost:3000", True),
        ("http://127.0.0.1:8020", True),
        ("http://127.1.2.3", True),
        ("http://[::1]:80", True),
        ("https://example.com", False),
        ("https://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://10.0.0.1", False),
        ("null", False),
        ("", False),
        ("http://[", False),
        ("http://localhost:port", False),
    ],
)
def test_a_local_page_is_told_from_a_strangers(origin, local):
    """By the host of its origin, nothing else."""
    assert is_local_origin(origin) is local


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://10.0.0.5:8020", "10.0.0.5:8020", True),
        ("https://Db.Internal", "db.internal", True),
        ("http://10.0.0.5:9999", "10.0.0.5:8020", False),
        ("null", "null", False),
        ("file://db", "db", False),
    ],
)
def test_the_servers_own_page_may_use_it(origin, host, same):
    """Whatever address it is served at."""
    assert is_same_origin(origin, host) is same


@pytest.mark.parametrize(
    ("host", "closed", "open_to_network"),
    [
        ("127.0.0.1:8020", True, True),
        ("[::1]:8020", True, True),
        ("localhost:8020", True, True),
        ("LOCALHOST.", True, True),
        ("db.localhost", True, True),
        ("192.168.1.5:8020", True, True),
        ("told.example.com", True, True),
        ("TOLD.example.com:443", True, True),
        ("poolkeeper:8020", False, True),
        ("poolkeeper.default.svc.cluster.local", False, True),
        ("rebound.example.com", False, False),
        ("rebound.example.com:8020", False, False),
        ("127.0.0.1.example.com", False, False),
        ("local.example.com", False, False),
        ("", False, False),
        ("[::1", False, False),
        ("localhost:port", False, False),
        ("user@localhost.example.com", False, False),
    ],
)
def test_a_name_that_a_stranger_could_point_here_is_not_answered_to(host, closed, open_to_network):
    """The page of a stranger whose name leads to this machine calls it by that name."""
    names = frozenset({"told.example.com"})
    assert is_own_host(host, names, open_to_network=False) is closed
    assert is_own_host(host, names, open_to_network=True) is open_to_network


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"host": "127.0.0.1:8020"},
        {"host": "localhost", "origin": "http://localhost:3000"},
        {"host": "10.0.0.5:8020", "origin": "http://10.0.0.5:8020"},
        {"host": "localhost", "sec_fetch_site": "none"},
        {"host": "localhost", "sec_fetch_site": "same-origin"},
        {
            "host": "127.0.0.1",
            "origin": "http://localhost:3000",
            "sec_fetch_site": "cross-site",
        },
    ],
)
def test_without_tokens_this_machine_is_let_in(given):
    """Programs, its own pages, and pages that this machine serves."""
    assert NOBODY_ASKED.check(headers(**given)) is None


@pytest.mark.parametrize(
    "given",
    [
        {"host": "localhost", "origin": "https://example.com"},
        {"host": "localhost", "origin": "null"},
        {"host": "rebound.example.com"},
        {"host": "rebound.example.com", "origin": "http://rebound.example.com"},
        {"host": "localhost", "sec_fetch_site": "cross-site"},
    ],
)
def test_without_tokens_pages_of_others_are_refused(given):
    """By where they come from, and by the name they call the server by."""
    for check in (NOBODY_ASKED.check, NOBODY_ASKED.check_admin):
        with pytest.raises(ForbiddenError, match="Suggestion: "):
            check(headers(**given))


def test_a_host_that_was_refused_once_is_refused_again():
    """Only good names are remembered, and not without bound."""
    access = Access(hosts=["127.0.0.1"])
    for number in range(300):
        access.check(headers(host=f"{number}.localhost"))
        with pytest.raises(ForbiddenError):
            access.check(headers(host="rebound.example.com"))
    assert len(access._own_hosts) <= 100


def test_with_a_token_neither_origin_nor_host_matters():
    """Whoever has the token may use it from any page, through any proxy."""
    access = Access([Token("default", "t0k")])
    given = headers(
        origin="https://example.com",
        host="db.example.com",
        sec_fetch_site="cross-site",
        authorization="bearer t0k",
    )
    assert access.check(given).name == "default"


@pytest.mark.parametrize(
    "given",
    [None, "t0k", "Bearer", "Bearer ", "Basic t0k", "Bearer t0k2", "Bearer t0", "Bearer ü", " "],
)
def test_anything_but_the_token_is_refused(given):
    """Also when it looks similar."""
    shown = Headers(raw=[(b"authorization", given.encode())] if given is not None else [])
    with pytest.raises(UnauthorizedError, match="Suggestion: "):
        Access([Token("default", "t0k")]).check(shown)


@pytest.mark.parametrize("secret", ["", "t0k"])
def test_a_token_without_a_secret_lets_nobody_in(secret):
    """An empty password is not the password of an empty secret."""
    access = Access([Token("broken"), Token("other", "0ther")])
    with pytest.raises(UnauthorizedError):
        access.check(headers(authorization=f"Bearer {secret}"))


def test_each_token_is_known_by_its_name():
    """Given as it is or as its hash."""
    digest = hashlib.sha256(b"second-secret").hexdigest()
    access = Access([Token("one", "first-secret"), Token("two", secret_sha256=digest)])
    assert access.check(headers(authorization="Bearer first-secret")).name == "one"
    assert access.check(headers(authorization="Bearer second-secret")).name == "two"
    with pytest.raises(UnauthorizedError):
        access.check(headers(authorization=f"Bearer {digest}"))


def test_only_admin_tokens_administer():
    """The others are told so, by their name."""
    access = Access([Token("app", "app-secret"), Token("ops", "ops-secret", admin=True)])
    assert access.check_admin(headers(authorization="Bearer ops-secret")).name == "ops"
    with pytest.raises(ForbiddenError, match="'app'"):
        access.check_admin(headers(authorization="Bearer app-secret"))
    with pytest.raises(UnauthorizedError):
        access.check_admin(headers())


def test_tokens_are_replaced_while_the_server_runs():
    """The old secret is worth nothing from then on, and the server never becomes open."""
    access = Access([Token("app", "old-secret")])
    access.replace_tokens([Token("app", "new-secret")])
    assert access.check(headers(authorization="Bearer new-secret")).name == "app"
    with pytest.raises(UnauthorizedError):
        access.check(headers(authorization="Bearer old-secret"))
    with pytest.raises(ValueError, match="Suggestion: "):
        access.replace_tokens([])
    assert access.asks_for_token


def test_a_page_that_was_allowed_needs_no_token_where_nobody_does():
    """--cors-origin says that its owner is trusted."""
    access = Access(cors_origins=["https://app.example.com/"])
    access.check(headers(host="localhost", origin="https://app.example.com"))
    with pytest.raises(ForbiddenError):
        access.check(headers(host="localhost", origin="https://other.example.com"))
    Access(cors_origins=["*"]).check(headers(host="localhost", origin="https://other.example.com"))


async def ask(origins, method, origin, **more):
    async def endpoint(_request):
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/sql", endpoint, methods=["POST"])], middleware=cors(origins))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, "/sql", headers={"Origin": origin, **more})


@pytest.mark.asyncio
async def test_no_page_may_read_answers_unless_asked_for():
    """Not even a local one: it can be named with --cors-origin."""
    answer = await ask((), "POST", "http://localhost:3000")
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.asyncio
async def test_named_pages_may_send_what_clients_send_and_read_what_they_need():
    """Idempotency and time limits go in, Retry-After and request ids come out."""
    origins = ("https://app.example.com/",)
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, "
        "neon-array-mode, neon-batch-deferrable, neon-batch-isolation-level, "
        "neon-batch-read-only, neon-connection-string, neon-raw-text-output, x-timeout-ms",
    }
    asked = await ask(origins, "OPTIONS", "https://app.example.com", **preflight)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "POST" in asked.headers["access-control-allow-methods"]
    answer = await ask(origins, "POST", "https://app.example.com")
    assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
    exposed = answer.headers["access-control-expose-headers"]
    assert {"Retry-After", "Server-Timing", "X-Request-Id", "Neon-Request-Id"} <= set(
        exposed.split(", ")
    )
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.asyncio
@pytest.mark.parametrize("origin", ["https://other.example.com", "https://app.example.com.evil"])
async def test_other_pages_learn_nothing(origin):
    """A preflight fails, and an answer carries no permission."""
    origins = ("https://app.example.com",)
    asked = await ask(origins, "OPTIONS", origin, **{"Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in asked.headers
    assert asked.status_code == 400
    answer = await ask(origins, "POST", origin)
    assert "access-control-allow-origin" not in answer.headers
