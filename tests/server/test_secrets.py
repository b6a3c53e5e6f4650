"""No secret that a client sends is ever shown to anybody."""

import json
import signal

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


@pytest.fixture
def guarded(postgres_server, tmp_path):
    """A server that asks for tokens, with everything logged."""
    path = tmp_path / "tokens.toml"
    path.write_text(FILE, encoding="utf-8")
    path.chmod(0o600)
    url = postgres_server.create_database("secrets_guarded")
    options = ("--port=0", f"--token-file={path}", "--slow-query=0")
    with ServerProcess(*options, database_url=url) as process:
        process.token_file = path
        yield process.start()


def attempts(database):
    """Headers that clients send, right and wrong ones."""
    for password in (TOKEN, WRONG, ENCODED, ""):
        for tail in (f"host/{database}", "host/other", "host", f"host/{database}?x=%zz", ""):
            yield {"Neon-Connection-String": f"postgresql://postgres:{password}@{tail}"}
        yield {"Neon-Connection-String": f"postgresql://other:{password}@host/{database}"}
        yield {"Neon-Connection-String": password}
        yield {"Authorization": f"Bearer {password}"}
        yield {"Authorization": f"Basic {password}"}
        yield {"Authorization": password}


def test_secrets_appear_nowhere(guarded):
    """Not in an answer, the log, /status, /metrics or what the dashboard shows."""
    shown = []
    statuses = set()
    for headers in attempts("secrets_guarded"):
        for statement in ("select 1", "selec 1"):
            answer = guarded.sql(statement, headers=headers)
            shown.append(answer.text)
            statuses.add(answer.status_code)
        answer = guarded.client.post(f"{guarded.url}/v1/query", content=b"{", headers=headers)
        shown.append(answer.text)
        shown.append(guarded.get("/nowhere", headers=headers).text)
        shown.append(guarded.get("/metrics", headers=headers).text)
    assert statuses == {200, 400}
    operator = {"Authorization": f"Bearer {ADMIN}"}
    for path in ("/status", "/metrics", "/health", "/readyz?verbose", "/", "/openapi.json"):
        answer = guarded.get(path, headers=operator)
        assert answer.status_code == 200, path
        shown.append(answer.text)
    guarded.signal()
    _code, log = guarded.end()
    assert '"token": "web"' in log, "the log names who it was"
    for text in (*shown, log):
        for secret in (TOKEN, ADMIN, WRONG, ENCODED):
            assert secret not in text
        assert "5Ecret" not in text


def test_tokens_are_read_again_on_a_signal(guarded):
    """A new secret is used at once, and the old one is worth nothing; a mistake changes nothing."""

    def status(secret):
        headers = {"Authorization": f"Bearer {secret}"}
        return guarded.sql("select 1", headers=headers).status_code

    assert status(TOKEN) == 200
    guarded.token_file.write_text("[[token]]\n", encoding="utf-8")
    guarded.signal(signal.SIGHUP)
    guarded.wait_for("tokens_not_reloaded")
    assert status(TOKEN) == 200
    fresh = "tok-5Ecret-that-is-new"
    guarded.token_file.write_text(FILE.replace(TOKEN, fresh), encoding="utf-8")
    guarded.signal(signal.SIGHUP)
    until(lambda: status(fresh) == 200)
    assert status(TOKEN) == 400
    guarded.signal()
    assert "5Ecret" not in json.dumps(guarded.end()[1])


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
