"""Several server processes behind one port, started and stopped as one."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.server.processes import ServerProcess, active, barrier, sessions, until

# Each test starts three interpreters, so each does much.
pytestmark = pytest.mark.slow

OPTIONS = ("--port=0", "--processes=2", "--max-size=2", "--statement-timeout=0")


def pids(server):
    """The server processes that answer, by their number."""
    found = server.get("/status").json()["processes"]
    return {one["process"]: one["pid"] for one in found if "answer" in one}


def command(server, verb, query=""):
    return server.client.post(f"{server.url}/admin/{verb}{query}")


def states(server):
    found = server.get("/status").json()["processes"]
    return [one.get("answer", {}).get("server", {}).get("state") for one in found]


def test_two_processes_serve_one_port_and_stop_as_one(postgres):
    """Both work, each is in status and metrics, and SIGTERM leaves nothing behind."""
    with ServerProcess(*OPTIONS, database_url=postgres.url) as server:
        started = server.wait_for("server_started")
        server.url = started["urls"][0]
        assert started["processes"] == 2
        children = psutil.Process(server.process.pid).children()
        both = pids(server)
        assert set(both) == {0, 1}
        assert set(both.values()) <= {child.pid for child in children}
        # Whoever accepts first serves; new connections until each has.
        served = until(lambda: len(who_serves(server)) == 2 and who_serves(server))
        assert served == {0, 1}
        accept = {"Accept": "application/openmetrics-text"}
        families = {
            family.name: family
            for family in text_string_to_metric_families(
                server.get("/metrics", headers=accept).text
            )
        }
        requests = families["poolkeeper_http_requests"]
        assert {sample.labels["process"] for sample in requests.samples} == {"0", "1"}
        assert {sample.value for sample in families["poolkeeper_db_up"].samples} == {1.0}
        with ThreadPoolExecutor() as clients:
            with barrier(postgres.url):
                running = clients.submit(
                    server.sql, "select 'ran' as word from pg_advisory_lock(77)"
                )
                until(lambda: active(postgres.url, "pg_advisory_lock(77)"))
                server.signal(signal.SIGTERM)
                server.wait_for("server_draining")
            assert running.result().json()["rows"] == [{"word": "ran"}]
        code, log = server.end()
        assert (code, "Traceback" in log) == (0, False)
        assert not any(child.is_running() for child in children)
    assert sessions(postgres.url) == 0


def who_serves(server):
    """The processes that got some of twenty new connections."""
    found = set()
    for _ in range(20):
        with httpx.Client(timeout=60) as client:
            found.add(client.get(f"{server.url}/status").json()["server"]["process"])
    return found


def test_a_process_that_dies_is_replaced_and_joins_the_pause(postgres):
    """The other serves on; operators' verbs reach all, also those that come later."""
    with ServerProcess(*OPTIONS, database_url=postgres.url) as server:
        server.start()
        before = pids(server)
        paused = command(server, "pause")
        assert (paused.status_code, paused.json()["state"]) == (200, "paused")
        assert states(server) == ["paused", "paused"]
        os.kill(before[1], signal.SIGKILL)
        server.client.close()
        server.client = httpx.Client(timeout=60)
        exited = server.wait_for("server_process_exited")
        assert (exited["process_number"], exited["pid"], exited["exit_code"]) == (1, before[1], -9)
        until(lambda: set(pids(server)) == {0, 1})
        until(lambda: states(server) == ["paused", "paused"])
        after = pids(server)
        assert (after[0], after[1] == before[1]) == (before[0], False)
        with ThreadPoolExecutor() as clients:
            held_back = [clients.submit(server.sql, "select 1 as one") for _ in range(8)]
            until(lambda: server.get("/metrics").text.count("poolkeeper_paused{") == 2)
            assert command(server, "resume").json()["paused"] is False
            assert [one.result().status_code for one in held_back] == [200] * 8
        assert command(server, "reconnect").status_code == 200
        server.signal(signal.SIGUSR1)
        until(lambda: states(server) == ["paused", "paused"])
        server.signal(signal.SIGUSR2)
        until(lambda: states(server) == ["serving", "serving"])
        drained = command(server, "drain")
        assert (drained.status_code, drained.json()["draining"]) == (202, True)
        assert server.end()[0] == 0


def test_signals_for_running_processes_do_not_end_one_that_starts(postgres):
    """It has no handler for them yet; it is told of the pause once it is ready."""
    with ServerProcess(*OPTIONS, database_url=postgres.url) as server:
        until(psutil.Process(server.process.pid).children)

        def started():
            """They come at every moment of the start."""
            server.signal(signal.SIGHUP)
            server.signal(signal.SIGUSR1)
            return server.logged("server_started", "server_process_exited")

        [started] = until(started)
        assert started["event"] == "server_started"
        server.url = started["urls"][0]
        assert states(server) == ["paused", "paused"]
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0


def test_what_keeps_one_from_starting_is_said_once(postgres):
    """One message, its exit code, and nobody is left."""
    url = postgres.url.replace(f"/{postgres.name}", "/nowhere_at_all")
    with ServerProcess(*OPTIONS, database_url=url) as server:
        code, text = server.end()
    assert code == 1
    assert text.count('database "nowhere_at_all" does not exist') >= 1
    assert text.count("Suggestion: ") <= 2
    assert "Traceback" not in text


def test_pools_that_are_larger_than_the_database_are_worth_a_warning(postgres):
    """Each process has its own."""
    options = ("--port=0", "--processes=2", "--max-size=5000", "--reuse-port")
    with ServerProcess(*options, database_url=postgres.url) as server:
        server.start()
        [warning] = [
            record for record in server.records if record["event"] == "pools_larger_than_database"
        ]
        assert warning["connections_wanted"] == 10000
        assert "--max-size" in warning["suggestion"]
        # With a socket of its own each, the kernel spreads the connections.
        assert until(lambda: len(who_serves(server)) == 2)
        children = psutil.Process(server.process.pid).children()
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0
    assert not any(child.is_running() for child in children)


def test_without_their_supervisor_the_processes_end(postgres):
    """Nobody would ever stop them; and a second signal ends all at once."""
    with ServerProcess(*OPTIONS, database_url=postgres.url) as server:
        server.start()
        children = psutil.Process(server.process.pid).children()
        assert len(children) == 2
        server.signal(signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert (len(gone), alive) == (2, [])
    with ServerProcess(*OPTIONS, "--drain-timeout=60", database_url=postgres.url) as server:
        server.start()
        children = psutil.Process(server.process.pid).children()
        with ThreadPoolExecutor() as clients, barrier(postgres.url):
            running = clients.submit(server.sql, "select from pg_advisory_lock(77)")
            until(lambda: active(postgres.url, "pg_advisory_lock(77)"))
            server.signal(signal.SIGTERM)
            server.wait_for("server_draining")
            server.signal(signal.SIGTERM)
            assert server.end()[0] == -signal.SIGTERM
            gone, alive = psutil.wait_procs(children, timeout=60)
            assert alive == []
            assert running.exception() is not None
