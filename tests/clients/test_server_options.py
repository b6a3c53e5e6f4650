"""The unmodified driver meets a server that is run in other ways than by default."""

import json
import shutil
import socket
import subprocess

import pytest

from tests.clients.node import DRIVERS, connection_string
from tests.server.processes import ServerProcess

WITH_DRIVER = pytest.mark.parametrize("driver", DRIVERS)


def serve(postgres, *options, **variables):
    server = ServerProcess("--port=0", *options, database_url=postgres.url, env=variables)
    server.database_url = postgres.url
    return server


def ask(node, server, **options):
    return json.loads(node.run("ask.mjs", env=node.environment(server, **options)))


ANSWER = {"rows": [{"answer": 42}]}


@WITH_DRIVER
def test_another_database_or_user_is_refused_by_name(node, server, driver):
    """As PostgreSQL does, and as Neon passes it on: 400 with a code."""
    right = connection_string(server.database_url)
    assert ask(node, server, driver=driver, DATABASE_URL=right) == ANSWER
    wrong_database = ask(node, server, driver=driver, DATABASE_URL=f"{right}x")
    assert (wrong_database["name"], wrong_database["code"]) == ("NeonDbError", "3D000")
    wrong_user = ask(node, server, driver=driver, DATABASE_URL=right.replace("//", "//not"))
    assert (wrong_user["name"], wrong_user["code"]) == ("NeonDbError", "28000")


def outage(node, crashable_postgres, *options, **more):
    with serve(crashable_postgres, *options, POOL_OUTAGE_PATIENCE="0.1") as server:
        server.start()
        crashable_postgres.stop()
        return ask(node, server, **more)


@WITH_DRIVER
def test_an_outage_is_in_the_message_and_has_no_code(node, crashable_postgres, driver):
    """The driver reads bodies of status 400 alone."""
    told = outage(node, crashable_postgres, driver=driver)
    assert told["name"] == "NeonDbError"
    assert told["message"].startswith("Server error (HTTP status 503): {")
    body = json.loads(told["message"].partition(": ")[2])
    assert (body["code"], body["outcome"]) == ("08001", "not_executed")
    assert body["retry_after"] >= 1
    assert "code" not in told


@WITH_DRIVER
def test_an_outage_may_be_told_in_a_way_the_driver_reads(node, crashable_postgres, driver):
    """As an error with a code, at the price of its status."""
    told = outage(node, crashable_postgres, "--neon-infra-status=400", driver=driver)
    assert (told["name"], told["code"]) == ("NeonDbError", "08001")
    assert "was not executed" in told["message"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """For this machine, trusted by nobody who is not told to."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed. Suggestion: apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificate")
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", key, "-out", chain, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return f"--tls-cert={chain}", f"--tls-key={key}", {"NODE_EXTRA_CA_CERTS": str(chain)}


@WITH_DRIVER
def test_tls_works_for_who_trusts_the_certificate(node, postgres, certificate, driver):
    """And for nobody else."""
    cert, key, trust = certificate
    with serve(postgres, cert, key) as server:
        server.start()
        assert server.url.startswith("https://")
        assert ask(node, server, driver=driver, **trust) == ANSWER
        assert ask(node, server, driver=driver)["cause"] == "DEPTH_ZERO_SELF_SIGNED_CERT"


@WITH_DRIVER
def test_an_application_that_knows_nothing_of_us_works_at_its_usual_port(
    node, postgres, certificate, driver
):
    """With `localhost` in its connection string, the driver asks https://localhost/sql."""
    try:
        socket.create_server(("127.0.0.1", 443)).close()
    except OSError as error:
        pytest.skip(f"port 443 cannot be had here: {error}")
    cert, key, trust = certificate
    with ServerProcess("--port=443", cert, key, database_url=postgres.url) as server:
        server.database_url = postgres.url
        server.start()
        url = connection_string(postgres.url).replace("db.example.com", "localhost")
        nothing = {"SQL_ENDPOINT": "", "DATABASE_URL": url}
        assert ask(node, server, driver=driver, **nothing, **trust) == ANSWER
