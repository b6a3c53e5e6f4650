"""No secret that a client sends is ever shown to anybody."""

import contextlib
import json
import signal
import uuid

import pytest

from tests.server.processes import ServerProcess, until

TOKEN = "tok-5Ecret-of-the-web-client"
ADMIN = "tok-5Ecret-of-the-operator"
WRONG = "pw-5Ecret-that-is-wrong"
ENCODED = "pw%2D5Ecret%2Dthat%2Dis%2Dwrong"

FILE = f"""
[[token]]
name = "web"
secret = "{TOKEN}"

[[token]]
name = "ops"
secret = "{ADMIN}"
admin = true
"""


@contextlib.contextmanager
def serving(postgres_server, folder):
    """A server that asks for tokens, with everything logged."""
    path = folder / "tokens.toml"
    path.write_text(FILE, encoding="utf-8")
    path.chmod(0o600)
    name = f"secrets_{uuid.uuid4().hex}"
    url = postgres_server.create_database(name)
    options = ("--port=0", f"--token-file={path}", "--slow-query=0")
    with ServerProcess(*options, database_url=url) as process:
        process.token_file = path
        process.database = name
        yield process.start()


@pytest.fixture
def ending(postgres_server, tmp_path):
    """A server that the test ends."""
    with serving(postgres_server, tmp_path) as process:
        yield process


@pytest.fixture(scope="module")
def guarded(postgres_server, tmp_path_factory):
    """A server for the tests that only ask."""
    with serving(postgres_server, tmp_path_factory.mktemp("tokens")) as process:
        yield process


def attempts(database):
    """Headers that clients send, right and wrong ones."""
    for password in (TOKEN, WRONG, ENCODED, ""):
        for tail in (f"host/{database}", "host/other", "host", f"host/{database}?x=%zz", ""):
            yield {"Neon-Connection-String": f"postgresql://postgres:{password}@{tail}"}
        yield {"Neon-Connection-String": f"postgresql://other:{password}@host/{database}"}
        yield {"Neon-Connection-String": password}
        if not password:
            continue
        yield {"Authorization": f"Bearer {password}"}
        yield {"Authorization": f"Basic {password}"}
        yield {"Authorization": password}


def test_secrets_appear_nowhere(ending):
    """Not in an answer, the log, /status, /metrics or what the dashboard shows."""
    shown = []
    statuses = set()
    for headers in attempts(ending.database):
        for statement in ("select 1", "selec 1"):
            answer = ending.sql(statement, headers=headers)
            shown.append(answer.text)
            statuses.add(answer.status_code)
        answer = ending.client.post(f"{ending.url}/v1/query", content=b"{", headers=headers)
        shown.append(answer.text)
        shown.append(ending.get("/nowhere", headers=headers).text)
        shown.append(ending.get("/metrics", headers=headers).text)
    assert statuses == {200, 400}
    operator = {"Authorization": f"Bearer {ADMIN}"}
    for path in ("/status", "/metrics", "/health", "/readyz?verbose", "/", "/openapi.json"):
        answer = ending.get(path, headers=operator)
        assert answer.status_code == 200, path
        shown.append(answer.text)
    ending.signal()
    _code, log = ending.end()
    assert '"token": "web"' in log, "the log names who it was"
    for text in (*shown, log):
        for secret in (TOKEN, ADMIN, WRONG, ENCODED):
            assert secret not in text
        assert "5Ecret" not in text


def test_tokens_are_read_again_on_a_signal(ending):
    """A new secret is used at once, and the old one is worth nothing; a mistake changes nothing."""

    def status(secret):
        headers = {"Authorization": f"Bearer {secret}"}
        return ending.sql("select 1", headers=headers).status_code

    assert status(TOKEN) == 200
    ending.token_file.write_text("[[token]]\n", encoding="utf-8")
    ending.signal(signal.SIGHUP)
    ending.wait_for("server_reload_failed")
    assert status(TOKEN) == 200
    fresh = "tok-5Ecret-that-is-new"
    ending.token_file.write_text(FILE.replace(TOKEN, fresh), encoding="utf-8")
    ending.signal(signal.SIGHUP)
    until(lambda: status(fresh) == 200)
    assert status(TOKEN) == 400
    ending.signal()
    assert "5Ecret" not in json.dumps(ending.end()[1])


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def on_dashboard(server, secret):
    """What a page is told at first and with the next sample."""
    url = f"{server.url}/dashboard/events"
    with server.client.stream("GET", url, headers=bearer(secret)) as response:
        told, samples = [], 0
        for line in response.iter_lines():
            told.append(line)
            samples += line == "event: rows"
            if samples == 3:
                return "\n".join(told)
    raise AssertionError("the stream ended")


def test_a_new_secret_is_hidden_as_well(ending):
    """And so is the old one, in pages that were built before, too."""
    fresh = "tok-Fr3sh-of-the-web-client"
    ending.sql(f"select '{fresh}' from nowhere", headers=bearer(TOKEN))
    assert fresh in on_dashboard(ending, ADMIN)
    ending.token_file.write_text(FILE.replace(TOKEN, fresh), encoding="utf-8")
    ending.signal(signal.SIGHUP)
    ending.wait_for("server_reloaded")
    ending.sql(f"select '{fresh}', '{TOKEN}' from nowhere", headers=bearer(fresh))
    for shown in (ending.get("/status", headers=bearer(ADMIN)).text, on_dashboard(ending, ADMIN)):
        assert "nowhere" in shown
        assert fresh not in shown
        assert TOKEN not in shown


def test_what_others_asked_for_is_for_admins_only(guarded):
    """Their statements and what PostgreSQL said of them, while they run and afterwards."""
    guarded.sql("select 1 as of_the_operator from nowhere", headers=bearer(ADMIN))
    guarded.sql("select 1 as of_the_client from nowhere", headers=bearer(TOKEN))
    for secret, own in ((ADMIN, True), (TOKEN, False)):
        status = guarded.get("/status", headers=bearer(secret)).text
        for shown in (status, on_dashboard(guarded, secret)):
            assert "of_the_client" in shown
            assert ("of_the_operator" in shown) == own
        errors = json.loads(status)["errors"]
        assert {one["token"] for one in errors} == {"web", "ops"}
        for one in errors:
            hidden = one["token"] == "ops" and not own
            assert (one["message"] is None) == (one["statement"] is None) == hidden


def test_health_does_not_tell_strangers_where_the_database_is(guarded):
    """How it is, they may know; what went wrong names hosts."""
    stranger = guarded.get("/health").json()
    assert stranger["database"]["status"] == "connected"
    assert guarded.get("/health", headers=bearer("wrong")).status_code == 200


@pytest.mark.parametrize("path", ["/status", "/metrics", "/admin/pause", "/v1/query", "/sql"])
def test_what_needs_a_token_says_so(guarded, path):
    """401 with a challenge; /sql in the words of Neon's clients."""
    method = "GET" if path in {"/status", "/metrics"} else "POST"
    answer = guarded.client.request(method, f"{guarded.url}{path}")
    if path == "/sql":
        assert (answer.status_code, answer.json()["code"]) == (400, "28P01")
    else:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_what_orchestrators_ask_needs_no_token(guarded):
    """It shows no data."""
    for path in ("/livez", "/readyz", "/startupz", "/health", "/"):
        assert guarded.get(path).status_code == 200, path
