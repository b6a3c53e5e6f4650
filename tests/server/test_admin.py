"""What operators may do to a running server, and what they can see."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server.processes import ServerProcess, active, barrier, sessions, until


def command(server, verb, query="", **options):
    return server.client.post(f"{server.url}/admin/{verb}{query}", **options)


def state(server):
    return server.get("/status").json()["server"]["state"]


@pytest.fixture
def own(postgres):
    """A server that a test may pause and stop."""
    with ServerProcess(
        "--port=0", "--max-size=2", "--statement-timeout=0", database_url=postgres.url
    ) as process:
        process.database_url = postgres.url
        yield process.start()


def test_a_pause_waits_for_what_runs_and_holds_back_what_comes(own):
    """The answer comes when nothing runs; those held back are served after the resume."""
    with ThreadPoolExecutor() as clients:
        with barrier(own.database_url):
            running = clients.submit(own.sql, "select 'ran' as word from pg_advisory_lock(77)")
            until(lambda: active(own.database_url, "pg_advisory_lock(77)"))
            paused = clients.submit(command, own, "pause")
            until(lambda: state(own) == "paused")
            held_back = clients.submit(own.sql, "select 'served' as word")
            until(lambda: own.get("/health").json()["database"]["pool"]["waiting"] == 1)
            assert not paused.done()
        assert running.result().json()["rows"] == [{"word": "ran"}]
        answer = paused.result()
        assert answer.status_code == 200
        assert answer.json() | {"waiting": 1} == {
            "state": "paused",
            "paused": True,
            "draining": False,
            "active": 0,
            "waiting": 1,
        }
        assert not held_back.done()
        assert own.get("/readyz").status_code == 200
        assert command(own, "resume").json()["state"] == "serving"
        assert held_back.result().json()["rows"] == [{"word": "served"}]
    assert own.wait_for("server_paused")["level"] == "warning"
    assert own.wait_for("server_resumed")["paused_seconds"] > 0


def test_a_pause_that_is_not_reached_in_time_says_so_and_stays(own):
    """504, so that no script restarts the database under a statement."""
    with ThreadPoolExecutor() as clients, barrier(own.database_url):
        running = clients.submit(own.sql, "select from pg_advisory_lock(77)")
        until(lambda: active(own.database_url, "pg_advisory_lock(77)"))
        late = command(own, "pause", "?wait=0.05")
        assert (late.status_code, late.headers["content-type"]) == (504, "application/problem+json")
        assert (
            "1 requests still hold connections after 0.05 s. Suggestion: " in late.json()["detail"]
        )
        at_once = command(own, "pause", "?wait=0")
        assert (at_once.status_code, at_once.json()["active"]) == (202, 1)
        assert state(own) == "paused"
        command(own, "resume")
    assert running.result().status_code == 200


def test_a_pause_that_somebody_ends_is_told_to_who_waits_for_it(own):
    """409 instead of a success that would let the database be restarted."""
    with ThreadPoolExecutor() as clients:
        with barrier(own.database_url):
            running = clients.submit(own.sql, "select from pg_advisory_lock(77)")
            until(lambda: active(own.database_url, "pg_advisory_lock(77)"))
            waiting = clients.submit(command, own, "pause", "?wait=60")
            until(lambda: state(own) == "paused")
            command(own, "resume")
            assert waiting.result().status_code == 409
            assert "Suggestion: " in waiting.result().json()["detail"]
        assert running.result().status_code == 200


@pytest.mark.parametrize("wait", ["soon", "-1", "nan", "inf", "1e9"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(server, wait):
    """And nothing is paused."""
    answer = command(server, "pause", f"?wait={wait}")
    assert answer.status_code == 400
    assert f"wait='{wait}' is not a number of seconds" in answer.json()["detail"]
    assert state(server) == "serving"


def test_reconnect_replaces_every_connection(server):
    """Idle ones at once."""
    before = server.sql("select pg_backend_pid() as pid").json()["rows"][0]["pid"]
    assert command(server, "reconnect").status_code == 200
    after = server.sql("select pg_backend_pid() as pid").json()["rows"][0]["pid"]
    assert after != before


def test_a_drain_by_request_is_the_one_by_signal(own):
    """The running statement is answered, the exit code is 0, and a late SIGTERM does no harm."""
    with ThreadPoolExecutor() as clients:
        with barrier(own.database_url):
            running = clients.submit(own.sql, "select 'done' as word from pg_advisory_lock(77)")
            until(lambda: active(own.database_url, "pg_advisory_lock(77)"))
            answer = command(own, "drain")
            assert (answer.status_code, answer.json()["state"]) == (202, "draining")
            own.wait_for("server_draining")
            own.signal(signal.SIGTERM)
        assert running.result().json()["rows"] == [{"word": "done"}]
    code, log = own.end()
    assert (code, "Traceback" in log) == (0, False)
    assert sessions(own.database_url) == 0


def test_signals_pause_and_resume_as_those_of_pgbouncer(own):
    """SIGUSR1 and SIGUSR2."""
    own.signal(signal.SIGUSR1)
    until(lambda: state(own) == "paused")
    own.signal(signal.SIGUSR2)
    until(lambda: state(own) == "serving")
    assert own.sql("select 1").status_code == 200


def test_only_admins_steer_and_only_the_known_look(postgres):
    """The token of the command line is an admin's."""
    with ServerProcess(
        "--port=0", database_url=postgres.url, env={"POOLKEEPER_TOKEN": "s3cret"}
    ) as server:
        server.start()
        for path in ("pause", "resume", "reconnect", "drain"):
            assert command(server, path).status_code == 401
        assert server.get("/status").status_code == 401
        right = {"Authorization": "Bearer s3cret"}
        assert command(server, "pause", headers=right).status_code == 200
        assert command(server, "resume", headers=right).status_code == 200
        status = server.get("/status", headers=right)
        assert status.status_code == 200
        assert "s3cret" not in status.text


def test_pages_of_others_cannot_steer_a_server_without_a_token(server):
    """A browser would send the request without asking."""
    answer = command(server, "pause", headers={"Origin": "https://evil.example"})
    assert answer.status_code in {401, 403}
    assert state(server) == "serving"
    assert server.get("/admin/pause").status_code == 405


def test_status_shows_who_holds_what(own):
    """The running request with its statement, process and times; the waiting one without."""
    with ThreadPoolExecutor() as clients, barrier(own.database_url):
        for number in range(3):
            clients.submit(own.sql, f"select {number} from pg_advisory_lock(77)")
        until(lambda: active(own.database_url, "pg_advisory_lock(77)") == 2)
        document = until(
            lambda: (found := own.get("/status").json())["pool"]["cl_waiting"] == 1 and found
        )
    assert document["pool"]["sv_active"] == document["pool"]["cl_active"] == 2
    assert document["pool"]["pool_size"] == 2
    assert [row["state"] for row in document["running"]] == ["running", "running", "waiting"]
    for row in document["running"][:2]:
        assert "pg_advisory_lock(77)" in row["statement"]
        assert row["route"] == "/sql"
        assert isinstance(row["backend_pid"], int)
        assert row["held_seconds"] > 0
    assert document["running"][2]["backend_pid"] is None
    assert document["server"]["version"]
    assert document["server"]["client_connections"] >= 1
    assert document["statistics"]["waiting_requests"] == 1
    assert document["health"]["status"] in {"healthy", "degraded"}


def test_status_remembers_failures_and_shows_no_secrets(own):
    """Errors with their statement; the database's password nowhere."""
    own.sql("select no_such_column")
    document = own.get("/status").json()
    [error] = document["errors"]
    assert error["statement"] == "select no_such_column"
    assert (error["status"], error["route"]) == (400, "/sql")
    password = own.database_url.split(":")[2].split("@")[0]
    own.sql(f"select no_such_column -- {password}")
    text = own.get("/status").text
    assert password not in text
    assert "select no_such_column -- ***" in text


@pytest.mark.slow
def test_a_planned_restart_of_the_database_fails_no_request(crashable_postgres):
    """Pause, restart, resume, under twenty clients that never stop: each request is a 200."""
    url = crashable_postgres.url
    with ServerProcess("--port=0", "--max-size=5", database_url=url) as server:
        server.start()
        stop = False
        answers = []

        def client(number):
            while not stop:
                answers.append(server.sql("select $1::int as n", number).status_code)

        with ThreadPoolExecutor(20) as clients:
            futures = [clients.submit(client, number) for number in range(20)]
            try:
                until(lambda: len(answers) > 100)
                assert command(server, "pause").status_code == 200
                # Answers from before the pause may still be on their way to their clients.
                until(lambda: server.get("/status").json()["statistics"]["waiting_requests"] == 20)
                before = len(answers)
                crashable_postgres.crash()
                until(lambda: server.get("/health").status_code == 503)
                # A load balancer must not answer for those who wait.
                assert server.get("/readyz").status_code == 200
                crashable_postgres.start()
                assert len(answers) == before
                assert command(server, "reconnect").status_code == 200
                assert command(server, "resume").status_code == 200
                until(lambda: len(answers) > before + 100)
            finally:
                stop = True
                command(server, "resume")
            for future in futures:
                future.result()
        assert set(answers) == {200}
        assert len(server.get("/status").json()["outages"]) == 1
