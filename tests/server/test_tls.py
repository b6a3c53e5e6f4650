"""HTTPS, and a certificate that is renewed while the server serves."""

import shutil
import signal
import socket
import ssl
import subprocess

import httpx
import pytest

from poolkeeper.server.tls import Certificate, CertificateError
from tests.server.processes import ServerProcess, until

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None,
    reason="makes certificates with openssl, which is not installed: apt-get install openssl",
)


def make(folder, name, *, passphrase=None):
    """A certificate of its own for localhost."""
    folder.mkdir(exist_ok=True)
    chain, key = folder / "chain.pem", folder / "key.pem"
    encryption = ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *(*encryption, "-keyout", key, "-out", chain, "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return chain, key


def name_shown(port):
    """The name in the certificate that a new connection gets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port)) as sock,
        context.wrap_socket(sock) as encrypted,
    ):
        text = encrypted.getpeercert(binary_form=True)
    return next(name for name in ("first", "second") if name.encode() in text)


def test_a_renewed_certificate_is_shown_without_losing_a_connection(postgres, tmp_path):
    """SIGHUP reads it again; one that cannot be used is logged, and the old one stays."""
    chain, key = make(tmp_path, "first")
    options = ("--port=0", f"--tls-cert={chain}", f"--tls-key={key}")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        assert server.url.startswith("https://127.0.0.1:")
        port = int(server.url.rsplit(":", 1)[1])
        trust = ssl.create_default_context(cafile=chain)
        with httpx.Client(verify=trust, timeout=60) as client:
            body = {"query": "select 1 as one"}
            assert client.post(f"{server.url}/sql", json=body).json()["rows"] == [{"one": 1}]
            stream = next(iter(client._transport._pool.connections))
            make(tmp_path, "second")
            assert name_shown(port) == "first"
            server.signal(signal.SIGHUP)
            server.wait_for("server_reloaded")
            assert name_shown(port) == "second"
            key.write_text("garbage")
            server.signal(signal.SIGHUP)
            assert "Suggestion: " in server.wait_for("server_reload_failed")["error"]
            assert name_shown(port) == "second"
            assert client.post(f"{server.url}/sql", json=body).status_code == 200
            assert next(iter(client._transport._pool.connections)) is stream
        server.signal()
        assert server.end()[0] == 0


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    """With both names."""
    chain, _ = make(tmp_path / "a", "first")
    _, key = make(tmp_path / "b", "second")
    with pytest.raises(CertificateError, match="does not belong to the certificate") as refusal:
        Certificate(chain, key)
    assert str(key) in str(refusal.value)
    assert "Suggestion: " in str(refusal.value)


def test_files_that_hold_no_certificate_are_refused(tmp_path):
    """Absent, empty, swapped, or behind a passphrase."""
    chain, key = make(tmp_path / "a", "first")
    with pytest.raises(CertificateError, match=r"cannot be read: No such file.* Suggestion: "):
        Certificate(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.touch()
    for files in ((empty, key), (chain, empty), (key, chain), (chain, None)):
        with pytest.raises(CertificateError, match=r"no certificate with its key.* Suggestion: "):
            Certificate(*files)
    chain, key = make(tmp_path / "c", "first", passphrase="hush-hush")
    with pytest.raises(CertificateError, match=r"protected by a passphrase.* Suggestion: "):
        Certificate(chain, key)


def test_a_wrong_certificate_ends_the_start_before_anything_is_opened(postgres, tmp_path):
    """Exit code 2, one message."""
    for options in ((f"--tls-cert={tmp_path}/none",), (f"--tls-key={tmp_path}/none",)):
        with ServerProcess("--port=0", *options, database_url=postgres.url) as server:
            code, text = server.end()
        assert (code, "Traceback" in text) == (2, False)
        assert "Suggestion: " in text


def test_tokens_that_travel_in_clear_are_worth_a_warning(postgres, tmp_path):
    """Once, where others can listen; not with TLS, and not on loopback."""
    chain, key = make(tmp_path, "first")
    token = {"POOLKEEPER_TOKEN": "a-secret-of-some-length"}
    for options, warned in (
        (("--host=0.0.0.0",), True),
        (("--host=0.0.0.0", f"--tls-cert={chain}", f"--tls-key={key}"), False),
        ((), False),
    ):
        with ServerProcess("--port=0", *options, database_url=postgres.url, env=token) as server:
            server.start()
            until(lambda server=server: server.records)
            names = [record["event"] for record in server.records]
            assert ("tokens_travel_unencrypted" in names) is warned


def test_tokens_are_read_again_at_sighup(postgres, tmp_path):
    """The new one is let in, the old one no more."""
    path = tmp_path / "tokens.toml"

    def write(secret):
        path.write_text(f'[[token]]\nname = "app"\nsecret = "{secret}"\n')
        path.chmod(0o600)

    write("the-first-secret-of-it")
    with ServerProcess("--port=0", f"--token-file={path}", database_url=postgres.url) as server:
        server.start()
        first = {"Authorization": "Bearer the-first-secret-of-it"}
        second = {"Authorization": "Bearer the-second-secret-of-it"}
        assert server.get("/status", headers=first).status_code == 200
        write("the-second-secret-of-it")
        server.signal(signal.SIGHUP)
        server.wait_for("server_reloaded")
        assert server.get("/status", headers=first).status_code == 401
        assert server.get("/status", headers=second).status_code == 200
        # Not an admin's.
        assert server.client.post(f"{server.url}/admin/pause", headers=second).status_code == 403
        server.signal()
        _, log = server.end()
    assert "secret-of-it" not in log
