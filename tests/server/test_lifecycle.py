"""From the first byte to the exit code: starting, stopping, and what goes wrong on the way."""

import contextlib
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import psutil
import psycopg
import pytest

from tests.server.processes import ServerProcess, active, barrier, sessions, until


def listen(host="127.0.0.1"):
    sock = socket.create_server((host, 0))
    return sock, sock.getsockname()[1]


def test_a_taken_port_is_one_clear_error(postgres):
    """Port, holder, what to do; and the database was never touched."""
    sock, port = listen()
    with sock, ServerProcess(f"--port={port}", database_url=postgres.url) as server:
        code, text = server.end()
    assert code == 1
    name = psutil.Process().name()
    assert text == (
        f"Cannot start server: port {port} on 127.0.0.1 is already in use by pid {os.getpid()} "
        f"({name}). Suggestion: stop that process or choose another port with --port.\n"
    )
    assert sessions(postgres.url) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "wr0ng"}, "password authentication failed"),
        ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
        ({"user": "nobody_here"}, "authentication failed"),
        ({"host": "no.such.host.invalid"}, "no.such.host.invalid"),
        ({"port": "1"}, "refused"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_clear_error(postgres, change, words):
    """The URL without its password, the cause, what to do; nothing stays open."""
    parts = psycopg.conninfo.conninfo_to_dict(postgres.url) | change
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**parts)
    with ServerProcess("--port=0", database_url=url) as server:
        code, text = server.end()
    message = text.splitlines()[-1]
    assert code == 1
    assert words in message
    assert "Suggestion: " in message
    assert ":***@" in message
    assert "Traceback" not in text
    assert parts["password"] not in text


@pytest.mark.parametrize(
    ("options", "env", "words"),
    [
        (["--database-url=mysql://a:hush@b/c"], {}, "scheme 'mysql'"),
        ([], {"POOL_MAX_SIZE": "many", "DATABASE_URL": "postgresql://a@b/c"}, "POOL_MAX_SIZE"),
        (["--host=0.0.0.0", "--database-url=postgresql://a@b/c"], {}, "POOLKEEPER_TOKEN"),
        (["--database-url=postgresql://a:hush@b/c?sslmod=require"], {}, '"sslmod"'),
        (["--cors-origin=example.com"], {}, "https://example.com"),
        ([], {"DATABASE_URL": ""}, "DATABASE_URL is set but empty"),
    ],
)
def test_a_wrong_call_exits_with_2(options, env, words):
    """Before anything is opened."""
    with ServerProcess("--port=0", *options, env=env) as server:
        code, text = server.end()
    assert code == 2
    assert words in text
    assert "Suggestion: " in text
    assert "hush" not in text
    assert "Traceback" not in text


def test_other_addresses_are_served_with_a_token_or_on_request(postgres):
    """Both are the operator's decision."""
    for options, env in (
        (["--insecure-no-auth"], {}),
        ([], {"POOLKEEPER_TOKEN": "t"}),
    ):
        with ServerProcess(
            "--port=0", "--host=0.0.0.0", *options, database_url=postgres.url, env=env
        ) as server:
            server.start()
            assert server.get("/livez").status_code == 200


def test_sigterm_lets_the_running_finish_and_turns_the_waiting_away(postgres):
    """The running statement has its answer, the queued ones a 503, and the exit code is 0."""
    options = ("--port=0", "--max-size=1", "--drain-timeout=60", "--statement-timeout=0")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        with ThreadPoolExecutor() as clients:
            with barrier(postgres.url):
                running = clients.submit(
                    server.sql, "select 'done' as word from pg_advisory_lock(77)"
                )
                until(lambda: active(postgres.url, "pg_advisory_lock(77)"))
                waiting = clients.submit(server.sql, "select 'too late'")
                until(lambda: server.get("/health").json()["database"]["pool"]["waiting"] == 1)
                server.signal(signal.SIGTERM)
                turned_away = waiting.result()
                assert not running.done()
            assert running.result().json()["rows"] == [{"word": "done"}]
        code, log = server.end()
    assert (code, turned_away.status_code) == (0, 503)
    assert turned_away.json()["code"] == "57P01"
    assert turned_away.json()["outcome"] == "not_executed"
    assert turned_away.headers["retry-after"] == "1"
    assert turned_away.headers["connection"] == "close"
    assert "Traceback" not in log
    assert sessions(postgres.url) == 0


def test_during_the_drain_delay_the_server_serves_but_is_not_ready(postgres):
    """So that a load balancer can take it out before it refuses connections."""
    with ServerProcess("--port=0", "--drain-delay=3", database_url=postgres.url) as server:
        server.start()
        assert server.get("/readyz").status_code == 200
        server.signal(signal.SIGTERM)
        server.wait_for("server_draining")
        assert (server.get("/readyz").status_code, server.get("/readyz").text) == (
            503,
            "draining\n",
        )
        assert server.sql("select 1").status_code == 200
        assert server.end()[0] == 0


def test_a_statement_that_outlasts_the_drain_is_ended(postgres):
    """Bounded: nobody waits for it longer than the drain timeout.

    Its connection is cut off before the server is asked to stop it, so its outcome is unknown.
    """
    with ServerProcess(
        "--port=0", "--drain-timeout=0.2", "--statement-timeout=0", database_url=postgres.url
    ) as server:
        server.start()
        with ThreadPoolExecutor() as clients:
            running = clients.submit(server.sql, "select pg_sleep(50)")
            until(lambda: active(postgres.url, "pg_sleep(50)"))
            server.signal(signal.SIGINT)
            answer = running.result()
        assert (answer.status_code, answer.json()["outcome"]) == (502, "unknown")
        assert server.end()[0] == 0
    assert sessions(postgres.url) <= 1


def test_a_second_signal_ends_at_once(postgres):
    """Whatever runs."""
    with ServerProcess(
        "--port=0", "--drain-timeout=60", "--statement-timeout=0", database_url=postgres.url
    ) as server:
        server.start()
        with ThreadPoolExecutor() as clients:
            running = clients.submit(server.sql, "select pg_sleep(50)")
            until(lambda: active(postgres.url, "pg_sleep(50)"))
            server.signal(signal.SIGTERM)
            server.wait_for("server_draining")
            server.signal(signal.SIGTERM)
            assert server.end()[0] == -signal.SIGTERM
            assert running.exception() is not None


def test_a_starting_server_says_so():
    """Not that it is shutting down, and no advice for people who write Python."""
    sock, port = listen()
    with sock:
        http, http_port = listen()
        http.close()
        url = f"postgresql://a:b@127.0.0.1:{port}/c"
        with ServerProcess(f"--port={http_port}", database_url=url) as server:
            silent, _address = sock.accept()
            with silent:
                server.url = f"http://127.0.0.1:{http_port}"
                answer = server.sql("select 1")
                server.signal()
                server.end()
    body = answer.json()
    assert (answer.status_code, body["code"]) == (503, "57P03")
    assert body["type"] == "urn:poolkeeper:problem:starting"
    assert body["message"].startswith("The server is starting. The request was not executed.")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_signal_while_the_pool_is_being_opened_ends_the_start(postgres):
    """The listening peer never answers; the start is given up, and the exit is clean."""
    sock, port = listen()
    with sock, ServerProcess("--port=0", database_url=f"postgresql://a:b@127.0.0.1:{port}/c") as s:
        silent, _address = sock.accept()
        with silent:
            s.signal(signal.SIGTERM)
            code, text = s.end()
    assert (code, "Traceback" in text) == (0, False)


@pytest.mark.slow
def test_a_killed_database_is_unhealthy_and_then_healthy_again(crashable_postgres):
    """While it is away nothing is executed and everybody is told so; then work goes on."""
    url = crashable_postgres.url
    env = {"POOL_OUTAGE_PATIENCE": "0"}
    with ServerProcess("--port=0", database_url=url, env=env) as server:
        server.start()
        assert server.sql("select 1").status_code == 200
        crashable_postgres.crash()
        until(lambda: server.get("/health").status_code == 503)
        health = server.get("/health").json()
        assert (health["status"], health["database"]["status"]) == ("unhealthy", "disconnected")
        assert server.get("/readyz").status_code == 503
        assert server.get("/livez").status_code == 200
        refused = server.sql("select 1")
        body = refused.json()
        assert (refused.status_code, body["outcome"]) == (503, "not_executed")
        assert body["code"] in {"08001", "57P03"}
        assert int(refused.headers["retry-after"]) >= 1
        crashable_postgres.start()
        until(lambda: server.get("/health").json()["status"] == "healthy")
        assert server.sql("select 1 as one").json()["rows"] == [{"one": 1}]
        assert server.get("/readyz").status_code == 200
        server.signal()
        assert server.end()[0] == 0
        assert {"database_connection_lost", "database_reconnected"} <= {
            json.loads(line)["event"] for line in server.lines if line.startswith("{")
        }


@pytest.mark.slow
def test_without_a_url_it_brings_its_own_database_and_keeps_the_data(tmp_path):
    """Started twice on one directory; PostgreSQL is gone with the server."""
    options = ("--port=0", f"--data-dir={tmp_path}/data")
    with ServerProcess(*options) as server:
        started = server.wait_for("server_started")
        server.url = started["urls"][0]
        assert started["data_dir"] == f"{tmp_path}/data"
        assert server.sql("create table kept as select 1 as a").status_code == 200
        server.signal()
        code, log = server.end()
        assert (code, "Traceback" in log) == (0, False)
    with ServerProcess(*options) as server:
        server.start()
        assert server.sql("select a from kept").json()["rows"] == [{"a": 1}]
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.signal()
        assert server.end()[0] == 0
    assert children
    assert not any(child.is_running() for child in children)


@pytest.mark.slow
def test_an_embedded_database_that_dies_is_started_again(tmp_path):
    """On the same port and data; the log names both, and nobody has to do anything."""
    options = ("--port=0", f"--data-dir={tmp_path}/data")
    with ServerProcess(*options, env={"POOL_OUTAGE_PATIENCE": "0"}) as server:
        server.start()
        assert server.sql("create table kept as select 1 as a").status_code == 200
        pid_file = tmp_path / "data" / "pgdata" / "postmaster.pid"
        postmaster = psutil.Process(int(pid_file.read_text().split("\n")[0]))
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: server.get("/health").json()["status"] == "unhealthy")
        exited = server.wait_for("embedded_postgres_exited")
        until(lambda: server.get("/health").json()["status"] == "healthy")
        assert server.sql("select a from kept").json()["rows"] == [{"a": 1}]
        assert (exited["level"], exited["data_dir"]) == ("error", f"{tmp_path}/data")
        assert exited["log_path"] == f"{tmp_path}/data/postgres.log"
        server.signal()
        assert server.end()[0] == 0


def test_a_data_directory_that_cannot_be_made_is_one_clear_error(tmp_path):
    """With the option that chooses another."""
    (tmp_path / "file").touch()
    with ServerProcess("--port=0", f"--data-dir={tmp_path}/file/data") as server:
        code, text = server.end()
    assert code == 1
    assert text.splitlines()[-1].endswith(
        "or choose another directory with --data-dir or POOLKEEPER_DATA_DIR."
    )
    assert "Traceback" not in text


def test_a_data_directory_that_is_not_used_is_mentioned(postgres, tmp_path):
    """With DATABASE_URL set, as the README sets it for programs, nothing embedded is started."""
    options = ("--port=0", f"--data-dir={tmp_path}/data")
    with ServerProcess(*options, database_url=postgres.url) as server:
        told = server.wait_for("data_dir_not_used")
        assert told["data_dir"] == f"{tmp_path}/data"
        assert "unset DATABASE_URL" in told["suggestion"]
    assert not (tmp_path / "data").exists()
